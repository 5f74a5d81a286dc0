"""The protocol of a kind of memory, which every schedule over segments goes by."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.content import ContentRead
from inf_former_jax.memory.state import LayerMemory
from inf_former_jax.models.all_segments import Course
from inf_former_jax.models.memory_read.layer import Projected
from inf_former_jax.models.segment import Segment

#: Diagnostics and terms of the loss, by name.
Info = dict[str, Any]


#: Projected queries [B, H, T, K], before any 1/√K and without position biases, and the logarithm
#: [H, B, T] of what their scores in the window sum to, None if it is not known.
Queries = tuple[Array, Array | None]


class Read(NamedTuple):
    """What queries find in a memory."""

    context: Float[Array, "B T E"] | None  # is added to local attention's output
    joined: ContentRead | None  # is joined to local attention's keys and values
    mass: Float[Array, "B D"] | None  # sticky: how much attention fell on each bin
    info: Info


class MemoryKind:
    """A kind of memory of one layer. Each kind overrides what it does of this.

    A pending segment is due before the next one reads (`Segment.due`): then it is written. What is
    written may be seen by local attention (`memory.state.window`) or be read by queries. After the
    segment its inputs are pushed onto the FIFO, and the memory is told where attention fell.
    """

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The memory with the pending segment written in the rows where it is due.

        Args:
            x: the layer's inputs, for a loss of the write; None where they are not known yet.
        """
        return memory, {}

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        queries: Queries,
        segment: Segment,
        course: Course,
    ) -> tuple[LayerMemory, LayerMemory]:
        """The writes of W segments: what each of them finds, rows [B·W], and what is there after.

        Args:
            found, after: with the FIFOs that belong there, but the kind's part as it was before.
        """
        return found, after

    def read(self, memory: LayerMemory, queries: Queries, segment: Segment) -> Read:
        """What queries find."""
        return Read(None, None, None, {})

    def project(self, memory: LayerMemory) -> Projected | None:
        """What all queries of a segment share, for one that is read in pieces."""
        return None

    def remember(self, memory: LayerMemory, mass: Float[AnyArray, "B D"] | None) -> LayerMemory:
        """The memory told where attention fell in the segment that has been read."""
        return memory


def combined(reads: Iterable[Read]) -> Read:
    """All reads as one: their contexts are added."""
    context, joined, mass, info = None, None, None, {}
    for read in reads:
        if read.context is not None:
            context = read.context if context is None else context + read.context
        joined = read.joined if joined is None else joined
        mass = read.mass if mass is None else mass
        info |= read.info
    return Read(context, joined, mass, info)
