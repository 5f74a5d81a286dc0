"""Real processes: stopped at any moment, and going on."""

import signal
import time

import pytest

from tests.experiments.run.drill import drill, figures, finish, newest, start, undisturbed


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
