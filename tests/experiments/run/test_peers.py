"""Processes that meet and watch each other, here as threads; hand-written cases."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.run import hosts, peers
from experiments.run.hosts import HostsConfig


@pytest.fixture
def address():
    return f"localhost:{peers.free_port()}"


def met(address, *callers, seconds=5.0):
    """What `meet` gives or raises for each (processes, process)."""

    def one(caller):
        try:
            return peers.meet(address, *caller, seconds)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(callers)) as pool:
        return list(pool.map(one, callers))


def close(found):
    for peer in found:
        peer.connection.close()


def test_all_meet_the_first_one_whoever_comes_first(address):
    third, second, first = met(address, (3, 2), (3, 1), (3, 0))
    assert [peer.number for peer in first] == [1, 2]
    assert [peer.number for peer in second + third] == [0, 0]
    close(first + second + third)


def test_the_port_is_free_again(address):
    """JAX's own service takes it, while the connections last."""
    (one,), (other,) = met(address, (2, 0), (2, 1))
    with socket.create_server(("", int(address.split(":")[1]))):
        one.say(b".")
        assert other.connection.recv(9) == b"."
    close([one, other])


def test_who_is_missing_is_told_to_those_who_are_there(address):
    first, second = met(address, (4, 0), (4, 2), seconds=0.5)
    assert (
        first
        == second
        == ("hosts: found 2 of 4 processes after 0.5 s, accepted: all of them (missing: 1, 3)")
    )


def test_a_number_that_comes_twice_is_told_to_all(address):
    first, *others = met(address, (3, 0), (3, 1), (3, 1))
    twice = "hosts.process: found two processes with the number 1, accepted: each of 0 to 2 once"
    assert [first, *others] == [twice] * 3


def test_processes_that_disagree_on_how_many_they_are(address):
    told = met(address, (2, 0), (3, 1))
    assert (
        told
        == ["hosts.processes: found 3 of process 1 and 2 of process 0, accepted: the same of all"]
        * 2
    )


def test_nobody_answers(address):
    (told,) = met(address, (2, 1), seconds=0.3)
    assert told.startswith(f"hosts.coordinator: found nobody at {address} after 0.3 s (")
    assert told.endswith("accepted: the address of process 0, which runs the same command")


def test_another_program_answers(address):
    with (
        socket.create_server(("", int(address.split(":")[1]))) as server,
        ThreadPoolExecutor() as pool,
    ):

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.0 400\n")
            connection.close()

        pool.submit(answer)
        (told,) = met(address, (2, 1))
    assert told == f"hosts.coordinator: found another program at {address}, accepted: process 0"


def test_the_port_is_taken(address):
    port = int(address.split(":")[1])
    with socket.create_server(("", port)):
        (told,) = met(address, (2, 0))
    expected = (
        f"hosts.coordinator: found port {port}: Address already in use, accepted: a free port"
    )
    assert told == expected


def test_a_stranger_does_not_disturb(address):
    """Neither one that says something else nor one that leaves at once."""
    with ThreadPoolExecutor() as pool:
        first = pool.submit(peers.meet, address, 2, 0, 5.0)
        for word in (b"GET / HTTP/1.0\r\n\n", b"inf_former_jax 2 one\n", b""):
            time.sleep(0.1)
            with socket.create_connection(("localhost", int(address.split(":")[1]))) as stranger:
                stranger.sendall(word)
        second = peers.meet(address, 2, 1, 5.0)
        close(first.result() + second)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":7", "a:b", "a:0", "a:65536"])
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match=r"^hosts.coordinator: found .*, accepted: HOST:PORT$"):
        peers.meet(address, 2, 0, 1.0)


class Watched:
    """What a watch says when it would end its process."""

    def __init__(self, found, processes=3, heartbeat=0.4):
        self.said, self._ended = [], threading.Event()
        self.watch = peers.Watch(found, processes, heartbeat, self._end)

    def _end(self, line):
        self.said.append(line)
        self._ended.set()

    def line(self):
        """The one line that it says, within five seconds."""
        assert self._ended.wait(5)
        (line,) = self.said
        return line


@pytest.fixture
def three(address):
    found = met(address, (3, 0), (3, 1), (3, 2))
    yield found
    for peers_of_one in found:
        close(peers_of_one)


AGAIN = "; the same command goes on from the last good checkpoint"


def test_a_connection_that_ends_is_told_to_all(three):
    first, second = Watched(three[0]), Watched(three[1])
    three[2][0].connection.close()
    expected = f"process 2 of 3 is gone: its connection ended{AGAIN}"
    assert first.line() == second.line() == expected


def test_the_end_of_the_first_one_is_seen_by_the_others(three):
    others = [Watched(three[1]), Watched(three[2])]
    close(three[0])
    expected = f"process 0 of 3 is gone: its connection ended{AGAIN}"
    assert [other.line() for other in others] == [expected] * 2


def test_silence_is_told_to_all(three):
    """Process 1 is there, but says nothing, as one that was stopped."""
    first, third = Watched(three[0]), Watched(three[2])
    assert first.line() == third.line() == f"process 1 of 3 is gone: it was silent for 0 s{AGAIN}"


def test_nobody_is_missed_who_says_something(three):
    all_of_them = [Watched(found) for found in three]
    time.sleep(1.2)  # three heartbeats
    assert not any(one.said for one in all_of_them)
    for one in all_of_them:
        one.watch.goodbye()


def test_after_a_goodbye_nobody_is_missed(three):
    """Whoever ends first: its connection ends, and the others go on for a while."""
    second, third, first = Watched(three[1]), Watched(three[2]), Watched(three[0])
    first.watch.goodbye()
    close(three[0])
    second.watch.goodbye()
    close(three[1])
    time.sleep(0.8)
    assert not first.said + second.said + third.said


@pytest.mark.parametrize(
    "options, distributed, told",
    [
        ({"coordinator": "a:1"}, False, "hosts: found options of hosts, accepted: --distributed"),
        ({"processes": 2}, True, "hosts.coordinator: found none, accepted: HOST:PORT of the first"),
        ({"coordinator": "a:1"}, True, "hosts.processes: found 0, accepted: how many there are"),
        (
            {"coordinator": "a:1", "processes": 2, "process": 2},
            True,
            "hosts.process: found 2, accepted: 0 to 1",
        ),
    ],
)
def test_options_that_do_not_fit_together(options, distributed, told):
    with pytest.raises(ValueError) as raised:
        hosts.check(HostsConfig(**options), distributed)
    assert str(raised.value).startswith(told)


def test_options_that_fit():
    hosts.check(HostsConfig(), False)
    hosts.check(HostsConfig(), True)
    hosts.check(HostsConfig(coordinator="a:1", processes=2, process=1), True)
