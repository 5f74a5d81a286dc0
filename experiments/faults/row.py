"""Where a fault happens, and what it did, as a row of the table."""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.faults.runs import Broken, Undisturbed

SAME = "the same command: the same bits"


class Bench(NamedTuple):
    """Where a fault happens.

    Attributes:
        root: folder of runs.
        whole: the run that nobody disturbs, which lies in it.
        tries: how often the fault happens.
        pick: what is chosen at random.
        say: takes a line about a try.
    """

    root: Path
    whole: Undisturbed
    tries: int
    pick: random.Random
    say: Callable[[str], None] = lambda line: None

    def place(self, name: str) -> Path:
        """A path in the folder of runs where nothing is, not even of a try that was broken."""
        shutil.rmtree(self.root / name, ignore_errors=True)
        return self.root / name


class Row(NamedTuple):
    """What a fault did, all tries together.

    Attributes:
        lost: the most updates that were done again after one of the faults.
        told: the line that told of it.
        statuses: exit statuses of the run that it happened to.
        then: what came of the run.
        held: whether all was as it should be.
    """

    fault: str
    processes: int
    tries: int
    lost: int
    told: str
    statuses: Sequence[int]
    then: str
    held: bool = True

    def to_json(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return {**self._asdict(), "statuses": [*self.statuses]}


def attempted(name: str, fault: Callable[[Bench], Row], bench: Bench) -> Row:
    """The row of a fault; one that says what was broken, if something was."""
    try:
        return fault(bench)
    except Broken as error:
        bench.say(f"{name}: {error}")
        lines = " / ".join(str(error).splitlines()[-3:])
        return Row(name, bench.whole.processes, bench.tries, 0, lines, [], "BROKEN", held=False)


@contextlib.contextmanager
def trying(number: int) -> Iterator[None]:
    """Name the try in which something is broken."""
    try:
        yield
    except Broken as error:
        raise Broken(f"try {number}: {error}") from None
