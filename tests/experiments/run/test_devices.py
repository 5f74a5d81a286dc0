"""How many devices a run takes; the 8 that tests pretend to have are never changed."""

import dataclasses
import shlex

import jax
import numpy as np
import pytest

from experiments.faults import runs
from experiments.run import cli, devices, folders, training
from experiments.sorting.config import PRESETS
from experiments.sorting.task import SORTING
from inf_former_jax.training.metrics import read_rows

TINY = shlex.split(
    "--model.num-layers 1 --model.d-model 16 --model.d-inner 16 --model.num-heads 2 "
    "--model.head-dim 8 --model.segment-len 24 --length 24 --batch-size 4 --test-sequences 8 "
    "--valid-sequences 8 --optim.steps 6 --optim.warmup-steps 2"
)


@pytest.mark.parametrize(
    "rows, model, most, count",
    [
        (16, 1, 2, 2),
        (15, 1, 2, 1),  # no even split
        (15, 1, 4, 3),
        (1, 1, 2, 1),
        (16, 1, 64, 4),  # 4 rows a device
        (256, 1, 64, 64),
        (6, 1, 2, 1),  # 3 rows a device
        (16, 2, 2, 2),  # both hold all rows
        (16, 2, 7, 4),
        (16, 3, 2, 1),  # refused later: no mesh has 3 of 1
    ],
)
def test_best(rows, model, most, count):
    assert devices.best(rows, model, most) == count


@pytest.mark.parametrize(
    "rows, fsdp, most, count",
    [(16, 2, 2, 2), (16, 4, 4, 4), (16, 4, 7, 4), (12, 2, 3, 2), (16, 3, 4, 1), (32, 3, 8, 1)],
)
def test_best_along_fsdp(rows, fsdp, most, count):
    """Those along fsdp have rows of their own; none is left over."""
    assert devices.best(rows, 1, most, fsdp) == count


def test_what_was_trained_anywhere_is_tested_here():
    """On a mesh and hosts that are not there; all else stays."""
    trained = dataclasses.replace(
        PRESETS["vanilla"][1], mesh_model=16, mesh_fsdp=4, devices=64, distributed=True, seed=3
    )
    expected = dataclasses.replace(PRESETS["vanilla"][1], seed=3, batch_size=4)
    assert devices.on_this_machine(trained, batch_size=4) == expected


def test_devices_of_the_user_stay():
    """conftest names 8 in XLA_FLAGS, and JAX has begun."""
    there = jax.device_count()
    devices.offer(3)
    assert jax.device_count() == there and not devices._offered


@pytest.fixture
def offered(monkeypatch):
    monkeypatch.setattr(devices, "_offered", [0])


def settled(batch_size, recorded=0, **changes):
    cfg = dataclasses.replace(PRESETS["vanilla"][1], batch_size=batch_size, **changes)
    cfg, note = devices.settled(cfg, recorded)
    return cfg.devices, note


def test_what_is_settled(offered):
    """Of 8 devices."""
    assert settled(32) == (8, "")
    assert settled(16)[0] == 4 and "4 for 8 cores, since a batch of 16" in settled(16)[1]
    assert settled(16, recorded=2) == (2, "")
    assert settled(16, recorded=9)[1].startswith("devices: 9 → 4; sums")
    assert settled(16, recorded=2, devices=1)[1].startswith("devices: 2 → 1; sums")
    assert settled(15, distributed=True) == (0, "")


def test_all_devices_that_were_not_offered_are_taken():
    assert settled(16, recorded=2)[0] == settled(15)[0] == 8


@pytest.mark.parametrize("changes", [{"devices": 9}, {"devices": 2, "distributed": True}])
def test_what_is_refused(changes):
    with pytest.raises(ValueError, match=r"devices: found .*accepted"):
        settled(16, **changes)


@pytest.mark.slow
def test_a_run_of_two_devices_has_the_figures_of_one(tmp_path, caplog):
    """From the command line to the result, which says how many devices it had.

    The step is compiled by another thread, and this one finds it: no log of this thread has it.
    """
    found = {}
    for count in (1, 2):
        words = ["vanilla", *TINY, "--devices", str(count)]
        preset, cfg = cli.parse(SORTING, None, words)
        with jax.log_compiles():
            found[count], over = cli.start(SORTING, preset, cfg, tmp_path / str(count), words)
        assert not over and folders.devices_before(tmp_path / str(count)) == count
    assert "compilation of jit(_fresh_state)" in caplog.text
    assert "compilation of jit(train_step)" not in caplog.text
    one, two = (run["test"]["as trained"] for run in found.values())
    assert two == pytest.approx(one, rel=1e-5)
    assert found[2]["settings"] == found[1]["settings"] | {"devices": 2}


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(tmp_path, capsys):
    """With eight, then with one, then with four: the losses are those of one alone."""

    def run(folder, steps, count):
        words = [*runs.TINY, "--batch-size", "8", "--optim.schedule", "constant"]
        words += ["--optim.steps", str(steps), "--devices", str(count), "--loop.log-every", "1"]
        preset, cfg = cli.parse(SORTING, None, words)
        cli.start(SORTING, preset, cfg, tmp_path / folder, words)
        rows = read_rows(tmp_path / folder / "metrics.jsonl")
        return {row["step"]: row["loss"] for row in rows if row["split"] == "train"}

    moved = [run("moved", steps, count) for steps, count in ((4, 8), (8, 1), (12, 4))][-1]
    said = capsys.readouterr().out
    assert "going on after update 4\n" in said and "going on after update 8\n" in said
    alone = run("alone", 12, 1)
    assert list(moved) == list(alone) == list(range(1, 13))
    np.testing.assert_allclose(list(moved.values()), list(alone.values()), rtol=1e-5)


@pytest.mark.parametrize("text, count", [("{}", 1), ('{"devices": 2}', 2), ('{"devices": "x"}', 0)])
def test_devices_of_a_run_that_goes_on(tmp_path, text, count):
    """One of an older version had one."""
    assert folders.devices_before(tmp_path) == 0
    (tmp_path / "config.json").write_text(text)
    assert folders.devices_before(tmp_path) == count


def test_few_steps_are_begun_at_once(monkeypatch):
    """Each step but the first eight waits for the one that was begun eight steps before."""
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    step = training._few_at_once(lambda number: (None, number))
    assert [step(number)[1] for number in range(12)] == [*range(12)]
    assert waited == [0, 1, 2, 3]
