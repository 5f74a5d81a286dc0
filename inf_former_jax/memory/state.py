"""The whole model's memory: what each layer carries from segment to segment (SPEC §4).

A layer's FIFO holds its last inputs, right-aligned (newest last). Beside a long-term memory it
carries one segment more than the short-term memory sees: its oldest T rows are the *pending
write*, written exactly once, before the next segment reads.

    [ pending write (T) | short-term memory (mem_len) ] ← new segment (T)

One counter a row, `seen`, answers every question of validity. All of it is explicit: pytree in,
pytree out, per-row reset.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory

#: `seen` stops counting here, far above any FIFO, so that an endless stream cannot overflow it.
MAX_SEEN = 2**30


class MemoryConfig(Protocol):
    """What `init` and the questions below need of a model's configuration."""

    num_layers: int
    d_model: int
    segment_len: int
    mem_len: int
    long_term: LongTermConfig | None


class LayerMemory(NamedTuple):
    """One layer's carried state; absent parts are None."""

    fifo: Float[AnyArray, "B S E"] | None  # last inputs of the layer, S = fifo_len(cfg)
    long_term: LongTermMemory | None


class Memory(NamedTuple):
    """A whole model's carried state."""

    seen: Int[AnyArray, " B"]  # tokens of the row's document so far, reset to 0 with it
    layers: tuple[LayerMemory, ...]


def fifo_len(cfg: MemoryConfig) -> int:
    """Rows of a layer's FIFO: the short-term memory, and one pending segment beside an LTM."""
    return cfg.mem_len + (cfg.segment_len if cfg.long_term is not None else 0)


def init(cfg: MemoryConfig, batch: int, dtype=jnp.float32) -> Memory:
    """A fresh memory of `batch` rows; every leaf is its own buffer, so that it can be donated."""
    length = fifo_len(cfg)

    def layer():
        return LayerMemory(
            fifo=jnp.zeros((batch, length, cfg.d_model), dtype) if length else None,
            long_term=None
            if cfg.long_term is None
            else long_term.init(cfg.long_term, batch, cfg.d_model, dtype),
        )

    return Memory(jnp.zeros((batch,), jnp.int32), tuple(layer() for _ in range(cfg.num_layers)))


def reset(memory: Memory, rows: Bool[AnyArray, " B"]) -> Memory:
    """Start a new document in the given rows; the others stay to the bit.

    A reset row behaves exactly like a fresh one. Zeros are selected, never multiplied in, so that
    not even a NaN survives.
    """
    return jax.tree.map(lambda leaf: _zero_rows(rows, leaf), memory)


def empty_long_term(memory: Memory) -> Memory:
    """Forget everything in the long-term memories and keep the short-term ones.

    The control of every experiment: applied before each segment, the model reads at most the one
    segment that leaves its short-term memory just then.
    """

    def emptied(layer):
        return layer._replace(long_term=jax.tree.map(jnp.zeros_like, layer.long_term))

    return memory._replace(layers=tuple(emptied(layer) for layer in memory.layers))


def _zero_rows(rows, leaf):
    return jnp.where(jnp.reshape(rows, (-1, *(1,) * (leaf.ndim - 1))), jnp.zeros_like(leaf), leaf)


def short_term(cfg: MemoryConfig, layer: LayerMemory) -> Float[Array, "B S E"] | None:
    """The inputs that the next segment attends to beside itself, oldest first; S = mem_len."""
    return None if cfg.mem_len == 0 else layer.fifo[:, -cfg.mem_len :]


def num_short_term(cfg: MemoryConfig, seen: Int[AnyArray, " B"]) -> Int[Array, " B"]:
    """How many of the short-term memory's newest rows are filled."""
    return jnp.minimum(seen, cfg.mem_len)


def pending(cfg: MemoryConfig, layer: LayerMemory) -> Float[Array, "B T E"]:
    """The segment that leaves the short-term memory now, to be written before reading."""
    return layer.fifo[:, : cfg.segment_len]


def has_pending(cfg: MemoryConfig, seen: Int[AnyArray, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether a pending write is due: from a document's segment `mem_len/T + 1` on.

    From there on a write comes before every read, so this also says whether the long-term memory
    holds anything when it is read.
    """
    return jnp.asarray(seen) >= fifo_len(cfg)


def push(layer: LayerMemory, x: Float[AnyArray, "B T E"]) -> LayerMemory:
    """Append a segment's inputs to the FIFO; as many of the oldest rows fall off."""
    if layer.fifo is None:
        return layer
    return layer._replace(fifo=jnp.concatenate([layer.fifo, x], axis=1)[:, x.shape[1] :])


def advance(seen: Int[AnyArray, " B"], length: int) -> Int[Array, " B"]:
    """`seen` after a segment of `length` tokens."""
    return jnp.minimum(seen, MAX_SEEN) + length
