"""Scores of queries and keys: by content, and by the distance between them (Dai et al. 2019, §3.3).

`score = ((q+u)·k + (q+w)·R(d)) / √K`, d = query time - key time, or, without relative positions,
`q·k / √K`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import AnyArray


def sinusoid(
    farthest: int, dim: int, clamp_len: int = 0
) -> Float[np.ndarray, "{farthest}+1 {dim}"]:
    """The position table of the distances S … 0 (S = farthest): `[sin(d f), cos(d f)]`.

    `f_i = 10000^(-2i/E)`, in float64. No query looks S back, but `by_key` needs the row.

    Args:
        clamp_len: if positive, distances above it count as it.
    """
    distance = np.arange(farthest, -1, -1, dtype=np.float64)
    if clamp_len > 0:
        distance = np.minimum(distance, clamp_len)
    angle = distance[:, None] * (10000.0 ** (-np.arange(0, dim, 2) / dim))[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


class Heads(NamedTuple):
    """What attention needs, heads first. Without r, u and w it knows no relative positions."""

    q: Float[AnyArray, "H B T K"]
    k: Float[AnyArray, "H B S K"]  # S = rows of the window + T
    v: Float[AnyArray, "H B S K"]
    r: Float[Array, "H S+1 K"] | None = None  # projected positions of the distances S … 0
    u: Float[Array, "H K"] | None = None  # content bias
    w: Float[Array, "H K"] | None = None  # position bias


def scaled_queries(heads: Heads) -> tuple[Array, Array | None]:
    """`(q+u) / √K` and `(q+w) / √K` [H, B, T, K]; `q / √K` and None without positions."""
    scale = heads.q.shape[-1] ** -0.5
    if heads.u is None or heads.w is None:
        return heads.q * scale, None
    return (heads.q + heads.u[:, None, None]) * scale, (heads.q + heads.w[:, None, None]) * scale


def scores(heads: Heads) -> tuple[Float[Array, "H B T S"], Float[Array, "H B T P"] | None]:
    """Scores of contents by key, and of positions by distance, the farthest of P = S + 1 first."""
    content_queries, position_queries = scaled_queries(heads)
    content = summed("hbtk,hbsk->hbts", content_queries, heads.k)
    if position_queries is None:
        return content, None
    return content, summed("hbtk,hsk->hbts", position_queries, heads.r)


def summed(equation: str, x: AnyArray, y: AnyArray | None) -> Array:
    """The `einsum` of two, added up in float32 at least, which is the dtype of the result."""
    assert y is not None
    wide = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return jnp.einsum(equation, x, y, preferred_element_type=wide)


def by_key(x: Float[Array, "*batch T P"]) -> Float[Array, "*batch T S"]:
    """Scores by distance, P = S + 1, as scores by key: number (i, j) is x's (i, j - i + T).

    The numbers of x are read one row after the other, without the first T, and cut into rows of S
    instead of S + 1. So row i of the result begins T - i places into row i of x. What comes from
    the row after it lies in the future, which is masked.
    """
    *batch, queries, width = x.shape
    flat = x.reshape(*batch, queries * width)[..., queries:]
    return flat.reshape(*batch, queries, width - 1)


def by_distance(x: Float[Array, "*batch T S"]) -> Float[Array, "*batch T P"]:
    """The transpose of `by_key`."""
    *batch, queries, width = x.shape
    flat = x.reshape(*batch, queries * width)
    padded = jnp.pad(flat, (*((0, 0),) * len(batch), (queries, 0)))
    return padded.reshape(*batch, queries, width + 1)


def joined(chunks: list[Array]) -> Array:
    """Chunks [H, B, t, K] of queries as one [H, B, T, K]."""
    return chunks[0] if len(chunks) == 1 else jnp.concatenate(chunks, axis=2)
