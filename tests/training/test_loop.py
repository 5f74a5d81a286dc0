"""The loop, around a step that does nothing but count."""

import io
import json
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from inf_former_jax.training.checkpoint import Checkpoints
from inf_former_jax.training.loop import (
    Interrupted,
    LoopConfig,
    Reporter,
    StopSignal,
    progress_bar,
    train,
)
from inf_former_jax.training.metrics import MetricsWriter, NonFiniteError
from inf_former_jax.training.objective import SUMS
from inf_former_jax.training.stalls import Stalls
from inf_former_jax.training.state import TrainState


def counting_step(state, batch, operators):
    """Step s has loss s, of weight s: means over several steps are weighted ones."""
    number = state.step + 1
    sums = dict.fromkeys(SUMS, 0) | {"loss": number * number, "correct": 1, "weight": number}
    checks = {"grad_norm": 10 * number, "memory_finite": jnp.isfinite(batch)}
    checks |= {"parameters_finite": True, "optimizer_finite": True}
    return state._replace(step=number), {k: jnp.float32(v) for k, v in (sums | checks).items()}


def run(
    folder,
    cfg=None,
    steps=5,
    done=0,
    batches=None,
    train_step=counting_step,
    figures=lambda step: {"loss": 0.5, "accuracy": 0.25},
    checkpoints=None,
    most_skipped=0,
):
    """(state, rows of metrics.jsonl, step of each evaluation)."""
    state = TrainState(jnp.array(done, jnp.int32), None, None, None, None)
    evaluated = []

    def evaluate(state):
        evaluated.append(int(state.step))
        return figures(int(state.step))

    batches = iter(np.zeros(100)) if batches is None else batches
    with MetricsWriter(folder) as writer:
        bar = progress_bar(Console(file=io.StringIO()))
        reporter = Reporter(writer, bar, tokens_per_step=7, most_skipped=most_skipped)
        cfg = cfg or LoopConfig(log_every=2, eval_every=3)
        given = train_step, batches, None, evaluate, reporter, checkpoints
        state = train(cfg, state, steps, *given)
    text = (folder / "metrics.jsonl").read_text()
    return state, [json.loads(line) for line in text.splitlines()], evaluated


def test_rows_and_evaluations_come_when_due_and_at_the_end(tmp_path, capsys):
    state, rows, evaluated = run(tmp_path)
    assert int(state.step) == 5 and evaluated == [3, 5]
    written = [f"{row['split']} {row['step']}" for row in rows]
    assert written == ["train 2", "train 3", "valid 3", "train 4", "train 5", "valid 5"]
    first, valid = rows[0], rows[2]
    np.testing.assert_allclose([first["loss"], first["accuracy"]], [5 / 3, 2 / 3])
    assert first["grad_norm"] == 20 and "kl" not in first
    np.testing.assert_allclose(first["tokens_per_second"] * first["seconds_per_step"], 7)
    assert valid == {"step": 3, "split": "valid", "loss": 0.5, "accuracy": 0.25}
    # Where nobody watches a bar, a line a row.
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_a_run_goes_on_from_its_step(tmp_path):
    taken = iter(np.zeros(100))
    state, rows, _ = run(tmp_path, done=3, batches=taken)
    assert int(state.step) == 5 and [row["step"] for row in rows] == [4, 5, 5]
    assert len(list(taken)) == 98


def test_a_finished_run_does_nothing(tmp_path):
    state, rows, evaluated = run(tmp_path, done=5, batches=iter([]))
    assert int(state.step) == 5 and rows == [] and evaluated == []


def test_the_time_limit_ends_with_a_row_and_an_evaluation(tmp_path):
    cfg = LoopConfig(log_every=50, eval_every=50, minutes=1e-9)
    state, rows, evaluated = run(tmp_path, cfg)
    assert int(state.step) == 1 and evaluated == [1]
    assert [row["split"] for row in rows] == ["train", "valid"]


def test_the_first_bad_step_is_named_although_nobody_looked(tmp_path):
    cfg = LoopConfig(log_every=10, eval_every=10)
    with pytest.raises(NonFiniteError, match=r"^step 7: NaN or infinity in memory$"):
        run(tmp_path, cfg, steps=9, done=3, batches=iter([0, 0, 0, np.nan, 0, np.inf]))
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def skipping_step(state, batch, operators):
    """As `counting_step`, but a batch that is not 0 is left out."""
    state, metrics = counting_step(state, jnp.zeros(()), operators)
    skipped = jnp.asarray(batch) != 0
    kept = {
        name: value if name.endswith("_finite") else jnp.where(skipped, 0, value)
        for name, value in metrics.items()
    }
    norm = jnp.where(skipped, 0.0, 3.0)
    return state, kept | {"skipped": skipped, "memory_norm": norm}


def test_updates_that_are_left_out_are_counted(tmp_path, capsys):
    """Two of four in the first row, one in the second; their losses do not count."""
    batches = iter([0, 1, 1, 0, 0, 1.0])
    cfg = LoopConfig(log_every=4, eval_every=10)
    _, rows, _ = run(tmp_path, cfg, 6, 0, batches, skipping_step, most_skipped=2)
    assert [row.get("skipped") for row in rows] == [2, 1, None]
    assert rows[0]["loss"] == pytest.approx((1 + 16) / 5) and rows[0]["memory_norm"] == 3
    assert "2 updates left out" in capsys.readouterr().out


