"""Linear maps between the channels of a model and its heads, and the precision of their sums."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import AnyArray

#: Parameters are float32 whatever JAX's default is.
F32 = jnp.float32

#: Initialisers of a linear map from channels E to heads [H, K], and of one back.
TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def to_heads(
    x: Float[AnyArray, "B T E"],
    kernel: Float[AnyArray, "E H K"],
    bias: Float[AnyArray, "H K"] | None = None,
) -> Float[Array, "H B T K"]:
    """`x W + b` of every head, computed in the dtype of x."""
    heads = jnp.einsum("bte,ehk->hbtk", x, kernel.astype(x.dtype))
    return heads if bias is None else heads + bias.astype(x.dtype)[:, None, None]


def exact_dot(x: Array, y: Array, dimension_numbers: Any, precision: Any = None, **_: Any) -> Array:
    """`lax.dot_general` whose sums are float32 at least, whatever the dtype of the factors is."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, dimension_numbers, precision, preferred_element_type=wide)
