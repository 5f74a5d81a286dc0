"""The command that lists and repairs the checkpoints of a run, on a run of four updates."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.checkpoints import listing
from experiments.checkpoints.__main__ import main
from experiments.run import folders, training
from experiments.sorting.config import SortingConfig
from experiments.sorting.task import SORTING
from inf_former_jax.training.checkpoint import UNFINISHED, CheckpointError
from inf_former_jax.training.saved_steps import Step
from tests.damage import damaged
from tests.experiments.run.test_folders import TINY

PROVENANCE = {"experiment": "sorting", "preset": "transformer-xl", "commit": "0123456789ab"}


def finish(folder, config=TINY):
    """The result of a run, or of one that goes on."""
    with folders.open_run(folder, config):
        return training.run(SORTING, config, folder, PROVENANCE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, result) of a run with checkpoints of 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, finish(folder)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run."""
    return shutil.copytree(whole[0], tmp_path / "run")


def said(*argv):
    """(what the command prints, its exit status)"""
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main([str(word) for word in argv])
        except SystemExit as stopped:
            status = stopped.code
    return text.getvalue(), status


def contents(folder):
    """Name, time of change and bytes of everything below a folder."""
    paths = sorted(folder.rglob("*"))
    read = [path.read_bytes() if path.is_file() else None for path in paths]
    return [(path, path.stat().st_mtime_ns, raw) for path, raw in zip(paths, read, strict=True)]


