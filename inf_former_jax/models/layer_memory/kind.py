"""The protocol that every kind of memory answers, whatever the schedule over segments is.

    write    a segment that is due, before the next one reads
    window   vectors that local attention sees beside the segment's own
    read     a context that is added to local attention's output
    push     what the memory takes of a segment, after it has read

A layer that is run segment by segment asks for these four in this order. An open segment, which is
read token by token, is written to the memory and sees its window when it is opened, reads with each
piece of tokens, and is pushed when it is full. All segments at once share one `write_all`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import LayerMemory
from inf_former_jax.models.all_segments import History
from inf_former_jax.models.segment import Segment

#: Diagnostics and terms of the loss, by name.
Info = dict[str, Any]


class Read(NamedTuple):
    """What queries find in a memory."""

    context: Float[Array, "B T E"] | None  # is added to local attention's output
    mass: Float[Array, "B D"] | None  # how much attention fell on each bin; sticky memories only
    info: Info


class MemoryKind:
    """A kind of memory of one layer. This one keeps nothing; a kind overrides what it does."""

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The memory with the pending segment written in the rows where it is due.

        Args:
            x: the layer's inputs, for losses of the write; None where they are not known yet.
        """
        return memory, {}

    def window(self, memory: LayerMemory) -> Float[Array, "B S E"] | None:
        """Vectors whose keys and values the next segment sees, oldest first; None = no such."""
        return None

    def read(self, memory: LayerMemory, q: Float[Array, "B H T K"], segment: Segment) -> Read:
        """What projected queries find, before any 1/√K and without position biases."""
        return Read(None, None, {})

    def push(
        self, memory: LayerMemory, x: Float[AnyArray, "B T E"] | None, mass: Array | None
    ) -> LayerMemory:
        """The memory after a segment of inputs x, whose queries' attention was `mass`."""
        return memory

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        history: History,
        q: Float[Array, "BW H T K"],
        segment: Segment,
    ) -> tuple[LayerMemory, LayerMemory]:
        """(the memory as each of W segments reads it, rows [B·W]; the memory after all of them).

        Args:
            found, after: the memory before the first segment, of which a kind replaces its part.
            history: the FIFO and the layer's inputs, detached.
        """
        return found, after


@dataclasses.dataclass(frozen=True)
class MemoryKinds(MemoryKind):
    """All kinds of memory of a layer, one after the other."""

    kinds: tuple[MemoryKind, ...]

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The memory after all writes."""
        info: Info = {}
        for kind in self.kinds:
            memory, more = kind.write(memory, segment, x)
            info |= more
        return memory, info

    def window(self, memory: LayerMemory) -> Float[Array, "B S E"] | None:
        """The windows side by side."""
        windows = [window for kind in self.kinds if (window := kind.window(memory)) is not None]
        return jnp.concatenate(windows, axis=1) if windows else None

    def read(self, memory: LayerMemory, q: Float[Array, "B H T K"], segment: Segment) -> Read:
        """The sum of the contexts, and all that is said about them."""
        context, mass, info = None, None, {}
        for kind in self.kinds:
            found = kind.read(memory, q, segment)
            if found.context is not None:
                context = found.context if context is None else context + found.context
            mass = found.mass if mass is None else mass
            info |= found.info
        return Read(context, mass, info)

    def push(
        self, memory: LayerMemory, x: Float[AnyArray, "B T E"] | None, mass: Array | None
    ) -> LayerMemory:
        """The memory after all have taken what they keep."""
        for kind in self.kinds:
            memory = kind.push(memory, x, mass)
        return memory

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        history: History,
        q: Float[Array, "BW H T K"],
        segment: Segment,
    ) -> tuple[LayerMemory, LayerMemory]:
        """The memories with the parts of all kinds."""
        for kind in self.kinds:
            found, after = kind.write_all(found, after, history, q, segment)
        return found, after
