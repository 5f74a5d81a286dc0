"""Run folders: what is in them comes back; what is not a run is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.run import folders, training
from experiments.sorting import data
from experiments.sorting.config import PRESETS, SortingConfig
from experiments.sorting.task import SORTING
from inf_former_jax.memory import state
from inf_former_jax.models.decoder import operators
from tests.experiments.sorting.test_compare import shrunk
from tests.golden import jit


@pytest.mark.parametrize("name", list(PRESETS))
def test_configs_survive_json(name):
    """Nested dataclasses, tuples and absent parts; only the place is left out."""
    config = PRESETS[name][1]
    fields = json.loads(json.dumps(folders.to_json(config)))
    assert folders.from_json(SortingConfig, fields) == config
    assert not {"out", "fresh"} & fields.keys()


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


def test_a_loaded_run_is_the_run(tmp_path):
    """Its figures come out again from the loaded parameters, on a memory made from the config."""
    config = shrunk(PRESETS["transformer-xl"][1])
    config = dataclasses.replace(config, length=28)
    folders.open_run(tmp_path, config)
    result = training.run(SORTING, config, tmp_path, {})
    loaded, decoder, params, memory = training.load(SortingConfig, tmp_path)
    assert loaded == config and memory.seen.shape == (8,)
    alone_params = training.load(SortingConfig, tmp_path, ("params",))[2]
    alone_memory = training.load(SortingConfig, tmp_path, ("memory",))[3]
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
    folders.open_run(tmp_path, PRESETS["vanilla"][1])
    with pytest.raises(ValueError, match="found no checkpoint"):
        training.load(SortingConfig, tmp_path)


def test_a_folder_of_an_older_version_is_taken_with_the_defaults(tmp_path):
    """A field that did not exist yet had its default; one that differs is still refused."""
    config = PRESETS["infinity-former"][1]
    assert folders.open_run(tmp_path, config) is None
    old = json.loads((tmp_path / "config.json").read_text())
    del old["model"]["memory_gradient"], old["model"]["long_term"]["contraction"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert folders.open_run(tmp_path, config) is None
    with pytest.raises(ValueError, match=r"another config: seed: 0 → 1, accepted"):
        folders.open_run(tmp_path, dataclasses.replace(config, seed=1))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Under a file, and where the system denies it: option, found, accepted."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^out: found .*file/run \(Not a directory\), accepted: "):
        folders.open_run(tmp_path / "file" / "run", PRESETS["vanilla"][1])
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match=r"^out: found .*closed \(not writable\), accepted: "):
        folders.make(tmp_path / "closed")
