"""Compiled programs are kept for the next process; a folder that cannot hold them costs a line."""

import os
import subprocess
import sys
import warnings

import jax
import pytest

from experiments.run import cli, process
from experiments.sorting.task import SORTING
from tests.docs.pages import ROOT


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Where compiled programs are kept; nothing of the session is changed."""
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return tmp_path / "inf_former_jax"


def test_programs_are_kept_in_the_users_folder(cache, capfd):
    process.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(cache) and cache.is_dir()
    assert capfd.readouterr().err == ""


def test_jaxs_own_folder_wins(cache):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = "/elsewhere"
    process.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere" and not cache.exists()


def test_a_file_or_an_unwritable_folder_in_its_place_costs_a_line(cache, capfd, monkeypatch):
    cache.write_bytes(b"a file")
    process.keep_programs()
    cache.unlink()
    cache.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    process.keep_programs()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "File exists), accepted" in lines[0] and "not writable" in lines[1]
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_oldest_programs_go_first(cache, monkeypatch):
    cache.mkdir()
    for age in range(4):
        (cache / str(age)).write_bytes(bytes(10))
        os.utime(cache / str(age), (1000 - age, 1000 - age))
    monkeypatch.setattr(process, "_MOST", 25)
    process.keep_programs()
    assert sorted(os.listdir(cache)) == ["0", "1"]


@pytest.mark.slow
def test_kept_and_damaged_programs_give_the_same_bits(tmp_path):
    """A second process reads what the first one wrote; a third one finds only garbage, and says so;
    a fourth one reads what the third one wrote in its place."""
    program = (
        "from experiments.run import process; process.begin(); import jax; "
        "f = jax.jit(lambda x: jax.numpy.tanh(x @ x.T).sum()); g = jax.jit(lambda x: x.sum() * 3); "
        "x = jax.numpy.arange(6.).reshape(2, 3) / 7; print(f(x).hex(), g(x).hex())"
    ).replace(".hex()", ".tobytes().hex()")
    own = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {name: text for name, text in os.environ.items() if not name.startswith("JAX")}
    said = []
    for _ in range(4):
        command = [sys.executable, "-c", program]
        environment |= own | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append((done.stdout, len(done.stderr.splitlines())))
        programs = list((tmp_path / "inf_former_jax").iterdir())
        assert len(programs) > 2
        if len(said) == 2:
            for path in programs:
                path.write_bytes(b"garbage")
    assert said == [(said[0][0], lines) for lines in (0, 0, 1, 0)]


def test_a_flag_keeps_none():
    kept = jax.config.jax_enable_compilation_cache
    try:
        cli.parse(SORTING, None, ["--no-keep-programs"])
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
