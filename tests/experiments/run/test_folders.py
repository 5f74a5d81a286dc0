"""Run folders: what is in them comes back; what is not a run is refused."""

import dataclasses
import errno
import json
import math
import os
import shutil
import subprocess
import sys

import hypothesis
import jax
import numpy as np
import pytest

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.run import folders, training
from experiments.sorting import data
from experiments.sorting.config import PRESETS, SortingConfig
from experiments.sorting.task import SORTING
from inf_former_jax import files
from inf_former_jax.memory import state
from inf_former_jax.models.decoder import operators
from inf_former_jax.training.checkpoint import CheckpointConfig
from inf_former_jax.training.metrics import read_rows
from tests import damage
from tests.experiments.sorting.test_compare import shrunk
from tests.golden import jit


def opened(folder, config):
    """What is found when a run folder is opened, and closed again."""
    with folders.open_run(folder, config) as result:
        return result


def finished(folder, config):
    """The result of a whole run."""
    with folders.open_run(folder, config):
        return training.run(SORTING, config, folder, {})


@pytest.mark.parametrize("name", list(PRESETS))
def test_configs_survive_json(name):
    """Nested dataclasses, tuples and absent parts; only the place is left out."""
    config = PRESETS[name][1]
    fields = json.loads(json.dumps(folders.to_json(config)))
    assert folders.from_json(SortingConfig, fields) == config
    assert not {"out", "fresh"} & fields.keys()


def test_a_config_of_before_a_field_has_its_default():
    """A run that was begun before models could be Llamas goes on."""
    config = PRESETS["vanilla"][1]
    fields = folders.to_json(config)
    for name in ("num_kv_heads", "norm_kind", "norm_epsilon", "rope_theta"):
        del fields["model"][name]
    assert folders.from_json(SortingConfig, fields) == config


def test_a_config_of_another_version_is_refused():
    fields = folders.to_json(PRESETS["vanilla"][1]) | {"colour": 3}
    with pytest.raises(ValueError, match=r"^config.json: .*colour.*accepted: a SortingConfig"):
        folders.from_json(SortingConfig, fields)


