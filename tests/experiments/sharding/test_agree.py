"""Tiny presets on meshes: all of them are there, they train, and what differs is told."""

import json

import jax
import numpy as np
import pytest

from experiments.catalogue import EXPERIMENTS
from experiments.results.sharding import agree_table, apart
from experiments.sharding import __main__ as command
from experiments.sharding import agree
from experiments.sharding.tiny import presets


def test_every_preset_is_one_of_the_tiny_ones():
    """Each once, and none that has lost its memory."""
    found = presets()
    names = [name for label, (_, others) in found.items() for name in (label, *others)]
    known = {
        f"{name}/{preset}": config
        for name, one in EXPERIMENTS.items()
        for preset, (_, config) in one.presets.items()
    }
    assert sorted(names) == sorted(known)
    for label, (config, others) in found.items():
        for name in (label, *others):
            for kind in ("long_term", "compressed"):
                had, has = (getattr(one.model, kind) for one in (known[name], config))
                assert (had is None) == (has is None)


def test_batches_differ_and_have_loss_in_two_segments():
    first, second = agree.batch(0, 24), agree.batch(1, 24)
    assert (first.tokens != second.tokens).any() and first.tokens.max() < 24
    assert (first.weights.sum((0, 2)) > 0).tolist() == [False, True, False, True]
    assert first.resets.any() and not first.valid.all()


@pytest.mark.slow
def test_a_mesh_trains_as_one_device(tmp_path, monkeypatch):
    """Losses fall from a known place, and the memory is that of the batches."""
    monkeypatch.setattr(agree, "MESHES", ((2, 2, 2),))
    options = ["--presets", "sorting/compressive", "--updates", "2", "--out", str(tmp_path)]
    command.main(["agree", *options])
    result = json.loads((tmp_path / "agree.json").read_text())
    (row,) = result["rows"]
    assert row["preset"] == "sorting/compressive" and set(row["meshes"]) == {"2×2×2"}
    assert 0 < apart(row["meshes"]["2×2×2"]) < 1e-10
    assert result["command"].startswith("python -m experiments.sharding agree --presets")


def test_what_differs_is_told(monkeypatch, capsys):
    """By how much of its size; the exit status is 1."""

    def course(config, begun, shape, updates):
        off = 2e-5 * (shape == (4, 1, 2))
        return agree.Course([4.0, 2.0 * (1 + off)], [np.ones(3), np.zeros(2) + off / 2]), []

    monkeypatch.setattr(agree, "course", course)
    monkeypatch.setattr(agree, "first_state", lambda config: None)
    with pytest.raises(SystemExit) as raised:
        command.main(["agree", "--presets", "sorting/vanilla"])
    assert raised.value.code == 1
    said = capsys.readouterr()
    assert said.err == "not as on one device\n"
    assert "| 0e+00 | 2e-05 | 0e+00 | 0e+00 | 0e+00 |" in said.out
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("name", ["losses", "memory"])
def test_what_is_no_number_does_not_agree(monkeypatch, name):
    """Of a preset that another one stands for, too."""
    nan = {"losses": [float("nan")], "memory": [np.array([1.0, np.nan])]}[name]

    def course(config, begun, shape, updates):
        whole = agree.Course([4.0], [np.ones(2)])
        return (whole if shape == (1, 1, 1) else whole._replace(**{name: nan})), []

    monkeypatch.setattr(agree, "course", course)
    monkeypatch.setattr(agree, "first_state", lambda config: None)
    with pytest.raises(SystemExit) as raised:
        command.main(["agree", "--presets", "sorting/paper-16k"])
    assert raised.value.code == 1


def test_an_unknown_preset_is_refused(capsys):
    with pytest.raises(SystemExit) as raised:
        command.main(["agree", "--presets", "sorting/paper-5k"])
    assert raised.value.code == 2
    found = "presets: found sorting/paper-5k, accepted: sorting/infinity-former, "
    assert found in capsys.readouterr().err


def test_the_table_names_what_is_not_divided():
    """By hand."""
    meshes = {
        "8×1×1": {"loss": 1e-16, "memory": 3e-16, "whole": []},
        "1×1×8": {"loss": 2e-15, "memory": 0.0, "whole": ["a", "b"]},
    }
    rows = [{"preset": "sorting/x", "others": ["recall/y"], "meshes": meshes}]
    known = {"device": "cpu", "commit": "c", "date": "2026-12-01", "rows": rows}
    row = agree_table([known]).splitlines()[2]
    assert row == "| `sorting/x` | `recall/y` | 3e-16 | 2e-15 | 1×1×8: 2 | cpu, c, 2026-12-01 |"
