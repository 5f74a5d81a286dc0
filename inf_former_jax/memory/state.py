"""The whole model's memory: what each layer carries from segment to segment (SPEC §4).

A layer's FIFO holds its last inputs, right-aligned (newest last). Beside a long-term or compressed
memory it carries one segment more than the short-term memory attends to: its oldest T rows are the
*pending write*, written or compressed exactly once, before the next segment reads.

    [ sinks or compressed ] [ pending write (T) | short-term memory (mem_len) ] ← new segment (T)

Sinks are a document's first tokens, which stay in the window when the FIFO has moved on.

One counter a row, `seen`, says what is filled and what is due. All of it is explicit: pytree in,
pytree out. `reset` starts a new document in some rows: it sets everything they carry to zero.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory
from inf_former_jax.require import require

#: `seen` stops counting here, far above any FIFO, so that an endless stream cannot overflow it.
MAX_SEEN = 2**30


@runtime_checkable
class MemoryConfig(Protocol):
    """What this module asks of a model's configuration."""

    @property
    def num_layers(self) -> int:
        """Layers, each with a memory of its own."""
        ...

    @property
    def d_model(self) -> int:
        """E, channels of the layers' inputs."""
        ...

    @property
    def segment_len(self) -> int:
        """T, tokens of a segment."""
        ...

    @property
    def mem_len(self) -> int:
        """Short-term memory in tokens."""
        ...

    @property
    def sinks(self) -> int:
        """First tokens of a document that stay in the window."""
        ...

    @property
    def long_term(self) -> LongTermConfig | None:
        """The long-term memory; None = none."""
        ...

    def remembers(self, layer: int) -> bool:
        """Whether a layer has the long-term memory."""
        ...

    @property
    def compressed(self) -> CompressedConfig | None:
        """The compressed memory of every layer; None = none."""
        ...


class LayerMemory(NamedTuple):
    """One layer's carried state; absent parts are None."""

    fifo: Float[AnyArray, "B S E"] | None  # last inputs of the layer, S = fifo_len(cfg)
    long_term: LongTermMemory | None = None
    compressed: Float[AnyArray, "B C E"] | None = None  # right-aligned, newest last
    sinks: Float[AnyArray, "B K E"] | None = None  # of the document's first tokens


class Memory(NamedTuple):
    """A whole model's carried state."""

    seen: Int[AnyArray, " B"]  # tokens of the row's document so far, reset to 0 with it
    layers: tuple[LayerMemory, ...]


def fifo_len(cfg: MemoryConfig) -> int:
    """Rows of a layer's FIFO: short-term memory and, beside another memory, a pending segment."""
    dropped = cfg.long_term is None and cfg.compressed is None
    return cfg.mem_len + (0 if dropped else cfg.segment_len)


def init(cfg: MemoryConfig, batch: int, dtype: DTypeLike = jnp.float32) -> Memory:
    """A fresh memory of `batch` rows; every leaf is its own buffer, so that it can be donated."""

    def zeros(length):
        return jnp.zeros((batch, length, cfg.d_model), dtype) if length else None

    def layer(number):
        memory = None
        if cfg.long_term is not None and cfg.remembers(number):
            memory = long_term.init(cfg.long_term, batch, cfg.d_model, dtype)
        return LayerMemory(
            fifo=zeros(fifo_len(cfg)),
            long_term=memory,
            compressed=zeros(0 if cfg.compressed is None else cfg.compressed.length),
            sinks=zeros(cfg.sinks),
        )

    return Memory(jnp.zeros((batch,), jnp.int32), tuple(map(layer, range(cfg.num_layers))))


def long_term_of(memory: Memory) -> LongTermMemory | None:
    """The long-term memory of the first layer that has one; their counters are all alike."""
    return next((one.long_term for one in memory.layers if one.long_term is not None), None)


def reset(memory: Memory, rows: Bool[AnyArray, " B"]) -> Memory:
    """Start a new document in the given rows; the others stay to the bit.

    A reset row behaves exactly like a fresh one; not even a NaN survives.
    """
    return long_term.select_rows(rows, jax.tree.map(jnp.zeros_like, memory), memory)


def empty_long_term(cfg: MemoryConfig, memory: Memory) -> Memory:
    """Forget everything in the long-term and compressed memories, keep the short-term ones.

    As if the document had begun with the FIFO's oldest row. This is the control of every
    experiment: applied before each segment, it lets the model read at most the one segment that
    leaves its short-term memory just then.
    """

    def emptied(layer):
        empty = jax.tree.map(jnp.zeros_like, layer._replace(fifo=None, sinks=None))
        return empty._replace(fifo=layer.fifo, sinks=layer.sinks)

    seen = seen_when_emptied(cfg, memory.seen)
    return Memory(seen, tuple(emptied(layer) for layer in memory.layers))