def test_differences_name_nested_fields():
    old, new = {"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}, "d": {"e": 1}}
    assert folders.differences(old, new) == ["a.c: 2 → 3", 'd: null → {"e": 1}']


def test_numbered_folders(tmp_path):
    """run, run-2, run-3, …"""
    names = []
    for _ in range(3):
        free = folders.numbered(tmp_path / "run")
        free.mkdir()
        names.append(free.name)
    assert names == ["run", "run-2", "run-3"]


TINY = dataclasses.replace(
    shrunk(PRESETS["transformer-xl"][1]), length=28, checkpoint=CheckpointConfig(every=2)
)
TINY = dataclasses.replace(TINY, optim=dataclasses.replace(TINY.optim, schedule="constant"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, result) of a run of four updates, with checkpoints of 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, finished(folder, TINY)


def test_a_loaded_run_is_the_run(whole):
    """Its figures come out again from the loaded parameters, on a memory made from the config."""
    (folder, result), config = whole, TINY
    loaded, decoder, params, memory = training.load(SortingConfig, folder)
    assert loaded == config and memory.seen.shape == (8,)
    alone_params = training.load(SortingConfig, folder, ("params",))[2]
    alone_memory = training.load(SortingConfig, folder, ("memory",))[3]
    for whole, alone in ((params, alone_params), (memory, alone_memory)):
        for a, b in zip(*map(jax.tree.leaves, (whole, alone)), strict=True):
            np.testing.assert_array_equal(a, b)
    tokens, answers = data.generate(0, "test", range(8), 28)
    batch = data.batch(tokens, answers, 24)
    apply, fresh = jit(decoder.apply), state.init(config.model, 8)
    right = 0.0
    for w in range(batch.tokens.shape[1]):
        out = apply(
            {"params": params}, batch.tokens[:, w], fresh, operators=operators(config.model)
        )
        fresh = out.memory
        hits = np.asarray(out.logits).argmax(-1) == batch.targets[:, w]
        right += (hits * batch.weights[:, w]).sum() / batch.weights.sum()
    assert right == pytest.approx(result["test"]["as trained"]["accuracy"], abs=1e-6)


def test_what_is_no_run_is_refused(tmp_path):
    """No config, a damaged one, no checkpoint."""
    with pytest.raises(ValueError, match=r"found no config\.json, accepted: a run folder"):
        training.load(SortingConfig, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: found damaged JSON"):
        training.load(SortingConfig, tmp_path)
    (tmp_path / "config.json").unlink()
    opened(tmp_path, PRESETS["vanilla"][1])
    with pytest.raises(ValueError, match="found no checkpoint"):
        training.load(SortingConfig, tmp_path)


def test_a_folder_of_an_older_version_is_taken_with_the_defaults(tmp_path):
    """A field that did not exist yet had its default; one that differs is still refused."""
    config = PRESETS["infinity-former"][1]
    assert opened(tmp_path, config) is None
    old = json.loads((tmp_path / "config.json").read_text())
    del old["model"]["memory_gradient"], old["model"]["long_term"]["contraction"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert opened(tmp_path, config) is None
    with pytest.raises(ValueError, match=r"another config: seed: 0 → 1, accepted"):
        opened(tmp_path, dataclasses.replace(config, seed=1))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"seed": 0.0}, "wrong value type .*seed"),
        ({"loop": None}, "wrong value type .*loop"),
        ({"loop": {"minutes": "x"}}, r"wrong value type .*loop\.minutes"),
        ({"checkpoint": {"every": 0}}, r"0, accepted: a whole number ≥ 1"),
        ({"checkpoint": ...}, "nothing"),
        ({"loop": ...}, "nothing"),
        ({"model": ...}, "missing value .*model"),
        ({"colour": 1}, r"a config of another experiment or version \(colour\)"),
    ],
)
def test_a_damaged_config_is_refused_also_where_it_may_change(tmp_path, damage, found):
    config = PRESETS["vanilla"][1]
    opened(tmp_path, config)
    fields = folders.to_json(config) | damage
    whole = {name: value for name, value in fields.items() if value is not ...}
    files.write_json(tmp_path / "config.json", whole)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path}/config.json: .*found {found}") as refused:
        opened(tmp_path, config)
    assert len(str(refused.value)) < 300 + len(str(tmp_path)) and contents(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    run.write_text("")
    with pytest.raises(ValueError, match=f"^out: found {run}, which is a file, accepted: a folder"):
        opened(run, VANILLA)
    run.unlink()
    opened(run, VANILLA)
    (run / "checkpoints").write_text("")
    with pytest.raises(ValueError, match=f"^{run}/checkpoints: found no folder, accepted: "):
        opened(run, VANILLA)


def test_a_run_of_another_experiment_is_named_with_its_folder(tmp_path):
    opened(tmp_path, VANILLA)
    found = rf"^{tmp_path}/config.json: found a config of another experiment .*\(length, .*\), acc"
    with pytest.raises(ValueError, match=found):
        training.load(LanguageModelingConfig, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Under a file, and where the system denies it: option, found, accepted."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^out: found .*file/run \(Not a directory\), accepted: "):
        opened(tmp_path / "file" / "run", PRESETS["vanilla"][1])
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match=r"^out: found .*closed \(not writable\), accepted: "):
        folders.make(tmp_path / "closed")


@pytest.mark.parametrize("left", [(), (folders.LOCK,), ("config.json.partial-1", folders.LOCK)])
def test_what_a_kill_leaves_of_the_first_files_is_no_run(tmp_path, left):
    """The same command begins anew."""
    for name in left:
        (tmp_path / name).write_text("{")
    assert opened(tmp_path, VANILLA) is None
    assert folders.read_config(tmp_path) == folders.to_json(VANILLA)


def test_a_folder_belongs_to_one_process(tmp_path):
    """Another one is refused, also from within this process; a kill frees the folder."""
    with folders.open_run(tmp_path, VANILLA):
        used = f"^out: found {tmp_path}, which is in use by process {os.getpid()} on .*, accepted: "
        with pytest.raises(ValueError, match=used):
            opened(tmp_path, VANILLA)
    assert opened(tmp_path, VANILLA) is None
    program = "import fcntl, os, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True)"
    program += "; os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / folders.LOCK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(ValueError, match="in use by process"):
            opened(tmp_path, VANILLA)
        holder.kill()
    assert opened(tmp_path, VANILLA) is None


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unknown)
    assert opened(tmp_path, VANILLA) is None


def changed(**fields):
    """VANILLA with other fields, of its parts too: optim_steps=5."""
    parts = {name: getattr(VANILLA, name) for name in ("loop", "checkpoint", "optim")}
    whole = {}
    for name, value in fields.items():
        part, _, field = name.partition("_")
        if part in parts:
            parts[part] = dataclasses.replace(parts[part], **{field: value})
        else:
            whole[name] = value
    return dataclasses.replace(VANILLA, **parts, **whole)


