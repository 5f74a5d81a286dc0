"""Attention over the window in chunks of queries: Transformer-XL's relative one, or the plain one.

The window is [compressed | short-term memory]; what is compressed is told by `Compression`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.models.dropout import RowKeys, dropout

#: Parameters are float32 whatever JAX's default is.
F32 = jnp.float32

# A linear map from [..., E] to heads [H, K], and back.
TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def sinusoid(
    farthest: int, dim: int, clamp_len: int = 0
) -> Float[np.ndarray, "{farthest}+1 {dim}"]:
    """Position table of the distances S … 0 (S = farthest): `[sin(d f), cos(d f)]`.

    `f_i = 10000^(-2i/E)`, in float64. Queries never look S back, but `relative_attention` wants
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


def causal_attention(
    heads: Heads,
    filled: Int[AnyArray, " B"],
    *,
    same_length: int = 0,
    chunk: int = 128,
    rate: float = 0.0,
    rows: RowKeys | None = None,
    layer: int = 0,
) -> Float[Array, "H B T K"]:
    """Causal attention over [memory | segment], with relative positions or without.

    `score = ((q+u)·k + (q+w)·R(d)) / √K` (Dai et al. 2019, §3.3) or, absolute, `q·k / √K`, with
    d = query time - key time; a key is seen iff d ≥ 0, it is filled and, with same_length,
    d < same_length. Computed over chunks of queries, each on the keys that it can see at all.

    Args:
        filled: how many of the S - T memory rows hold something (the newest ones).
        same_length: 0, or the number of keys that every query sees at most.
        rate, rows, layer: dropout of the probabilities.
    """
    length, total = heads.q.shape[2], heads.k.shape[2]
    memory = total - length
    distance = np.arange(memory, total)[:, None] - np.arange(total)[None, :]
    outputs = []
    for part, start in enumerate(range(0, length, chunk)):
        stop = min(start + chunk, length)
        first = max(0, memory + start - same_length + 1) if same_length else 0
        last = memory + stop
        piece = heads._replace(
            q=heads.q[:, :, start:stop],
            k=heads.k[:, :, first:last],
            v=heads.v[:, :, first:last],
            r=None if heads.r is None else heads.r[:, total - (last - first) :],
        )
        empty = memory - filled - first  # keys before this one are empty slots of the memory
        apart = distance[None, start:stop, first:last]
        outputs.append(_attend(piece, apart, empty, same_length, rate, rows, (layer, part)))
    return _joined(outputs)


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
    return _joined(outputs)


def _joined(outputs):
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=2)


def _attend(heads, distance, empty, same_length, rate=0.0, rows=None, place=(0, 0)):
    """Attention given each query's distance [B or 1, T, S] from each key."""
    scores = _scores(heads, distance)
    seen = distance >= 0
    if same_length:
        seen &= distance < same_length
    filled = np.arange(heads.k.shape[2])[None, :] >= empty[:, None]  # [B, S]
    mask = seen[None] & filled[None, :, None]
    scores = jnp.where(mask, scores.astype(_at_least_float32(scores)), -jnp.inf)
    probs = jax.nn.softmax(scores, axis=-1).astype(heads.v.dtype)
    if rate > 0 and rows is not None:
        by_row = dropout(jnp.swapaxes(probs, 0, 1), rate, rows, place[0], "attention", place[1])
        probs = jnp.swapaxes(by_row, 0, 1)
    return jnp.einsum("hbts,hbsk->hbtk", probs, heads.v)


def _scores(heads, distance):
    scale = heads.q.shape[-1] ** -0.5
    if heads.r is None:
        return jnp.einsum("hbtk,hbsk->hbts", heads.q * scale, heads.k)
    content = jnp.einsum("hbtk,hbsk->hbts", (heads.q + heads.u[:, None, None]) * scale, heads.k)
    position = jnp.einsum("hbtk,hsk->hbts", (heads.q + heads.w[:, None, None]) * scale, heads.r)
    if isinstance(distance, np.ndarray):  # the queries are the last keys: no gather is needed
        return content + _relative_shift(position)
    farthest = position.shape[-1] - 1
    row_of = jnp.clip(farthest - distance, 0, farthest)[None]
    return content + jnp.take_along_axis(position, row_of, axis=-1)


def _relative_shift(x):
    """[…, T, S+1] by distance to […, T, S] by key: (i, j) is x's (i, j - i + T).

    Read flat, each row of x begins one place too early for the next key: dropping the first T
    numbers aligns all of them. What wraps around to another row lies in the future, masked.
    """
    *batch, queries, width = x.shape
    flat = x.reshape(*batch, queries * width)[..., queries:]
    return flat.reshape(*batch, queries, width - 1)


def _at_least_float32(x):
    return jnp.promote_types(x.dtype, jnp.float32)
