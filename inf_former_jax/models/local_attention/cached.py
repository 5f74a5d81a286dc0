"""Attention of queries in a segment that is still open, on the cached keys of what they follow."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.models.local_attention.scores import Heads, joined, scores, summed


def cached_attention(
    heads: Heads,
    first: Int[AnyArray, " B"],
    slots: Int[AnyArray, "B T"],
    *,
    same_length: int = 0,
    chunk: int = 128,
) -> tuple[Float[Array, "H B T K"], Float[Array, "H B T"]]:
    """`causal.causal_attention` of queries at any slots of a cache; the slots may differ by row.

    Args:
        heads: k and v [H, B, S, K] of the cache; what no query sees must be finite.
        first: the first filled slot of each row.
        slots: of each query's own key, the last one that it sees.
    """
    keys = np.arange(heads.k.shape[2])
    outputs = []
    for start in range(0, slots.shape[1], chunk):
        piece = heads._replace(q=heads.q[:, :, start : start + chunk])
        distance = slots[:, start : start + chunk, None] - keys[None, None]
        outputs.append(_attend(piece, distance, first, same_length))
    values, logsums = zip(*outputs, strict=True)
    return joined(list(values)), joined([part[..., None] for part in logsums])[..., 0]


def _attend(
    heads: Heads, distance: Int[AnyArray, "B T S"], first: Int[AnyArray, " B"], same_length: int
) -> tuple[Float[Array, "H B T K"], Float[Array, "H B T"]]:
    """(attention, log Σ exp of the scores) given the distance of each query from each key."""
    content, position = scores(heads)
    if position is not None:
        farthest = position.shape[-1] - 1
        row = jnp.clip(farthest - distance, 0, farthest)[None]
        content = content + jnp.take_along_axis(position, row, axis=-1)
    visible = distance >= 0
    if same_length:
        visible &= distance < same_length
    filled = np.arange(heads.k.shape[2])[None] >= first[:, None]  # [B, S]
    visible &= filled[:, None]
    masked = jnp.where(visible[None], content, -jnp.inf)
    probs = jax.nn.softmax(masked, axis=-1)
    value = summed("hbts,hbsk->hbtk", probs.astype(heads.v.dtype), heads.v)
    return value.astype(heads.v.dtype), jax.nn.logsumexp(masked, axis=-1)