VANILLA = PRESETS["vanilla"][1]
VANILLA = changed(loop_minutes=5.0, optim_steps=400)


def test_what_does_not_decide_the_updates_may_change(tmp_path):
    """It is noted, in the order of the changes; what was there before is the run's no more."""
    opened(tmp_path, VANILLA)
    assert folders.changes(tmp_path) == []
    one = changed(loop_minutes=7.0, checkpoint_keep=3, mesh_model=2, tensorboard=True)
    assert opened(tmp_path, one) is None
    assert opened(tmp_path, VANILLA) is None
    first = ["checkpoint.keep: 2 → 3", "loop.minutes: 5.0 → 7.0", "mesh_model: 1 → 2"]
    assert folders.changes(tmp_path)[:4] == [*first, "tensorboard: false → true"]
    assert folders.changes(tmp_path)[4:6] == ["checkpoint.keep: 3 → 2", "loop.minutes: 7.0 → 5.0"]
    assert folders.from_json(SortingConfig, folders.read_config(tmp_path)) == VANILLA


def test_updates_may_be_left_out_when_a_run_goes_on(tmp_path):
    """Those so far were whole; not to leave them out any more is another run."""
    opened(tmp_path / "run", VANILLA)
    assert opened(tmp_path / "run", changed(optim_skip_nonfinite=3)) is None
    with pytest.raises(ValueError, match=r"another config: optim.skip_nonfinite: 3 → 0, accepted"):
        opened(tmp_path / "run", VANILLA)


def test_more_updates_are_the_same_run_at_a_constant_rate_only(tmp_path):
    """A cosine depends on the number of updates from the first one on."""
    opened(tmp_path / "cosine", VANILLA)
    more = changed(optim_steps=500)
    with pytest.raises(ValueError, match=r"another config: optim.steps: 400 → 500, accepted"):
        opened(tmp_path / "cosine", more)
    constant, longer = (
        dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, schedule="constant"))
        for cfg in (VANILLA, more)
    )
    opened(tmp_path / "constant", constant)
    assert opened(tmp_path / "constant", longer) is None
    with pytest.raises(ValueError, match=r"another config: optim.steps: 500 → 400, accepted"):
        opened(tmp_path / "constant", constant)


def result_of(config, steps, seconds):
    run = {"settings": folders.to_json(config), "steps": steps, "training_seconds": seconds}
    return run | {"curve": [], "test": {}, "seconds_until": {}}


@pytest.mark.parametrize(
    ("steps", "minutes", "goes_on"),
    [(300, 5.0, False), (300, 5.01, True), (300, 0.0, True), (300, 4.0, False), (400, 9.0, False)],
)
def test_a_run_that_its_minutes_ended_goes_on_with_more(tmp_path, steps, minutes, goes_on):
    """Its result is kept under another name; one that has all updates is finished."""
    opened(tmp_path, VANILLA)
    folders.write_result(tmp_path, result_of(VANILLA, steps, 300.0))
    result = opened(tmp_path, changed(loop_minutes=minutes))
    assert (result is None) == goes_on == (tmp_path / f"result-{steps}.json").exists()
    assert goes_on or result["steps"] == steps
    assert (opened(tmp_path, changed(loop_minutes=minutes)) is None) == goes_on


def test_a_result_is_known_by_its_digest(tmp_path):
    """It comes back as strict JSON has it; one of version 0.2 had none."""
    given = result_of(VANILLA, 400, math.nan) | {"curve": [(1, 0.5, math.inf)], "∞": -0.0}
    folders.write_result(tmp_path, given)
    assert folders.read_result(tmp_path) == given | {
        "curve": [[1, 0.5, None]],
        "training_seconds": None,
    }
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace("400", "401", 1))
    with pytest.raises(ValueError, match=r"result.json: found other figures than were writ"):
        folders.read_result(tmp_path)
    folders.write_result(tmp_path, given | {"changes": []})
    path.write_text(path.read_text().replace("digest", "eigest"))
    with pytest.raises(ValueError, match=r"result.json: found other figures than were writ"):
        folders.read_result(tmp_path)
    old = result_of(VANILLA, 400, 1.0)
    path.write_text(json.dumps(old))
    assert folders.read_result(tmp_path) == old
    for name in old:
        for damaged in ({**old, name: None}, {key: old[key] for key in old if key != name}):
            path.write_text(json.dumps(damaged))
            with pytest.raises(ValueError, match=r"result.json: found other figures than were w"):
                folders.read_result(tmp_path)


