"""Real processes that train together, on 127.0.0.1: what they compute, and how they end."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.faults.runs import TINY, figures, newest, start, start_all
from experiments.run.peers import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

#: The same, which prints the numbers of the rows that this process has made.
COUNTED = """
import sys
from experiments.sorting.__main__ import main
from experiments.sorting.task import Sorting
made, batch = set(), Sorting.batch
def counted(self, update, rows):
    made.update(rows.tolist())
    return batch(self, update, rows)
Sorting.batch = counted
main(sys.argv[1:])
print("rows", *sorted(made))
"""

TEXT = shlex.split("""
    gpt2-infinity-lasting --tokenizer bytes
    --model.vocab-size 258 --model.segment-len 8 --model.num-layers 1 --model.num-heads 2
    --model.head-dim 4 --model.d-model 8 --model.d-inner 16 --model.long-term.num-basis 8
    --model.long-term.num-samples 8 --model.long-term.bins 8 --batch-size 4 --segments 2
    --optim.steps 6 --optim.warmup-steps 1 --loop.log-every 2 --loop.eval-every 6
    --valid-characters 300 --sample 0
""")

#: A language model, with its own options in the place of the sorter's; it prints how many bytes of
#: tokens this process has read.
READING = (
    "-c",
    f"""
import sys
import numpy as np
from experiments.language_modeling.__main__ import main
from inf_former_jax.data.splits import TokenizedSplit
read, at = [], TokenizedSplit.at
def counted(self, places):
    read.append(np.size(places) * self.tokens.itemsize)
    return at(self, places)
TokenizedSplit.at = counted
main({TEXT!r} + sys.argv[{1 + len(TINY)}:])
print("bytes", sum(read))
""",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where programs are kept, so that the second start of a kind is quick."""
    return tmp_path_factory.mktemp("programs")


def begin(out, count, devices, cache, *options, **how):
    """Processes that train together, each with so many devices."""
    address = f"localhost:{free_port()}"
    together = ["--distributed", "--hosts.coordinator", address, "--hosts.processes", str(count)]
    together += ["--hosts.heartbeat", "5", "--hosts.timeout", "120"]
    lines = [[*options, *together, "--hosts.process", str(number)] for number in range(count)]
    return [start(out, *line, devices=devices, cache=cache, **how) for line in lines]


def ended(runs, *statuses):
    """What each of them said, of which the status is checked."""
    found = [run.wait() for run in runs]
    said = [run.said for run in runs]
    assert found == [*statuses], said
    assert "Traceback" not in "".join(said), said
    return said


def wait_for(out, step, runs):
    """Until a checkpoint of that step, or a later one, is whole."""
    assert runs[0].until(lambda: newest(out) >= step), [run.said for run in runs]


def test_two_processes_are_stopped_and_four_go_on(tmp_path, cache):
    """As one process with four devices would train; each makes its own rows only.

    SIGTERM comes to the second one alone: both save, and end with status 3.
    """
    out, alone = tmp_path / "together", tmp_path / "alone"
    two = start_all(out, processes=2, devices=2, cache=cache)
    wait_for(out, 10, two)
    two[1].stop(signal.SIGTERM)
    first, second = ended(two, 3, 3)
    assert "error: SIGTERM after step" in second and "error: a signal after step" in first
    saved = newest(out)
    assert 10 <= saved < 40
    four = begin(out, 4, 1, cache, program=("-c", COUNTED))
    said = ended(four, 0, 0, 0, 0)
    assert f"going on after update {saved}\n" in said[0] and "accuracy" in said[0]
    assert all("step " not in one for one in said[1:])
    assert [one.strip().splitlines()[-1] for one in said] == [f"rows {n}" for n in range(4)]
    ended([start(alone, devices=4, cache=cache)], 0)
    ours, theirs = figures(out), figures(alone)
    np.testing.assert_allclose(ours["norms"][5], theirs["norms"][5], rtol=1e-5)
    assert ours["norms"].keys() == theirs["norms"].keys() and len(ours["norms"]) == 8
    for a, b in zip(ours["valid"], theirs["valid"], strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)


@pytest.mark.parametrize("victim", [0, 1])
def test_who_is_killed_is_told_at_once(tmp_path, cache, victim):
    """Also to a process that waits in a sum for the one that is gone."""
    both = begin(tmp_path, 2, 2, cache, "--optim.steps", "4000")
    wait_for(tmp_path, 10, both)
    both[victim].stop(signal.SIGKILL)
    killed, other = time.monotonic(), both[1 - victim]
    (said,) = ended([other], 5)
    assert time.monotonic() - killed < 5 + 15  # the heartbeat, and what the issue allows
    gone = f"error: process {victim} of 2 is gone: its connection ended; the same command goes on"
    assert gone in said and "Check failure" not in said
    assert both[victim].wait() == -9


