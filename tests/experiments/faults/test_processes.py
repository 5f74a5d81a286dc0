"""Real processes: faults that happen to a run, which goes on."""

import random
import signal

import pytest

from experiments.faults.drill import MOMENTS, OTHERS
from experiments.faults.row import Bench
from experiments.faults.runs import (
    figures,
    finish,
    newest,
    undisturbed,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder in which all runs are."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(root):
    """A run that nobody stops."""
    return undisturbed(root)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, whole, number):
    """kill -9 after the first checkpoint, or a polite stop: every figure is the same."""
    out = tmp_path / "stopped"
    run = whole.start(out)
    assert run.until(lambda: newest(out) >= 10), run.said
    run.stop(number)
    assert run.wait() == (-9 if number == signal.SIGKILL else 3)
    assert not (out / "result.json").exists(), "the run was over before it was stopped"
    saved = newest(out)
    assert f"going on after update {saved}\n" in finish(whole.start(out))
    assert figures(out) == whole.figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill", "term"])
def test_a_run_may_be_stopped_at_any_moment(tmp_path, whole, name):
    """One moment here; `make drill` takes more."""
    _, fault = MOMENTS[name]
    row = fault(Bench(tmp_path, whole, 1, random.Random(3)))
    assert row.held and row.lost <= (0 if name == "term" else 20)


#: Of the other faults those that are quick, with what is to be said of each, and its exit status.
#: Which file is flipped is random, and nothing is to be said of one that no run reads.
QUICK = {
    "flipped": ("", 0),
    "limit": ("the same command goes on from the last good checkpoint", 4),
    "read-only-later": ("Permission denied: ", 4),
    "two-runs": ("which is in use by process N", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_told_and_the_run_goes_on_to_the_same_bits(root, whole, name):
    """`python -m experiments.faults` has all of them, and more often."""
    row = OTHERS[name](Bench(root, whole, 1, random.Random(5)))
    words, status = QUICK[name]
    assert words in row.told and row.statuses == [status]
    assert row.lost <= 20 and "the same bits" in row.then
