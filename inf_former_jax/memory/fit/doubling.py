"""Contraction by pairs of cells: borders between segments stay where borders between cells are.

With τ_k = k/(k+1) every write moves all borders to new places, and a cell in which a border comes
to lie averages over both sides. After many writes neighbours have run into each other. Here the
signal begins empty and is filled from its end. It has room for c segments, c = 1, 2, 4, …, each on
N/c cells. A write moves the past by N/c cells towards 0. Where there is no room left, the past is
first squeezed to half its length: neighbouring cells are averaged in pairs, and c doubles.

    c = 2   [ s1 s1 | s2 s2 ]      full: the next write doubles c
    c = 4   [    s1 | s2 | s3 ]    each segment on half as many cells; one place is empty

N is a power of two. Up to N segments have cells of their own, and no cell holds parts of two. With
more of them g = c/N segments share a cell, and a write moves the past only when the newest cell is
full. A coefficient is the mean over its cell, of which the empty part is 0. So the mean of the
signal stays exact: it is that of all that was written, times the part of [0, 1] that is full.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.fit.cells import Parts, at_the_end, gather


def capacity(segments: Int[AnyArray, " B"]) -> Int[Array, " B"]:
    """c, the smallest power of two that is not below a number of segments ≥ 1."""
    below = jnp.maximum(jnp.asarray(segments, jnp.int32) - 1, 0)
    return jnp.left_shift(1, 32 - jax.lax.clz(below))


class _Move(NamedTuple):
    """What a further write does to the past of each row."""

    merged: Bool[Array, " B"]  # cells are averaged in pairs
    cells: Int[Array, " B"]  # then moved by so many towards 0


def _move(count: int, writes: Int[AnyArray, " B"]) -> _Move:
    before, after = capacity(writes), capacity(jnp.asarray(writes) + 1)
    shared = jnp.maximum(after // count, 1)  # g, segments in a cell
    begun = jnp.asarray(writes) % shared == 0  # a new cell
    return _Move(after > before, jnp.where(after <= count, count // after, begun))


def squeeze(
    cfg: LongTermConfig, samples: Float[AnyArray, "B N E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """The past of rows that have been written k = `writes` times, after it made room.

    Args:
        writes: 0 counts as 1.
    """
    samples, count = jnp.asarray(samples), cfg.num_basis
    merged, moved = (x[:, None] for x in _move(count, jnp.maximum(writes, 1)))
    # Cells and the places that they are found at, counted from the newest.
    cell = jnp.arange(count)[None]
    source, target = cell - moved, cell + moved
    pair = jnp.stack([2 * source, 2 * source + 1], axis=-1)
    rows = jnp.where(merged[..., None], pair, source[..., None])
    share = jnp.where(merged[..., None], 0.5, jnp.array([1.0, 0.0]))
    forward = _from_the_end(count, rows, jnp.where((rows >= 0) & (rows < count), share, 0.0))
    rows = jnp.where(merged, cell // 2 + moved, target)[..., None]
    share = jnp.where(merged, 0.5, 1.0)[..., None]
    backward = _from_the_end(count, rows, jnp.where(rows < count, share, 0.0))
    return gather(forward, backward, samples)


def _from_the_end(count: int, rows: Array, share: Array) -> Parts:
    rows = count - 1 - jnp.clip(rows, 0, count - 1)
    return Parts(rows[:, ::-1], share[:, ::-1])


def append(
    cfg: LongTermConfig, x: Float[AnyArray, "B L E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """What L new vectors on the last N/c cells add to the means of N cells.

    Args:
        writes: k of each row; 0 counts as 1.
    """
    x, count = jnp.asarray(x), cfg.num_basis
    room = capacity(jnp.maximum(writes, 1) + 1)
    return at_the_end(x, count, count / room.astype(x.dtype), max(count // 2, 1))


def filled(cfg: LongTermConfig, writes: Int[AnyArray, " B"]) -> Int[Array, " B"]:
    """How many cells, counted from the end, hold something after so many writes ≥ 1."""
    count, room = cfg.num_basis, capacity(writes)
    shared = jnp.maximum(room // count, 1)
    return jnp.where(room <= count, writes * (count // room), -(-writes // shared))


def decay(cfg: LongTermConfig, k: int) -> Float[np.ndarray, "N N"]:
    """A of a row's k-th further write, `C ← A C + G_newᵀ X`, for the analysis; k ≥ 1."""
    return np.asarray(squeeze(cfg, jnp.eye(cfg.num_basis)[None], jnp.full(1, k))[0], np.float64)


def new(cfg: LongTermConfig, length: int, k: int) -> Float[np.ndarray, "L N"]:
    """G_new of the same write, to the rounding of JAX's default float."""
    return np.asarray(append(cfg, jnp.eye(length)[None], jnp.full(1, k))[0], np.float64).T


def edges(num_basis: int, writes: int) -> Float[np.ndarray, " J"]:
    """Borders of the written segments: the j-th oldest lies between borders j and j + 1.

    Segments that share a cell have equal parts of it.
    """
    room = 1 << max(writes - 1, 0).bit_length()
    shared = max(room // num_basis, 1)
    newest = (writes - 1) % shared + 1  # segments in the newest cell
    later = np.arange(writes, -1, -1)  # segments behind each border
    whole = (later - newest) / shared
    cells = np.where(later <= newest, later / newest, 1 + whole)
    return 1 - cells * max(num_basis // room, 1) / num_basis
