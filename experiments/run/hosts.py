"""Several hosts run one command: they find one another, and end together."""

import atexit
import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.run.peers import Peer, Watch, free_port, meet
from inf_former_jax.fields import Checked, Count, Natural
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class HostsConfig(Checked):
    """How the processes of `--distributed` find one another."""

    coordinator: str = ""
    """HOST:PORT of the first process; "" = what Slurm, a TPU pod, OpenMPI or Kubernetes says."""
    processes: Natural = 0
    """How many there are, with a coordinator."""
    process: Natural = 0
    """The number of this one, from 0, with a coordinator."""
    timeout: Count = 300
    """Seconds to wait for all of them at the start."""
    heartbeat: Count = 60
    """Seconds of silence after which a process counts as gone, which ends the others."""


#: JAX's own heartbeat ends a process with a stack of C++: ours comes first.
_MUCH_LATER = 3

#: Seconds to meet, of processes that have found each other already.
_SECOND_MEETING = 30

_watch: Watch | None = None


def check(cfg: HostsConfig, distributed: bool) -> None:
    """Refuse options of hosts that do not fit together.

    Raises:
        ValueError: they do not.
    """
    given = cfg.coordinator or cfg.processes or cfg.process
    require(distributed or not given, "hosts", "options of hosts", "--distributed with them")
    if given:
        there = bool(cfg.coordinator)
        require(there, "hosts.coordinator", "none", "HOST:PORT of the first process")
        require(cfg.processes > 0, "hosts.processes", cfg.processes, "how many there are")
        fits = cfg.process < cfg.processes
        require(fits, "hosts.process", cfg.process, f"0 to {cfg.processes - 1}")


def join(cfg: HostsConfig) -> None:
    """Meet the other processes, begin JAX's distributed service, and watch them from then on.

    Raises:
        ValueError: they do not meet (`peers.meet`), or no cluster is found.
    """
    global _watch
    # JAX's own handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    seconds: Any = {
        "initialization_timeout": cfg.timeout,
        "heartbeat_timeout_seconds": _MUCH_LATER * cfg.heartbeat,
    }
    if cfg.coordinator:
        peers = meet(cfg.coordinator, cfg.processes, cfg.process, cfg.timeout)
        jax.distributed.initialize(cfg.coordinator, cfg.processes, cfg.process, **seconds)
    else:
        try:
            jax.distributed.initialize(**seconds)
        except ValueError:
            accepted = "a cluster that JAX knows, or --hosts.coordinator HOST:PORT"
            raise ValueError(f"distributed: found no cluster, accepted: {accepted}") from None
        peers = _meet_again(cfg)
    _watch = Watch(peers, jax.process_count(), cfg.heartbeat)
    if peers:
        _abort_later()
    atexit.register(_leave)  # before JAX's own, which waits for the others


def _abort_later() -> None:
    """Let a thread that aborts wait for some seconds, in which the watch may end the process.

    JAX's own client aborts as soon as its connection to the first process has ended, which it may
    see before the watch does. It takes a callback of C++ only. A SIGABRT that another program sends
    is waited for as well, once, and ends nothing: the next one does.
    """
    libc = ctypes.CDLL(None)
    once = getattr(libc, "sysv_signal", libc.signal)  # which forgets the handler when it is called
    once.argtypes = [ctypes.c_int, ctypes.c_void_p]
    # It is called with the number of the signal, and so sleeps for six seconds.
    once(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _meet_again(cfg: HostsConfig) -> list[Peer]:
    """The connections of processes that a cluster brought together, at an address of the first.

    Where the first one cannot be reached, as behind a firewall, the run goes on without them.
    """
    text = ""
    if not jax.process_index():
        text = f"{_own_name()}:{free_port()}"
    letters = np.zeros(256, np.uint8)
    letters[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    told = bytes(multihost_utils.broadcast_one_to_all(letters)).rstrip(b"\0").decode()
    seconds = min(cfg.timeout, _SECOND_MEETING)
    try:
        return meet(told, jax.process_count(), jax.process_index(), seconds)
    except ValueError as error:
        print(f"hosts are not watched: {error}", file=sys.stderr)
        return []


def _own_name() -> str:
    """A name of this host that others may know; localhost where it has none."""
    for name in (socket.getfqdn(), socket.gethostname()):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(name, None)
            return name
    return "localhost"


def goodbye() -> None:
    """All processes are about to end, for a reason that all of them know."""
    global _watch
    if _watch is not None:
        _watch.goodbye()
        _watch = None


def end(status: int) -> None:
    """End this process alone, if there are others: they see it, and end too."""
    if _watch is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Where a computation fails since a peer is gone, let the watch say so, and end the process."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if _watch is not None:
            _watch.settle()
        raise


def _leave() -> None:
    """The process ends without a goodbye, by an error: JAX would wait for the others."""
    end(1)
