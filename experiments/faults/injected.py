"""The sorter with a fault inside its process, at one update: NaN, a reader that waits, a clock.

    python -m experiments.faults.injected KIND UPDATE [options of experiments.sorting]

Apart from the fault it is the run of the same options, whose folder `experiments.sorting` goes on
with. It is a program of its own, not imported by other code.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import dataclasses
import datetime
import sys
import time
from collections.abc import Sequence
from typing import Any, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import cli
from experiments.sorting.task import SORTING, Sorting
from inf_former_jax.data.batches import Batch
from inf_former_jax.require import require
from inf_former_jax.training import step
from inf_former_jax.training.state import TrainState

#: KIND → what it is.
KINDS = {
    "data": "the weights of a batch are NaN",
    "parameters": "the parameters are NaN before an update",
    "memory": "the memory is NaN before an update",
    "write": "what the memory is written with is NaN for an update",
    "reader": "the reader takes 9 seconds for a batch",
    "later": "the clock jumps 400 days ahead",
    "earlier": "the clock jumps 400 days back",
}
_SECONDS = 9.0
_JUMP = {"later": 400.0 * 86400, "earlier": -400.0 * 86400}


class Clock:
    """The clock of the wall, which may jump. Clocks that count on are not touched."""

    def __init__(self):
        self.shift = 0.0
        self._time, self._nanoseconds = time.time, time.time_ns

    def put_in_place(self) -> None:
        """Let all code of this process, orbax among it, read this clock."""
        clock, real = self, datetime.datetime

        class Jumping(real):
            @classmethod
            def now(cls, tz: Any = None):
                return real.fromtimestamp(clock.time(), tz)

        mock.patch.multiple(time, time=self.time, time_ns=self.time_ns).start()
        mock.patch.object(datetime, "datetime", Jumping).start()

    def time(self) -> float:
        """Seconds since 1970, as this clock has it."""
        return self._time() + self.shift

    def time_ns(self) -> int:
        """The same in nanoseconds."""
        return self._nanoseconds() + int(self.shift * 1e9)


def poisoned(tree: Any) -> Any:
    """The tree, in whose numbers NaN takes the place of every one that is not whole."""

    def nan(leaf: Any) -> Any:
        return leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(nan, tree)


class Step:
    """A training step into which NaN comes at an update."""

    def __init__(self, kind: str, at: int, whole: Any):
        self._kind, self._at, self._whole, self.lower = kind, at, whole, whole.lower

    def __call__(self, state: TrainState, batch: Any, operators: Any) -> Any:
        """The whole step, at the one update of what is not a number any more."""
        if int(state.step) == self._at:
            if self._kind == "parameters":
                state = state._replace(params=poisoned(state.params))
            elif self._kind == "memory":
                state = state._replace(memory=poisoned(state.memory))
            elif self._kind == "write":
                operators = poisoned(operators)
        return self._whole(state, batch, operators)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: KIND, UPDATE, and options of the sorter."""
    kind, at, *argv = [*(sys.argv[1:] if argv is None else argv), "", ""]
    argv = argv[:-2]
    with cli.refusals():
        require(kind in KINDS, "KIND", kind or "none", ", ".join(KINDS))
        require(at.isdecimal(), "UPDATE", at or "none", "a whole number")
    number, clock, make = int(at), Clock(), step.make_train_step
    if kind in _JUMP:
        clock.put_in_place()

    class Faulty(Sorting):
        def batch(self, update: int, rows: np.ndarray) -> Batch:
            batch = super().batch(update, rows)
            if update != number:
                return batch
            clock.shift = _JUMP.get(kind, 0.0)
            if kind == "reader":
                time.sleep(_SECONDS)
            weights = np.full_like(batch.weights, np.nan)
            return batch._replace(weights=weights) if kind == "data" else batch

    def faulty_step(*given: Any) -> Any:
        return Step(kind, number, make(*given))

    mock.patch.object(step, "make_train_step", faulty_step).start()
    task = cast(Any, Faulty)
    cli.main(dataclasses.replace(SORTING, task=task), __doc__, argv)


if __name__ == "__main__":
    main()