def rows(text):
    """Cells of the table's rows."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def largest(step):
    """The file of a step that holds most of it."""
    return max(step.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


@pytest.mark.parametrize("argv", [(), ("--repair",)])
@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_whole_steps_are_listed_and_nothing_is_touched(run, argv, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(run.parent)
    before = contents(run)
    text, status = said(Path(run.name, place), *argv)
    first, second = rows(text)
    assert status == 0 and contents(run) == before
    assert [first[0], second[0]] == ["2", "4"] and first[3] == second[3] == "verified"
    assert sorted([first[4], second[4]]) == ["", "best"]
    assert first[5] == second[5] == "0123456789ab"
    assert "run/checkpoints of sorting transformer-xl" in text
    assert ("nothing to remove" in text) == bool(argv)
    assert "configuration" not in text


@pytest.mark.parametrize("how", [7, "cut", "missing"])
def test_a_damaged_file_is_named(run, how):
    path = largest(run / "checkpoints" / "4")
    name = path.relative_to(run / "checkpoints" / "4")
    with damaged(path, how):
        text, status = said(run)
    assert status == 1 and f"step 4 is damaged: {name}: " in text
    assert [row[3] for row in rows(text)] == ["verified", "damaged"]


def test_a_step_of_another_configuration_is_told_and_not_taken(run):
    """By each field that differs, also where it may change; a run refuses those that may not."""
    config = json.loads((run / "config.json").read_text())
    config["seed"], config["loop"]["eval_every"] = 5, 7
    (run / "config.json").write_text(json.dumps(config))
    (run / "result.json").unlink()
    text, status = said(run)
    every = TINY.loop.eval_every
    for step in (2, 4):
        assert f"step {step} is of another configuration: seed: 0 → 5" in text
        assert f"step {step} is of another configuration: loop.eval_every: {every} → 7" in text
    assert status == 0
    other = rf"^out: found {run}/checkpoints/4 with a checkpoint of another config: seed: 0 → 5, ac"
    with pytest.raises(CheckpointError, match=other):
        finish(run, dataclasses.replace(TINY, seed=5))
    loop = dataclasses.replace(TINY.loop, eval_every=7)
    (run / "config.json").write_text(json.dumps(config | {"seed": 0}))
    assert finish(run, dataclasses.replace(TINY, loop=loop))["steps"] == 4


def test_repair_removes_what_is_worth_nothing_and_the_run_goes_on(whole, run):
    """From the last good step, to the same bits."""
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "2", checkpoints / f"6{UNFINISHED}")
    shutil.copytree(checkpoints / "2", checkpoints / "damaged-2")
    path = largest(checkpoints / "4")
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    before = contents(checkpoints / "2")
    text, status = said(run, "--repair")
    assert status == 0 and contents(checkpoints / "2") == before
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2"]
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("removed")] == [
        ["removed", "damaged-2", "(set"],
        ["removed", "4", "(damaged,"],
        ["removed", f"6{UNFINISHED}", "(unfinished,"],
    ]
    assert said(run)[1] == 0
    (run / "result.json").unlink()
    again = finish(run)
    assert again["test"] == whole[1]["test"]
    for a, b in zip(
        jax.tree.leaves(training.load(SortingConfig, run)[2:]),
        jax.tree.leaves(training.load(SortingConfig, whole[0])[2:]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_the_last_ones_are_not_removed(run, capsys):
    """Where none is verified a person decides; what no run would look at goes all the same."""
    for step in ("2", "4"):
        largest(run / "checkpoints" / step).unlink()
    before = contents(run)
    assert said(run, "--repair")[1] == 2 and contents(run) == before
    refused = "error: repair: found 2, 4 damaged and no step verified, accepted: a folder with a"
    assert refused in capsys.readouterr().err
    for step in ("2", "4"):
        (run / "checkpoints" / step).rename(run / "checkpoints" / f"{step}{UNFINISHED}")
    assert said(run, "--repair")[1] == 0 and not list((run / "checkpoints").iterdir())


def test_a_run_that_is_going_on_is_named_and_not_repaired(run, capsys):
    (run / "checkpoints" / f"6{UNFINISHED}").mkdir()
    holds = "import fcntl, os, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True)"
    lock = run / folders.LOCK
    command = [sys.executable, "-c", f"{holds}; os.read(0, 1)", lock]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        before = contents(run)
        text, status = said(run)
        assert status == 0 and f"in use by process {os.getpid()} on " in text
        assert said(run, "--repair")[1] == 2 and contents(run) == before
        assert "repair: found " in capsys.readouterr().err
        holder.kill()
    assert said(run)[1] == 1
    assert said(run, "--repair")[1] == 0


def test_a_run_may_begin_while_its_checkpoints_are_listed(run, monkeypatch, capsys):
    """But not while they are repaired."""
    look, refused = listing.saved_steps.look, []

    def begins(folder):
        try:
            with folders.open_run(run, TINY):
                pass
        except ValueError as error:
            refused.append(str(error))
        return look(folder)

    monkeypatch.setattr(listing.saved_steps, "look", begins)
    assert said(run)[1] == 0 and not refused
    assert said(run, "--repair")[1] == 0 and "in use by process" in refused[0]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "DIR: found none, accepted: a run folder with checkpoints, or its folder of chec"),
        (["a", "b"], "DIR: found a b, accepted: a run folder"),
        (["nowhere"], "nowhere: found no folder, accepted: a run folder"),
        (["empty"], "empty: found no checkpoint, accepted: a run folder"),
        (["empty", "--repare"], "option: found --repare, accepted: --repair or what --help-all"),
        (["empty", "--repair=yes"], "repair: found yes, accepted: no value"),
        (["broken"], "broken/config.json: found damaged JSON"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(tmp_path, monkeypatch, capsys, argv, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert said(*argv) == ("", 2)
    line = capsys.readouterr().err
    assert line.startswith(f"error: {error}") and line.count("\n") == 1


def test_help_needs_no_jax():
    """So that it is there at once."""
    program = "import sys; from experiments.checkpoints.__main__ import main; main(['--help'])"
    program += "; assert not {'jax', 'orbax', 'inf_former_jax'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_best_is_the_runs_own():
    """The lowest of a figure that is better low, of the same ones the last."""

    def step(number, figure, higher):
        metrics = {} if figure is None else {"loss": figure}
        about = {"metrics": metrics, "best": "loss", "higher_is_better": higher}
        return Step(Path(str(number)), number, 0, None, "verified", (), about)

    for higher, figures, best in (
        (False, [2.0, 1.0, 3.0], 1),
        (True, [2.0, 1.0, 3.0], 2),
        (True, [3.0, 3.0, None], 1),
    ):
        steps = [step(number, figure, higher) for number, figure in enumerate(figures)]
        assert listing.best_of(steps) is steps[best]
    assert listing.best_of([step(1, None, True)]) is None


def test_a_run_is_found_by_any_path_to_its_checkpoints(run, tmp_path, monkeypatch):
    """Else its lock would not be looked for."""
    (tmp_path / "link").symlink_to(run / "checkpoints")
    monkeypatch.chdir(run / "checkpoints" / "4")
    for path in (Path(".."), tmp_path / "link", run / "checkpoints"):
        found = listing.place(path)
        assert found.run.resolve() == run.resolve() and found.config is not None
