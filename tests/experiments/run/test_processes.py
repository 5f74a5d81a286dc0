"""Real processes: stopped at any moment and going on, and two that train together."""

import signal
import socket
import time

import numpy as np
import pytest

from tests.experiments.run.drill import drill, figures, finish, newest, start, undisturbed

# Two programs of one machine find one another by these arguments instead of a cluster's.
TOGETHER = """
import sys, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), heartbeat_timeout_seconds=20)
from experiments.sorting.__main__ import main
main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stops."""
    return undisturbed(tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, whole, number):
    """kill -9 after the first checkpoint, or a polite stop: every figure is the same."""
    out = tmp_path / "stopped"
    process, deadline = start(out, cache=whole.cache), time.monotonic() + 200
    while newest(out) < 10:
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == (-9 if number == signal.SIGKILL else 3)
    assert not (out / "result.json").exists(), "the run was over before it was stopped"
    saved = newest(out)
    assert f"going on after update {saved}\n" in finish(start(out, cache=whole.cache))
    assert figures(out) == whole.figures


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_may_be_stopped_at_any_moment(tmp_path, whole, number):
    """One moment here; `make drill` takes more."""
    assert drill(tmp_path, whole, number, moments=1) == 1


def both(out):
    """What two processes said that ran the same command together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    programs = [("-c", TOGETHER, address, str(number)) for number in range(2)]
    return [finish(p) for p in [start(out, program=p, devices=2) for p in programs]]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """2 hosts × 2 devices against 4 devices of one: same data, same figures; one host writes."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    said = both(together)
    assert "accuracy" in said[0] and "step " not in said[1]
    assert "holds the finished run" in both(together)[0], "both must see that it is over"
    finish(start(alone, devices=4))
    ours, theirs = figures(together), figures(alone)
    assert ours["norms"].keys() == theirs["norms"].keys() and len(ours["norms"]) == 8
    for a, b in zip(ours["valid"], theirs["valid"], strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
    assert len((together / "metrics.jsonl").read_text().splitlines()) == 10
