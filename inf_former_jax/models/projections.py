"""Linear maps between the channels of a model and its heads, and the precision of their sums.

Every map is a product of two matrices: the tokens of all rows stand below each other. XLA would sum
the gradient of a kernel over rows and tokens as over two axes, which is slow on a CPU.

Products of bfloat16 factors are added up in float32, and rounded once. That is what a matrix unit
does, also one of a CPU (AMX), which XLA leaves unused where sums are asked for in bfloat16.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import AnyArray

#: Parameters are float32 whatever JAX's default is.
F32 = jnp.float32

#: Initialisers of a linear map from channels E to heads [H, K], and of one back.
TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def product(
    x: Float[AnyArray, "*batch E"],
    kernel: Float[AnyArray, "_ _"],
    precision: Any = None,
    dtype: Any = None,
    transposed: bool = False,
) -> Float[Array, "*batch F"]:
    """`x W` of every vector.

    Args:
        precision: as of `jax.lax.dot_general`.
        dtype: of the result; None = that of x and W. Sums are in float32 at least.
        transposed: the kernel is Wᵀ, [F, E].
    """
    rows = jnp.reshape(x, (-1, x.shape[-1]))
    kernel = jnp.asarray(kernel)
    dtype = dtype or jnp.result_type(rows, kernel)
    found: Any = _product(rows, kernel, precision, dtype, transposed)
    return found.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _product(x, kernel, precision, dtype, transposed):
    return _dot(x, kernel, precision, dtype, (1, int(transposed)))


def _dot(x, y, precision, dtype, axes):
    of_x, of_y = axes
    wide = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    contracted = ((of_x,), (of_y,)), ((), ())
    return jax.lax.dot_general(x, y, contracted, precision, wide).astype(dtype)


def _backward(precision, dtype, transposed, residuals, cotangent):
    x, kernel = residuals
    cotangent = cotangent.astype(jnp.result_type(x, kernel))

    def sum_over_rows(a, b):  # aᵀ b, as it stands here: XLA would take its transpose for it
        found = _dot(a, b, precision, jnp.promote_types(a.dtype, jnp.float32), (0, 0))
        barrier = jax.lax.optimization_barrier
        return jax.lax.platform_dependent(found, cpu=barrier, default=lambda found: found)

    # On a CPU the sum takes half the time if the narrower factor is the first.
    narrow = x.shape[1] <= cotangent.shape[1]
    grad_kernel = sum_over_rows(x, cotangent) if narrow else sum_over_rows(cotangent, x)
    grad_kernel = grad_kernel if narrow != transposed else grad_kernel.T
    grad_x = _dot(cotangent, kernel, precision, x.dtype, (1, 1 - int(transposed)))
    return grad_x, grad_kernel.astype(kernel.dtype)


_product.defvjp(lambda x, kernel, *rest: (_product(x, kernel, *rest), (x, kernel)), _backward)


def dense_dot(x: Array, kernel: Array, _: Any, precision: Any = None, **__: Any) -> Array:
    """`product` in the place of `lax.dot_general` in `nn.Dense`."""
    return product(x, kernel, precision)


def exact_dot(x: Array, kernel: Array, _: Any, precision: Any = None, **__: Any) -> Array:
    """`dense_dot` whose result is float32 at least, whatever the dtype of the factors is."""
    return product(x, kernel, precision, jnp.promote_types(x.dtype, jnp.float32))


def to_heads(
    x: Float[AnyArray, "B T E"],
    kernel: Float[AnyArray, "E H K"],
    bias: Float[AnyArray, "H K"] | None = None,
    precision: Any = None,
) -> Float[Array, "H B T K"]:
    """`x W + b` of every head, computed in the dtype of x."""
    dim, *heads = kernel.shape
    split = product(x, kernel.astype(x.dtype).reshape(dim, -1), precision)
    split = jnp.moveaxis(split.reshape(*x.shape[:-1], *heads), 2, 0)
    return split if bias is None else split + bias.astype(x.dtype)[:, None, None]


def from_heads(
    heads: Float[Array, "H B T K"], kernel: Float[AnyArray, "H K E"], precision: Any = None
) -> Float[Array, "B T E"]:
    """`Σ_h z_h W_h`, computed in the dtype of the heads."""
    joined = jnp.moveaxis(heads, 0, 2)
    joined = joined.reshape(*joined.shape[:2], -1)
    return product(joined, kernel.astype(heads.dtype).reshape(joined.shape[-1], -1), precision)
