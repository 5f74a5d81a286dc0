"""Faults inside a run's process: NaN, a reader that waits, a clock that jumps."""

import shutil
from pathlib import Path

from experiments.faults.row import SAME, Bench, Row, trying
from experiments.faults.runs import Run, Undisturbed, finish, hold, kept, line_of, newest

_PROGRAM = ("-m", "experiments.faults.injected")


def _start(whole: Undisturbed, out: Path, kind: str, update: int) -> Run:
    return whole.start(out, program=(*_PROGRAM, kind, str(update)))


def nan(fault: str, kind: str, bench: Bench) -> Row:
    """NaN at a random update: the run ends with its step, and the same command goes on without it.

    Every sequence begins with an empty memory, so a NaN that stands in the memory between two
    updates harms nothing: such a run comes to its end, with the same bits.

    Raises:
        Broken: the run says nothing, or what is kept leads to other bits.
    """
    whole, tries, pick = bench[1:4]
    lost, told, statuses = 0, "nothing: no sequence reads it", set()
    for number in range(tries):
        out, update = bench.place(f"nan-{kind}"), pick.randrange(12, 40)
        with trying(number + 1):
            run = _start(whole, out, kind, update)
            status = run.wait()
            statuses.add(status or 0)
            if status == 0 and kind == "memory":
                whole.require_same(out)
            else:
                words = f"error: step {update + 1}: NaN or infinity in"
                hold(status == 1 and words in run.said, f"status {status}: {run.said}")
                hold(run.said.count("error: ") == 1, run.said)
                saved = newest(out)
                hold(f"the last good checkpoint is of step {saved}" in run.said, run.said)
                lost, told = max(lost, update - saved), line_of(run.said, "error:")
                begun, _ = whole.goes_on(out)
                hold(begun == saved, f"goes on after {begun} of {saved}")
        shutil.rmtree(out)
    then = "goes on: the same bits" if statuses == {0} else SAME
    return Row(fault, 1, tries, lost, told, sorted(statuses), then)


def stalled_reader(bench: Bench) -> Row:
    """A reader that takes 9 seconds for a batch: a line says so, and nothing else happens.

    Raises:
        Broken: no line, or other bits.
    """
    whole, tries, pick = bench[1:4]
    told = ""
    for number in range(tries):
        out = bench.place("stalled")
        with trying(number + 1):
            said = finish(_start(whole, out, "reader", pick.randrange(15, 35)))
            hold(said.count(" s for the reader, ") == 1, said)
            whole.require_same(out)
        told = line_of(said, "for the reader")
        shutil.rmtree(out)
    return Row("stalled reader", 1, tries, 0, told, [0], "goes on: the same bits")


def clock_jump(fault: str, kind: str, bench: Bench) -> Row:
    """A clock that jumps by 400 days: nothing goes by it, so the same checkpoints are kept.

    Raises:
        Broken: other checkpoints, or other bits.
    """
    whole, tries, pick = bench[1:4]
    for number in range(tries):
        out = bench.place(f"clock-{kind}")
        with trying(number + 1):
            finish(_start(whole, out, kind, pick.randrange(5, 35)))
            whole.require_same(out)
            hold(kept(out) == whole.kept, f"kept {kept(out)} for {whole.kept}")
        shutil.rmtree(out)
    told = "nothing: nothing goes by that clock"
    return Row(fault, 1, tries, 0, told, [0], "goes on: the same bits")
