"""Processes of several hosts hold a connection each to the first one, and see when one is gone.

They meet before they compute (`meet`): who is missing, and who came twice, is told within a set
time. From then on each one says every few seconds that it is there (`Watch`). One that ends
without a word, or is silent for too long, ends all of them: what they compute together would
otherwise wait for it for ever.
"""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from inf_former_jax.require import require

#: The exit status of a process whose peer is gone.
GONE = 5

#: What is said: one letter, and for _LOST the number of a process.
_HERE, _GOODBYE, _LOST = b".", b"q", b"x"
_HELLO, _WELCOME = "inf_former_jax", "welcome"

_LINE = 200  # bytes of a line of the meeting, at most


def free_port() -> int:
    """The number of a port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


class Peer:
    """A connection to another process."""

    def __init__(self, number: int, connection: socket.socket):
        self.number, self.connection = number, connection
        self.heard = time.monotonic()

    def say(self, word: bytes) -> None:
        """Send a word; a connection that has ended is seen by `Watch`, not here."""
        with contextlib.suppress(OSError):
            self.connection.sendall(word)


def meet(address: str, processes: int, process: int, seconds: float) -> list[Peer]:
    """Wait until all processes are there: the first one's connections to all, the others' to it.

    Afterwards the port is free again, for JAX's own service.

    Args:
        address: HOST:PORT of the first process.
        processes, process: how many there are, and this one's number, from 0.
        seconds: how long to wait.

    Raises:
        ValueError: not all are there in time, nobody answers, the port is another program's, a
            number came twice, or two processes do not agree on how many they are.
    """
    host, _, port = address.rpartition(":")
    right = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
    require(right, "hosts.coordinator", address, "HOST:PORT")
    deadline = time.monotonic() + seconds
    if process:
        return [Peer(0, _greet((host, int(port)), processes, process, deadline, seconds))]
    return _receive(int(port), processes, deadline, seconds)


def _receive(port: int, processes: int, deadline: float, seconds: float) -> list[Peer]:
    """The first process: connections to all others, in the order of their numbers."""
    found: dict[int, socket.socket] = {}
    problem = ""
    with contextlib.ExitStack() as held:
        try:
            server = held.enter_context(_listening(port, processes))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ValueError(
                f"hosts.coordinator: found port {port}: {reason}, accepted: a free port"
            ) from None
        while len(found) < processes - 1 and not problem:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = [n for n in range(1, processes) if n not in found]
                problem = (
                    f"hosts: found {len(found) + 1} of {processes} processes after {seconds:g} s, "
                    f"accepted: all of them (missing: {', '.join(map(str, missing))})"
                )
                break
            connection.settimeout(10)
            number, problem = _introduced(connection, processes, found)
            if number is None:
                connection.close()
            elif problem:
                _tell(connection, problem)
                connection.close()
            else:
                found[number] = connection
    for connection in found.values():
        _tell(connection, problem or _WELCOME)
    if problem:
        for connection in found.values():
            connection.close()
        raise ValueError(problem)
    return [Peer(number, found[number]) for number in sorted(found)]


def _listening(port: int, processes: int) -> socket.socket:
    """A socket at a port, by IPv4 and, where the system has it, IPv6."""
    if not socket.has_dualstack_ipv6():
        return socket.create_server(("", port), backlog=processes)
    options: Any = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    return socket.create_server(("", port), backlog=processes, **options)


def _introduced(
    connection: socket.socket, processes: int, found: dict[int, socket.socket]
) -> tuple[int | None, str]:
    """(the number that a newcomer has, what is wrong with it); no number of a stranger."""
    words = _line(connection).split()
    if len(words) != 3 or words[0] != _HELLO or not (words[1] + words[2]).isdecimal():
        return None, ""
    count, number = int(words[1]), int(words[2])
    if count != processes:
        return number, (
            f"hosts.processes: found {count} of process {number} and {processes} of process 0, "
            "accepted: the same of all"
        )
    if number in found:
        found_twice = f"two processes with the number {number}"
        accepted = f"each of 0 to {processes - 1} once"
        return number, f"hosts.process: found {found_twice}, accepted: {accepted}"
    return number, ""


def _greet(
    address: tuple[str, int], processes: int, process: int, deadline: float, seconds: float
) -> socket.socket:
    """Another process: its connection to the first one, which may not have begun yet."""
    named = f"{address[0]}:{address[1]}"
    reason = ""
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(address, timeout=1)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.1)
            continue
        _tell(connection, f"{_HELLO} {processes} {process}")
        connection.settimeout(max(1.0, deadline - time.monotonic()) + 5)  # it tells who is missing
        answer = _line(connection)
        if answer == _WELCOME:
            return connection
        connection.close()
        if answer.startswith("hosts"):
            raise ValueError(answer)
        if answer:
            raise ValueError(
                f"hosts.coordinator: found another program at {named}, accepted: process 0"
            )
        reason = "the connection ended"  # as of a process 0 that has just ended
        time.sleep(0.1)
    raise ValueError(
        f"hosts.coordinator: found nobody at {named} after {seconds:g} s ({reason}), accepted: "
        "the address of process 0, which runs the same command"
    )


def _tell(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(line.encode() + b"\n")


def _line(connection: socket.socket) -> str:
    """What comes until the end of the line; what came, of a connection that ended or is silent."""
    found = b""
    with contextlib.suppress(OSError):
        while not found.endswith(b"\n") and len(found) < _LINE:
            byte = connection.recv(1)
            if not byte:
                break
            found += byte
    return found.decode(errors="replace").strip()


class Watch:
    """A thread that ends this process with status 5 if another one is gone.

    The first process watches all others and tells them; they watch the first one.

    Args:
        heartbeat: seconds of silence after which a process counts as gone.
        end: what to do then, with the line to print; by default print it and end.
    """

    def __init__(
        self,
        peers: list[Peer],
        processes: int,
        heartbeat: float,
        end: Callable[[str], None] | None = None,
    ):
        self._peers, self._processes, self._heartbeat = list(peers), processes, heartbeat
        self._end = end or _end
        self._over = threading.Event()
        for peer in peers:
            peer.heard = time.monotonic()
            peer.connection.settimeout(heartbeat)
        self._thread = threading.Thread(target=self._run, name="watch of hosts", daemon=True)
        self._thread.start()

    def goodbye(self) -> None:
        """This process is about to end, as all of them are: nobody is to take it for gone."""
        self._over.set()
        self._thread.join()
        for peer in self._peers:
            peer.say(_GOODBYE)

    def settle(self) -> None:
        """Something failed. If it was because a peer is gone, wait until that ends this process."""
        self._thread.join(self._heartbeat)

    def _run(self) -> None:
        pause, said = min(1.0, self._heartbeat / 4), 0.0
        while self._peers and not self._over.is_set():
            if time.monotonic() - said >= pause:
                said = time.monotonic()
                for peer in self._peers:
                    peer.say(_HERE)
            for peer in self._ready(pause / 4):
                self._hear(peer)
            self._look_for_silence()

    def _ready(self, seconds: float) -> list[Peer]:
        """Those of whom there is something to hear."""
        by_socket = {peer.connection: peer for peer in self._peers}
        ready, _, _ = select.select(list(by_socket), [], [], seconds)
        return [by_socket[connection] for connection in ready]

    def _hear(self, peer: Peer) -> None:
        try:
            words = peer.connection.recv(1024)
        except OSError:
            words = b""
        peer.heard = time.monotonic()
        if not words:
            self._lost(peer.number, "its connection ended")
        elif _LOST in words:
            number, _, why = words[words.index(_LOST) + 1 :].partition(b" ")
            self._lost(int(number), why.decode())
        elif _GOODBYE in words:
            self._peers.remove(peer)

    def _look_for_silence(self) -> None:
        for peer in list(self._peers):
            silent = time.monotonic() - peer.heard
            if silent > self._heartbeat:
                self._lost(peer.number, f"it was silent for {silent:.0f} s")

    def _lost(self, number: int, why: str) -> None:
        for peer in self._peers:
            if peer.number != number:
                peer.say(_LOST + f"{number} {why}".encode())
        self._peers.clear()
        self._end(
            f"process {number} of {self._processes} is gone: {why}; "
            "the same command goes on from the last good checkpoint"
        )


def _end(line: str) -> None:
    """End at once, as a kill does: the main thread waits in a computation that never ends."""
    with contextlib.suppress(Exception):  # the main thread may be in the midst of a print
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"error: {line}\n".encode())
    os._exit(GONE)