def test_a_folder_is_called_by_its_preset(tmp_path):
    """If it is a finished run; else by its own name."""
    folder = tmp_path / "mine"
    folder.mkdir()
    assert folders.preset_of(folder) == "mine"
    folders.write_result(folder, result_of(VANILLA, 400, 1.0) | {"preset": "vanilla"})
    assert folders.preset_of(folder) == "vanilla"
    (folder / "result.json").write_text("{")
    assert folders.preset_of(folder) == "mine"


def test_the_result_of_another_config_is_refused(tmp_path):
    opened(tmp_path, VANILLA)
    folders.write_result(tmp_path, result_of(changed(seed=1), 400, 1.0))
    with pytest.raises(ValueError, match=r"the result of another config: seed: 1 → 0, accepted"):
        opened(tmp_path, VANILLA)


def test_a_run_that_goes_on_with_other_limits_is_the_long_run(whole, tmp_path):
    """Ended by its minutes after an update, then by its two updates, then whole: to the bit."""
    short = dataclasses.replace(TINY, loop=dataclasses.replace(TINY.loop, minutes=1e-9))
    assert finished(tmp_path, short)["steps"] == 1
    two = dataclasses.replace(TINY, optim=dataclasses.replace(TINY.optim, steps=2))
    assert opened(tmp_path, short)["steps"] == 1
    with pytest.raises(ValueError, match=r"optim.steps: 4 → 2, accepted"):
        opened(tmp_path, two)
    result = finished(tmp_path, TINY)
    assert result["steps"] == 4 and result["changes"] == ["loop.minutes: 1e-09 → 0.0"]
    assert result["test"] == whole[1]["test"]
    states = (f / "checkpoints" / "4" / "digest" / "metadata" for f in (tmp_path, whole[0]))
    assert len({path.read_text() for path in states}) == 1
    assert files.read_json(tmp_path / "result-1.json")["steps"] == 1


SMALL = ("config.json", "metrics.jsonl", "result.json", "lock")


def contents(folder):
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if path.name != folders.LOCK
    }


def assert_accepted_or_refused(folder, result, half):
    """Refused without a change, or the run is finished as it was, or goes on with its config."""
    before = contents(folder)
    found = damage.answer(lambda: (opened(folder, TINY),))
    if found is None:
        assert contents(folder) == before
        return
    assert found[0] in ((None,) if half else (None, result))
    assert folders.from_json(SortingConfig, folders.read_config(folder)) == TINY
    read_rows(folder / "metrics.jsonl")


def lay(folder, small):
    """A run folder without its checkpoints, from name → bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, raw in small.items():
        (folder / name).write_bytes(raw)
    return folder


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_a_damaged_run_folder_is_refused_unchanged_or_goes_on(whole, tmp_path, name, half):
    """Every file of a finished and of a half-finished run, in many ways."""
    result = folders.read_result(whole[0])
    small = {name: (whole[0] / name).read_bytes() for name in SMALL}
    if half:
        del small["result.json"]
    if name not in small:
        small[name] = b"{}"
    for how in damage.WAYS:
        folder = lay(tmp_path / "run", small)
        with damage.damaged(folder / name, how):
            assert_accepted_or_refused(folder, result, half)

    @hypothesis.settings(derandomize=True, max_examples=2 if name == "lock" else 20, database=None)
    @hypothesis.given(damage.bytes_of(small[name]))
    def fuzz(raw):
        assert_accepted_or_refused(lay(tmp_path / "run", small | {name: raw}), result, half)

    fuzz()


@pytest.mark.parametrize("how", damage.WAYS)
def test_a_damaged_run_is_not_loaded(whole, tmp_path, how):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((whole[0] / "config.json").read_bytes())
    (folder / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="found no checkpoint, accepted: "):
        training.load(SortingConfig, folder)
    with damage.damaged(folder / "config.json", how):
        assert damage.answer(lambda: training.load(SortingConfig, folder)) is None


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_at_the_first_file_leaves_a_folder_to_begin_in(tmp_path, monkeypatch, call):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if call == "open" else f"os.{call}", full)
        with pytest.raises((OSError, ValueError), match=r"(?i)no space left"):
            opened(tmp_path, VANILLA)
    assert opened(tmp_path, VANILLA) is None
