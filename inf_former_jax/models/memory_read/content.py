"""Heads that look for content: a softmax over cells of the signal (SPEC §9)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import GibbsDensity
from inf_former_jax.memory.fit import doubling, kept
from inf_former_jax.memory.fit.ridge import first_fit_times


class ContentMemory(NamedTuple):
    """What any query of these heads needs of a long-term memory: the same until the next write."""

    keys: Float[AnyArray, "B H R K"]
    values: Float[AnyArray, "B H R K"]
    worth: Float[AnyArray, "B R"] | None = None  # of each cell, if that is learned


class ContentParams(NamedTuple):
    """What these heads learn beside their projections; None = not learned."""

    turn: Float[Array, "H K K"] | None = None  # of queries
    age: Float[Array, "H R"] | Float[Array, " H"] | None = None  # a number a cell, or a slope
    temperature: Float[Array, " H"] | None = None  # logarithm of its factor


#: How many cells hold something, by the contractions that leave some of them empty.
_FILLED = {"doubling": doubling.filled, "kept": kept.filled}


def density(
    cfg: LongTermConfig,
    params: ContentParams,
    q: Float[AnyArray, "B H T K"],
    memory: ContentMemory,
    writes: Int[AnyArray, " B"],
) -> GibbsDensity:
    """The densities `softmax(q̃·K_r / (θ√K) + b_r)` of queries q̃, turned if that is learned.

    θ is the temperature. b is a number of each cell or `slope · (t_r - 1)`, t_r the cell's middle:
    the newest cell has none, and with a positive slope older ones have less weight. To it comes
    what the cell is worth by itself. A memory that is contracted by doubling, or whose cells are
    kept, has empty ones, at which no query looks.
    """
    keys, worth = memory.keys, memory.worth
    if params.turn is not None:
        q = jnp.einsum("bhtk,hkl->bhtl", q, params.turn, precision=HIGHEST)
    scaled = jnp.asarray(q) * (q.shape[-1] ** -0.5 / cfg.temperature)
    if params.temperature is not None:
        scaled = scaled * jnp.exp(-params.temperature)[None, :, None, None]
    bias = jnp.broadcast_to(_bias(params.age, keys)[None], keys.shape[:3])
    if cfg.contraction in _FILLED:
        later = keys.shape[2] - 1 - jnp.arange(keys.shape[2])  # cells behind each one
        held = later[None] < _FILLED[cfg.contraction](cfg, jnp.maximum(writes, 1))[:, None]
        bias = jnp.where(held[:, None], bias, -jnp.inf)
        if worth is not None:
            worth = jnp.where(held, worth, -jnp.inf)
    if worth is not None:
        bias = bias + worth[:, None]
    return GibbsDensity(scaled, keys, bias, worth=worth)


def _bias(age: Array | None, keys: AnyArray) -> Float[Array, "H R"]:
    _, heads, cells, _ = keys.shape
    if age is None:
        return jnp.zeros((heads, cells), keys.dtype)
    if age.ndim == 2:
        return age
    return age[:, None] * jnp.asarray(first_fit_times(cells) - 1, keys.dtype)[None]
