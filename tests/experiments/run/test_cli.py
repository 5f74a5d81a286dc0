"""What ends a command early: one line on standard error, and a status of its own."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import cli
from inf_former_jax.files import Changed, Unwritable
from inf_former_jax.generate import NonFiniteState
from inf_former_jax.training.checkpoint import CheckpointError
from inf_former_jax.training.loop import Interrupted
from inf_former_jax.training.metrics import NonFiniteError

ROOT = Path(__file__).parents[3]


def ended(capsys, block, error):
    """(status, the line) of an error inside the block."""
    with pytest.raises(SystemExit) as stop, block():
        raise error
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("error: ")
    return stop.value.code, line


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/config.json.partial-1")
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
#: As tensorstore words it, in an error of Python's that orbax hands on.
STORED = ValueError("RESOURCE_EXHAUSTED: Failed to write 5 bytes: No space left on device [28]")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("tau: found 2, accepted: (0, 1)"), 2),
        (FileNotFoundError("x: found nothing, accepted: a file"), 2),
        (FULL, 4),
        (QUOTA, 4),
        (caused(ValueError("out: found x, accepted: a folder"), FULL), 4),
        (Unwritable("x: found file exists, accepted: a file"), 2),
        (NonFiniteState("logits of row 0 after 3 tokens: found nan, accepted: finite numbers"), 1),
    ],
)
def test_statuses_at_the_door(capsys, error, status):
    assert ended(capsys, cli.refusals, error)[0] == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NonFiniteError("step 3: NaN or infinity in loss"), 1),
        (NonFiniteState("logits of row 0 after 3 tokens: found nan, accepted: finite numbers"), 1),
        (Unwritable("x: found permission denied, accepted: a file"), 4),
        (Changed("tokens of the cache[1]: found 65535, accepted: a token id in 0..256"), 4),
        (CheckpointError("none of them is whole"), 2),
        (Interrupted("SIGTERM after step 3"), 3),
        (FULL, 4),
        (STORED, 4),
        (caused(RuntimeError("a thread ended"), caused(ValueError("write"), STORED)), 4),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/x/metrics.jsonl"), 4),
    ],
)
def test_statuses_of_a_run_that_ends_early(capsys, error, status):
    found, line = ended(capsys, cli.stops, error)
    assert found == status and ("the same command goes on" in line) == (status in (3, 4))


def test_what_is_no_known_end_stays_an_error():
    with pytest.raises(ZeroDivisionError), cli.stops():
        raise ZeroDivisionError


def test_a_signal_before_anything_is_imported_has_status_3():
    """Nothing is said but one line; a second signal is never needed."""
    program = (
        "from experiments.run import process; process.begin(); "
        "import os, signal, sys; assert 'jax' not in sys.modules; print('begun'); "
        "os.kill(os.getpid(), signal.SIGTERM); print('never')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "begun\n")
    assert done.stderr == "error: SIGTERM; the same command begins or goes on\n"


@pytest.mark.parametrize(
    "name", ["dialogue", "language_modeling", "passkey", "questions", "recall", "sorting"]
)
def test_every_command_of_runs_begins_with_that(name):
    source = (ROOT / "experiments" / name / "__main__.py").read_text(encoding="utf-8")
    code = source.split('"""', 2)[2].strip()
    begin = 'if __name__ == "__main__":  # before JAX is imported, which takes seconds\n'
    assert code.startswith(begin) and "process.begin()" in code