def test_rows_without_a_whole_update_have_no_figures_of_one(tmp_path, capsys):
    """The norms are those of the last whole update; a row of none has neither norms nor a loss."""
    cfg = LoopConfig(log_every=2, eval_every=10)
    _, rows, _ = run(tmp_path, cfg, 4, 0, iter([0, 1, 1, 1.0]), skipping_step, most_skipped=3)
    assert rows[0]["grad_norm"] == 10 and rows[0]["memory_norm"] == 3
    assert rows[1]["loss"] is None and "grad_norm" not in rows[1] and "memory_norm" not in rows[1]
    assert "step      4 train: no loss" in capsys.readouterr().out


def test_a_run_tells_of_a_reader_and_a_device_that_it_waits_for(tmp_path, capsys, monkeypatch):
    """By a clock that a batch and a step turn."""
    now = [0.0]
    monkeypatch.setattr("inf_former_jax.training.loop.Stalls", lambda tell: Stalls(tell, clock))

    def clock():
        return now[0]

    def batches():
        for step in range(6):
            now[0] += 30 * (step == 3)
            yield 0.0

    def slow(state, batch, operators):
        now[0] += 40 * (int(state.step) == 4)
        return counting_step(state, batch, operators)

    run(tmp_path, LoopConfig(log_every=6, eval_every=9), 6, 0, batches(), slow)
    told = capsys.readouterr().out
    assert "step 3: waited 30.0 s for the reader, 0 s is usual" in told
    assert "step 4: waited 40.0 s for the device, 0 s is usual" in told


def test_too_many_in_a_row_end_the_run(tmp_path):
    """Also when a row of metrics comes between them."""
    cfg = LoopConfig(log_every=2, eval_every=10)
    batches = iter([0, 0, 1, 1, 1, 0.0])
    told = r"^step 5: NaN or infinity in 3 updates in a row; no checkpoint yet$"
    with pytest.raises(NonFiniteError, match=told):
        run(tmp_path, cfg, 6, 0, batches, skipping_step, checkpoints=Saved(9), most_skipped=2)


class Saved(Checkpoints):
    """Only counts."""

    def __init__(self, every=2, overdue=()):
        self.every, self._saved, self.whole = every, [], []
        self._overdue = iter(overdue)

    def overdue(self):
        return next(self._overdue, False)

    def save(self, step, state, metrics=None):
        self._saved.append(step)

    def wait(self):
        self.whole = [*self._saved]

    def steps(self):
        return self._saved


def test_a_checkpoint_that_is_overdue_is_saved_between_the_others(tmp_path):
    """With its row of metrics, and by updates as before."""
    saved = Saved(every=4, overdue=[False, True])
    _, rows, _ = run(tmp_path, LoopConfig(log_every=3, eval_every=9), 9, checkpoints=saved)
    assert saved.whole == [2, 4, 8, 9]
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8, 9, 9]


@pytest.mark.parametrize("bad", [2, 5])
def test_an_evaluation_that_is_not_finite_stops_the_run_unsaved(tmp_path, bad):
    """Also the last one; the last good checkpoint is named."""
    saved = Saved()

    def figures(step):
        return {"loss": np.nan if step == bad else 0.5, "accuracy": 0.25}

    kept = {2: "no checkpoint yet", 5: "the last good checkpoint is of step 4"}[bad]
    with pytest.raises(NonFiniteError, match=f"^step {bad}: .* in loss of validation data; {kept}"):
        run(tmp_path, LoopConfig(eval_every=2), figures=figures, checkpoints=saved)
    assert bad not in saved.steps()
    assert '"valid", "loss": null' not in (tmp_path / "metrics.jsonl").read_text()


def test_a_nan_of_the_last_update_is_not_saved_either(tmp_path):
    saved = Saved()
    named = r"^step 3: NaN or infinity in memory; the last good checkpoint is of step 2$"
    with pytest.raises(NonFiniteError, match=named):
        run(tmp_path, steps=3, batches=iter([0, 0, np.nan]), checkpoints=saved)
    assert saved.steps() == [2]


@pytest.mark.parametrize("at", [2, 5])
def test_a_signal_during_an_evaluation_waits_for_what_is_saved(tmp_path, at):
    """After the last update too, where no further step would see it. The handlers come back."""
    saved, before = Saved(), signal.getsignal(signal.SIGTERM)

    def figures(step):
        if step == at:
            signal.raise_signal(signal.SIGTERM)
        return {"loss": 0.5, "accuracy": 0.25}

    after = min(at + 1, 5)
    with pytest.raises(Interrupted, match=f"^SIGTERM after step {after}$"):
        run(tmp_path, LoopConfig(eval_every=2), figures=figures, checkpoints=saved)
    assert saved.whole[-1] == after and signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_kills():
    """Whatever handler was there before: it may be another that waits."""
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.received == "SIGTERM"
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"log_every": 0}, "log_every: found 0, accepted: a whole number ≥ 1"),
        ({"eval_every": -1}, "eval_every: found -1, accepted: a whole number ≥ 1"),
        ({"minutes": -0.5}, "minutes: found -0.5, accepted: a number ≥ 0"),
    ],
)
def test_impossible_loops_are_refused(change, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        LoopConfig(**change)
