"""What local attention is made of, and its form for generation (`causal.py` has the training one).

The window is [compressed | short-term memory]; what is compressed is told by `Compression`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.basis import AnyArray

#: Parameters are float32 whatever JAX's default is.
F32 = jnp.float32

# A linear map from [..., E] to heads [H, K], and back.
TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def sinusoid(
    farthest: int, dim: int, clamp_len: int = 0
) -> Float[np.ndarray, "{farthest}+1 {dim}"]:
    """Position table of the distances S … 0 (S = farthest): `[sin(d f), cos(d f)]`.

    `f_i = 10000^(-2i/E)`, in float64. Queries never look S back, but `causal_attention` wants
    the row.

    Args:
        clamp_len: if positive, distances above it count as it.
    """
    distance = np.arange(farthest, -1, -1, dtype=np.float64)
    if clamp_len > 0:
        distance = np.minimum(distance, clamp_len)
    angle = distance[:, None] * (10000.0 ** (-np.arange(0, dim, 2) / dim))[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


class Heads(NamedTuple):
    """What attention needs of its inputs, all by head first; without r, u and w it is absolute."""

    q: Float[AnyArray, "H B T K"]
    k: Float[AnyArray, "H B S K"]  # S = short-term rows + T
    v: Float[AnyArray, "H B S K"]
    r: Float[Array, "H S+1 K"] | None = None  # projected positions of the distances S … 0
    u: Float[Array, "H K"] | None = None  # content bias
    w: Float[Array, "H K"] | None = None  # position bias


def cached_attention(
    heads: Heads,
    first: Int[AnyArray, " B"],
    places: Int[AnyArray, "B T"],
    *,
    same_length: int = 0,
    chunk: int = 128,
) -> Float[Array, "H B T K"]:
    """`causal_attention` of queries that stand anywhere among the keys, elsewhere in each row.

    Args:
        heads: k and v [H, B, S, K] of a cache, behind whose filled part anything may lie.
        first: the first filled key of each row.
        places: each query's own key, the last that it sees.
    """
    keys = np.arange(heads.k.shape[2])[None, None]
    outputs = []
    for start in range(0, places.shape[1], chunk):
        piece = heads._replace(q=heads.q[:, :, start : start + chunk])
        apart = places[:, start : start + chunk, None] - keys
        outputs.append(_attend(piece, apart, first, same_length))
    return joined(outputs)


def joined(chunks: list[Array]) -> Array:
    """Chunks [H, B, t, K] of queries as one [H, B, T, K]."""
    return chunks[0] if len(chunks) == 1 else jnp.concatenate(chunks, axis=2)


def _attend(heads, distance, empty, same_length):
    """Attention given each query's distance [B, T, S] from each key."""
    content, position = scores(heads)
    if position is not None:
        farthest = position.shape[-1] - 1
        row_of = jnp.clip(farthest - distance, 0, farthest)[None]
        content = content + jnp.take_along_axis(position, row_of, axis=-1)
    seen = distance >= 0
    if same_length:
        seen &= distance < same_length
    filled = np.arange(heads.k.shape[2])[None, :] >= empty[:, None]  # [B, S]
    mask = seen[None] & filled[None, :, None]
    wide = content.astype(jnp.promote_types(content.dtype, jnp.float32))
    probs = jax.nn.softmax(jnp.where(mask, wide, -jnp.inf), axis=-1).astype(heads.v.dtype)
    return jnp.einsum("hbts,hbsk->hbtk", probs, heads.v)


def scaled_queries(heads: Heads) -> tuple[Array, Array | None]:
    """`(q+u) / √K` and `(q+w) / √K` [H, B, T, K]; `q / √K` and None in absolute attention."""
    scale = heads.q.shape[-1] ** -0.5
    if heads.r is None:
        return heads.q * scale, None
    return tuple((heads.q + bias[:, None, None]) * scale for bias in (heads.u, heads.w))


def scores(heads: Heads) -> tuple[Float[Array, "H B T S"], Float[Array, "H B T P"] | None]:
    """Scores of contents by key, and of positions by distance, the farthest of P = S + 1 first."""
    of_content, of_position = scaled_queries(heads)
    content = jnp.einsum("hbtk,hbsk->hbts", of_content, heads.k)
    if of_position is None:
        return content, None
    return content, jnp.einsum("hbtk,hsk->hbts", of_position, heads.r)


def by_key(x: Float[Array, "*batch T P"]) -> Float[Array, "*batch T S"]:
    """Scores by distance, P = S + 1, to scores by key: (i, j) is x's (i, j - i + T).

    Read flat, each row of x begins one place too early for the next key: dropping the first T
    numbers aligns all of them. What wraps around to another row lies in the future, masked.
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
