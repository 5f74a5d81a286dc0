"""SIGTERM and SIGINT end a command with exit status 3, from its first line to its last.

A command installs this before it imports JAX, which takes seconds. While a run trains,
`training.loop.StopSignal` takes its place: there a signal waits until the step is saved.
"""

import atexit
import contextlib
import os
import signal
import sys

#: The exit status.
INTERRUPTED = 3

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def install() -> None:
    """End this process with status 3 at a signal. Only for a process that is one command."""
    for number in _SIGNALS:
        signal.signal(number, _end)
    atexit.register(_ignore)  # the first one to be registered is the last one to be called


def _ignore() -> None:
    """The command is over. Python, while it ends, would give the signals back to the system."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, _frame: object) -> None:
    """End at once, as a kill does: every file is written whole or not at all.

    An exception instead could be swallowed by whatever library is at work.
    """
    with contextlib.suppress(Exception):  # the signal may have come in the midst of a print
        sys.stdout.flush()
    said = f"error: {signal.Signals(number).name}; the same command begins or goes on\n"
    with contextlib.suppress(OSError):
        os.write(2, said.encode())
    os._exit(INTERRUPTED)