#: A sorter whose watch is slow, so that JAX's own client sees first that a process is gone.
SLOW = """
import sys, time
from experiments.run.peers import Watch
from experiments.sorting.__main__ import main
lost = Watch._lost
def late(self, number, why):
    time.sleep(3)
    lost(self, number, why)
Watch._lost = late
main(sys.argv[1:])
"""


def test_who_is_killed_is_told_although_jax_aborts(tmp_path, cache):
    """JAX's client aborts by itself, with lines of C++; the watch has some seconds more."""
    given = {"program": ("-c", SLOW)}
    both = begin(tmp_path, 2, 2, cache, "--optim.steps", "4000", **given)
    wait_for(tmp_path, 10, both)
    both[0].stop(signal.SIGKILL)
    assert [run.wait() for run in both] == [-9, 5], both[1].said
    assert "Terminating process" in both[1].said
    assert "error: process 0 of 2 is gone: its connection ended" in both[1].said


def test_an_abort_for_another_reason_is_one():
    """Some seconds later, and by the signal. Of those that are sent the second one ends it."""
    abort = "import os, time; from experiments.run import hosts; hosts._abort_later(); "
    for words in ("print(time.time(), flush=True); os.abort()", "os.kill(os.getpid(), 6); " * 2):
        given = [sys.executable, "-c", abort + words]
        done = subprocess.run(given, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert done.returncode == -signal.SIGABRT
        if done.stdout:
            assert time.time() - float(done.stdout) > 5.9


def test_who_stands_still_is_told_after_the_heartbeat(tmp_path, cache):
    """Once it goes on, it sees that it is alone."""
    both = begin(tmp_path, 2, 2, cache, "--optim.steps", "4000")
    wait_for(tmp_path, 10, both)
    both[1].stop(signal.SIGSTOP)
    begun = time.monotonic()
    (said,) = ended(both[:1], 5)
    assert 4 < time.monotonic() - begun < 5 + 15
    assert "error: process 1 of 2 is gone: it was silent for 5 s" in said
    both[1].stop(signal.SIGCONT)
    (said,) = ended(both[1:], 5)
    assert "error: process 0 of 2 is gone: its connection ended" in said


def test_what_one_host_refuses_ends_all(tmp_path, cache):
    """The folder is another run's: the first one says so, and the other does not wait for ever."""
    ended([start(tmp_path, "--optim.steps", "3", cache=cache)], 0)
    first, second = ended(begin(tmp_path, 2, 1, cache), 2, 5)
    assert "error: out: found" in first
    assert "error: process 0 of 2 is gone: its connection ended" in second


def test_nobody_comes(tmp_path, cache):
    options = ["--distributed", "--hosts.processes", "2", "--hosts.timeout", "2"]
    address = f"localhost:{free_port()}"
    options += ["--hosts.coordinator", address, "--hosts.process"]
    (second,) = ended([start(tmp_path, *options, "1", cache=cache)], 2)
    assert f"error: hosts.coordinator: found nobody at {address} after 2 s" in second
    (first,) = ended([start(tmp_path, *options, "0", cache=cache)], 2)
    missing = "found 1 of 2 processes after 2 s, accepted: all of them (missing: 1)\n"
    assert f"error: hosts: {missing}" in first


def test_documents_of_very_different_lengths(tmp_path, cache):
    """One text is a hundred times as long as another; the last batches are not full.

    Each process reads the bytes of its own rows, and no others.
    """
    rng, data = np.random.default_rng(0), tmp_path / "books"
    words = ["sea", "whale", "ship", "the", "of", "and", "a", "sail"]
    for split, sizes in {
        "train": (10, 1000, 30, 17, 200),
        "valid": (40, 7),
        "test": (300, 3),
    }.items():
        (data / split).mkdir(parents=True)
        for number, size in enumerate(sizes):
            (data / split / f"{number}.txt").write_text(" ".join(rng.choice(words, size)))
    given = ["--data", str(data), "--cache", str(tmp_path / "cache")]
    ours = ended(begin(tmp_path / "two", 2, 1, cache, *given, program=READING), 0, 0)
    theirs = ended([start(tmp_path / "one", *given, devices=2, cache=cache, program=READING)], 0)
    first, second, alone = (int(said.rsplit("bytes ", 1)[1]) for said in (*ours, *theirs))
    assert first + second == alone and first == second
    two, one = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("two", "one")
    )
    assert one["test"].keys() == two["test"].keys()
    for label, expected in one["test"].items():
        np.testing.assert_allclose(two["test"][label]["loss"], expected["loss"], rtol=1e-5)
