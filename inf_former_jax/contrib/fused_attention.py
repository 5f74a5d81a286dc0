"""Local attention by JAX's own function, which may be one kernel of the device's library.

Importing this module makes `ModelConfig.fused_attention` available.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.models.local_attention.layer import FUSED
from inf_former_jax.models.local_attention.scores import Heads, by_key, scaled_queries

# The head width of cuDNN's kernels is a multiple of it.
_CUDNN_WIDTHS = 8


def fused_attention(
    heads: Heads,
    filled: Int[AnyArray, " B"],
    same_length: int = 0,
    *,
    implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "H B T K"]:
    """`causal.causal_attention` without dropout, by `jax.nn.dot_product_attention`.

    `score = (q+u)·k / √K + b`, softmax in float32. The scores by position are the bias b =
    (q+w)·R(d) / √K: they are materialised, [T, S] numbers for each head and row. Of the others xla
    materialises several arrays of this size, and cudnn none.

    Args:
        implementation: xla, or cudnn: flash attention of CUDA devices, in bfloat16 only.

    Raises:
        ValueError: JAX finds no such implementation.
    """
    (_, _, length, width), total = heads.q.shape, heads.k.shape[2]
    q, bias = heads.q, None
    _, position_queries = scaled_queries(heads)
    if position_queries is not None and heads.u is not None:
        q = q + heads.u[:, None, None]
        bias = by_key(jnp.einsum("hbtk,hsk->bhts", position_queries, heads.r))
    # Without a window the kernel itself leaves out what lies in the future.
    alone = total == length and not same_length
    mask = None if alone else _visible(length, total, filled, same_length)
    q, k, v = (jnp.moveaxis(part, 0, 2) for part in (q, heads.k, heads.v))
    if implementation == "cudnn":
        fill = -width % _CUDNN_WIDTHS
        q, k, v = (jnp.pad(part, (*((0, 0),) * 3, (0, fill))) for part in (q, k, v))
    options = {"scale": width**-0.5, "is_causal": alone, "implementation": implementation}
    try:
        attended = jax.nn.dot_product_attention(q, k, v, bias, mask, **options)
    except RuntimeError as missing:
        if implementation == "xla":
            raise
        found = f"{implementation} ({missing})"
        raise ValueError(f"fused_by: found {found}, accepted: xla on this machine") from missing
    return jnp.moveaxis(attended[..., :width], 2, 0)


def _visible(
    length: int, total: int, filled: Int[AnyArray, " B"], same_length: int
) -> Bool[AnyArray, "B 1 T S"]:
    """Which keys queries see."""
    distance = np.arange(total - length, total)[:, None] - np.arange(total)[None]
    near = (distance >= 0) & (distance < (same_length or total))
    there = np.arange(total)[None] >= (total - length - filled)[:, None]  # [B, S]
    return (near[None] & there[:, None])[:, None]


FUSED["xla"] = fused_attention
FUSED["cudnn"] = partial(fused_attention, implementation="cudnn")
