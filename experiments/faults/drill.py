"""The drill: every fault, or those that are asked for, on runs in a folder that is then removed."""

import dataclasses
import functools
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from experiments.faults.damage import cut, damaged, delete, flip
from experiments.faults.inside import clock_jump, nan, stalled_reader
from experiments.faults.machine import (
    full_disk,
    locked_before,
    locked_meanwhile,
    too_long,
    two_runs,
)
from experiments.faults.moments import stopped_at_moments
from experiments.faults.row import Bench, Row, attempted
from experiments.faults.runs import Undisturbed, undisturbed
from inf_former_jax.fields import Checked, Count, Natural, NonEmpty, Seed
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrillConfig(Checked):
    """Which faults, and how often."""

    moments: Natural = 3
    """Moments with kill -9, and as many with SIGTERM, of a run of one process; 0 = none."""
    moments_of_two: Natural = 1
    """The same of a run of two processes."""
    tries: Count = 1
    """How often each other fault happens."""
    faults: NonEmpty[str] = ("all",)
    """Names of faults; all = every one."""
    seed: Seed = 0
    """Of the moments, files and updates."""
    out: str = "runs/faults"
    """Folder of faults.json."""


_KILL = functools.partial(stopped_at_moments, signal.SIGKILL)
_TERM = functools.partial(stopped_at_moments, signal.SIGTERM)
_IN_NEWEST = "of the newest checkpoint"

#: Faults of a run of one process and of two: name → what computes the row.
MOMENTS: Mapping[str, tuple[int, Callable[[Bench], Row]]] = {
    "kill": (1, _KILL),
    "term": (1, _TERM),
    "kill-two": (2, _KILL),
    "term-two": (2, _TERM),
}

#: Other faults, of a run of one process.
OTHERS: Mapping[str, Callable[[Bench], Row]] = {
    "flipped": functools.partial(damaged, f"a flipped bit in a file {_IN_NEWEST}", flip),
    "cut": functools.partial(damaged, f"a file {_IN_NEWEST} cut short", cut),
    "deleted": functools.partial(damaged, f"a file {_IN_NEWEST} deleted", delete),
    "disk": full_disk,
    "limit": too_long,
    "nan-data": functools.partial(nan, "NaN in a batch", "data"),
    "nan-parameters": functools.partial(nan, "NaN in the parameters", "parameters"),
    "nan-memory": functools.partial(nan, "NaN in the memory between updates", "memory"),
    "nan-write": functools.partial(nan, "NaN in what the memory is written with", "write"),
    "reader": stalled_reader,
    "clock-later": functools.partial(clock_jump, "the clock jumps 400 days ahead", "later"),
    "clock-earlier": functools.partial(clock_jump, "the clock jumps 400 days back", "earlier"),
    "read-only": locked_before,
    "read-only-later": locked_meanwhile,
    "two-runs": two_runs,
}

#: Options of the drill's run beside those of `runs.TINY`: a row after each update says exactly how
#: many a kill has cost.
_ROWS = ("--loop.log-every", "1")


def check(cfg: DrillConfig) -> None:
    """Refuse names of faults that there are not.

    Raises:
        ValueError: naming the first.
    """
    known = ("all", *MOMENTS, *OTHERS)
    for name in cfg.faults:
        require(name in known, "faults", name, ", ".join(known))


def drill(cfg: DrillConfig, say: Callable[[str], None]) -> Iterator[Row]:
    """The row of each fault that the config asks for, once it is known.

    Args:
        say: takes a line about each try.
    """
    asked = [*OTHERS, *MOMENTS] if "all" in cfg.faults else cfg.faults
    with tempfile.TemporaryDirectory() as folder:
        runs = functools.cache(functools.partial(_undisturbed, Path(folder), say))
        for name in asked:
            processes, fault = MOMENTS.get(name) or (1, OTHERS[name])
            moments = cfg.moments if processes == 1 else cfg.moments_of_two
            tries = moments if name in MOMENTS else cfg.tries
            if tries:
                pick = random.Random(f"{cfg.seed} {name}")
                row = attempted(name, fault, Bench(Path(folder), runs(processes), tries, pick, say))
                say(f"{name}: {row.told}; {row.then}")
                yield row


def _undisturbed(root: Path, say: Callable[[str], None], processes: int) -> Undisturbed:
    """The run that faults are compared with."""
    whole = undisturbed(root, *_ROWS, processes=processes)
    say(f"undisturbed, processes {processes}: {whole.seconds:.1f} s")
    return whole


def broken(rows: Sequence[Row]) -> list[str]:
    """The faults after which something was not as it should be."""
    return [row.fault for row in rows if not row.held]
