"""Rotary positions: queries and keys are turned by their place (Su et al. 2021, §3.4).

Channels k and k + K/2 of a head are a point of the plane, as in Llama's files. At place s it is
turned by the angle `s θ^(-2k/K)`. A turned query at t times a turned key at s is a sum over k that
depends on t - s only: distances count, and places may begin anywhere.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import AnyArray


def angles(places: int, width: int, theta: float) -> Float[np.ndarray, "{places} {width}//2"]:
    """`s θ^(-2k/K)` of the places s = 0, 1, … and k < K/2, in float64; K = width, even."""
    speeds = theta ** (-np.arange(0, width, 2) / width)
    return np.arange(places)[:, None] * speeds[None]


def turned(
    x: Float[Array, "H B S K"], table: Float[np.ndarray, "P K//2"], places: Int[AnyArray, "b S"]
) -> Float[Array, "H B S K"]:
    """Vectors at places s: `(x₁ cos - x₂ sin, x₂ cos + x₁ sin)` of their halves x₁ and x₂.

    It is computed in float32 at least.

    Args:
        table: `angles`, whose sines and cosines are taken on the host.
        places: rows of the table; b = B, or 1 where they are the same in all rows.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    cos, sin = (jnp.asarray(of(table), wide)[places][None] for of in (np.cos, np.sin))
    return _turned(x, cos, sin)


def turned_to(
    x: Float[Array, "H B S K"], places: Float[AnyArray, "B S"], theta: float
) -> Float[Array, "H B S K"]:
    """`turned`, to any places: they may lie between tokens or before the first one.

    Angles are computed in the graph, where those of a place s in float32 are off by s·6e-8.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    speeds = angles(2, x.shape[-1], theta)[1].astype(wide)
    at = jnp.asarray(places, wide)[None, ..., None] * speeds[None, None, None]
    return _turned(x, jnp.cos(at), jnp.sin(at))


def _turned(x: Array, cos: Array, sin: Array) -> Array:
    first, second = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    halves = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(halves, axis=-1).astype(x.dtype)