def seen_when_emptied(cfg: MemoryConfig, seen: Int[AnyArray, "*batch"]) -> Int[Array, "*batch"]:
    """`seen` of `empty_long_term`: as much as fills the FIFO, and lets the sinks be seen."""
    return jnp.minimum(seen, max(fifo_len(cfg), cfg.mem_len + cfg.sinks))


def foreign_long_term(memory: Memory) -> Memory:
    """Each row with the long-term and compressed memories of the row before it in the batch.

    Short-term memories stay. This is a control: a model that reads what another document left
    behind does as well as with its own memory, unless it remembers.

    Raises:
        ValueError: one row, which has no other.
    """
    rows = memory.seen.shape[0]
    require(rows > 1, "memory", f"{rows} row on a device", "2 or more, for each another's memory")

    def swapped(layer):
        own = layer._replace(fifo=None, sinks=None)
        other = jax.tree.map(partial(jnp.roll, shift=1, axis=0), own)
        return other._replace(fifo=layer.fifo, sinks=layer.sinks)

    return Memory(memory.seen, tuple(swapped(layer) for layer in memory.layers))


def window(cfg: MemoryConfig, layer: LayerMemory) -> Float[Array, "B S E"] | None:
    """What the next segment attends to beside itself, oldest first: [sinks | short-term].

    Beside a compressed memory it is [compressed | short-term].
    """
    parts = [part for part in (layer.sinks, layer.compressed) if part is not None]
    if cfg.mem_len:
        assert layer.fifo is not None
        parts.append(layer.fifo[:, -cfg.mem_len :])
    return jnp.concatenate(parts, axis=1) if parts else None


def window_len(cfg: MemoryConfig) -> int:
    """S, the rows of `window`."""
    return cfg.sinks + cfg.mem_len + (0 if cfg.compressed is None else cfg.compressed.length)


def num_filled(cfg: MemoryConfig, seen: Int[AnyArray, " B"]) -> Int[Array, " B"]:
    """How many of the window's newest rows are filled, once the pending segment is compressed.

    The filled rows are neighbours: nothing is compressed before the short-term memory is full, and
    sinks are not seen before it has lost them.
    """
    filled = jnp.minimum(seen, cfg.mem_len)
    if cfg.compressed is None:
        return filled + jnp.where(seen - cfg.mem_len >= cfg.sinks, cfg.sinks, 0)
    segments = jnp.maximum(seen - cfg.mem_len, 0) // cfg.segment_len
    slots = segments * (cfg.segment_len // cfg.compressed.rate)
    return filled + jnp.minimum(slots, cfg.compressed.length)


def append_compressed(
    layer: LayerMemory, slots: Float[AnyArray, "B C E"], rows: Bool[AnyArray, " B"]
) -> LayerMemory:
    """Append compressed vectors in the given rows; as many of the oldest fall off."""
    old = layer.compressed
    assert old is not None
    new = jnp.concatenate([old, jnp.asarray(slots, old.dtype)], axis=1)[:, slots.shape[1] :]
    return layer._replace(compressed=long_term.select_rows(rows, new, old))


def pending(cfg: MemoryConfig, layer: LayerMemory) -> Float[Array, "B T E"]:
    """The segment that leaves the short-term memory now, to be written before reading."""
    assert layer.fifo is not None
    return jnp.asarray(layer.fifo[:, : cfg.segment_len])


def has_pending(cfg: MemoryConfig, seen: Int[AnyArray, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether a pending write is due: from a document's segment `mem_len/T + 1` on.

    From there on a write comes before every read, so this also says whether the long-term memory
    holds anything when it is read.
    """
    return jnp.asarray(seen) >= fifo_len(cfg)


def push(layer: LayerMemory, x: Float[AnyArray, "B T E"], seen: Int[AnyArray, " B"]) -> LayerMemory:
    """Append a segment's inputs to the FIFO; as many of the oldest rows fall off.

    Args:
        seen: tokens of the row's document before them. Its first ones become its sinks.
    """
    fifo, sinks = layer.fifo, layer.sinks
    if fifo is None:
        return layer
    x = jnp.asarray(x, fifo.dtype)
    if sinks is not None:
        first = x[:, : sinks.shape[1]]
        rows, places = np.arange(len(first))[:, None], np.arange(first.shape[1])[None]
        places = jnp.asarray(seen)[:, None] + places  # beyond the last sink, nothing is kept
        sinks = jnp.asarray(sinks).at[rows, places].set(first, mode="drop")
    fifo = jnp.concatenate([fifo, x], axis=1)[:, x.shape[1] :]
    return layer._replace(fifo=fifo, sinks=sinks)


def advance(seen: Int[AnyArray, " B"], length: int) -> Int[Array, " B"]:
    """`seen` after a segment of `length` tokens."""
    return jnp.minimum(seen, MAX_SEEN) + length
