"""Contraction by choice: cells are kept as they are, or dropped, and none is averaged.

A write puts its L vectors on the last (1-τ)N of N cells. Of the older cells τN stay, in their order
and as they are. A memory that is not sticky keeps the newest of them: it is a queue of vectors. A
sticky one keeps those that attention fell on (paper §3.3), or those that are worth most, if that is
learned. So a name can outlive its page.

    cells  [ a b c d | e f g h ]     a further segment i j k l:
    queue  [ e f g h | i j k l ]
    sticky [ a d e g | i j k l ]     if attention fell on a, d, e and g

The first writes fill the cells from the end, and what is not filled is not looked at.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density.locations import distinct_bins
from inf_former_jax.memory.fit.cells import at_the_end


def filled(cfg: LongTermConfig, writes: Int[AnyArray, " B"]) -> Int[Array, " B"]:
    """How many cells, counted from the end, hold something after so many writes."""
    segments = cfg.num_basis // cfg.new_cells
    return jnp.minimum(jnp.asarray(writes), segments) * cfg.new_cells


def locations(
    cfg: LongTermConfig, salience: Float[AnyArray, "B N"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B M"]:
    """The middles of the τN cells that a further write of a sticky memory keeps, in their order.

    They are `density.distinct_bins` by their salience. Where it is learned what cells are worth,
    they are those of the largest salience. While no more than τN are filled, all of these stay.
    """
    count, new = cfg.num_basis, cfg.new_cells
    if cfg.learn_worth:
        chosen = jnp.sort(jax.lax.top_k(salience, count - new)[1], axis=-1)
    else:
        chosen = distinct_bins(salience, count - new)
    last = jnp.arange(new, count)[None]
    cells = jnp.where(filled(cfg, writes)[:, None] <= count - new, last, chosen)
    return (cells + jnp.asarray(0.5, salience.dtype)) / count


def squeeze(
    cfg: LongTermConfig, samples: Float[AnyArray, "B S E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """The cells that stay, before those that a write fills.

    Args:
        samples: all N cells, of which the newest stay, or the τN that do.
    """
    kept = jnp.asarray(samples)[:, -(cfg.num_basis - cfg.new_cells) :]
    return jnp.pad(kept, ((0, 0), (0, cfg.new_cells), (0, 0)))


def append(
    cfg: LongTermConfig, x: Float[AnyArray, "B L E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """What L new vectors add to the cells: their means on the last (1-τ)N of N."""
    x, new = jnp.asarray(x), cfg.new_cells
    return at_the_end(x, cfg.num_basis, jnp.full(x.shape[0], new, x.dtype), new, float(new))


def decay(cfg: LongTermConfig) -> Float[np.ndarray, "N N"]:
    """A of a further write of a queue, `C ← A C + G_newᵀ X`, for the analysis."""
    return np.eye(cfg.num_basis, k=cfg.new_cells)


def new(cfg: LongTermConfig, length: int) -> Float[np.ndarray, "L N"]:
    """G_new of any write: the part of each new cell that each vector lies on."""
    borders, cell = np.linspace(0, cfg.new_cells, length + 1)[:, None], np.arange(cfg.new_cells)
    share = np.minimum(borders[1:], cell[None] + 1) - np.maximum(borders[:-1], cell[None])
    return np.pad(np.maximum(share, 0), ((0, 0), (cfg.num_basis - cfg.new_cells, 0)))


def edges(cfg: LongTermConfig, writes: int) -> Float[np.ndarray, " J"]:
    """Borders of the segments that a queue has been written; those that it dropped are at 0."""
    later = np.arange(writes, -1, -1)  # segments behind each border
    return np.maximum(1 - later * cfg.new_cells / cfg.num_basis, 0.0)
