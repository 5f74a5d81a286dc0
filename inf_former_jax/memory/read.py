"""Reading the signal under attention densities, recomputed instead of stored.

`z = E_p[x̄(t)] = Σ_n E_p[ψ_n] V_n` (paper §3.1). The expectations are [B, H, T, N] numbers, each
an exponential: too many to keep for the backward pass. A custom VJP walks over chunks of queries
and forms them again, so that no more than a chunk of them exists at any time.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import AnyArray, GaussianBasis, expectation
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.operators import HIGHEST


def expected_value(
    basis: GaussianBasis,
    density: GaussianDensity,
    values: Float[AnyArray, "B H N K"],
    chunk: int = 128,
    read: Literal["chunks", "kernel"] = "chunks",
) -> Float[Array, "B H T K"]:
    """`z = Σ_n E_p[ψ_n] V_n` for each density p, over chunks of queries (paper §3.1).

    Args:
        density: fields [B, H, T].
        values: V, the projected coefficients of each head.
        chunk: queries whose [N] expectations exist at a time; any T is accepted.
        read: kernel does without chunks, see `memory.read_kernel`.
    """
    if read == "kernel":
        # Pallas is imported for those only who ask for it.
        from inf_former_jax.memory import read_kernel

        return read_kernel.expected_value(basis, density, values)
    length = density.mean.shape[-1]
    count = -(-length // chunk)
    size = -(-length // count)
    # Queries that fill up the last chunk: any valid density, cut off again below.
    mean = _split(density.mean, count, size, 0.5)
    var = _split(density.var, count, size, 1.0)
    out = _read(basis, mean, var, values)  # [chunks, B, H, size, K]
    joined = jnp.moveaxis(out, 0, 2).reshape(*values.shape[:2], count * size, values.shape[-1])
    return joined[:, :, :length]


def density_gradient(
    basis: GaussianBasis,
    mean: Float[Array, "*batch"],
    var: Float[Array, "*batch"],
    g: Float[Array, "*batch N"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`Σ_n g_n ∂ln r_n` by μ and by σ² for expectations r; g = r · (the cotangent of r).

    ∂r/∂μ = r (loc-μ)/v and ∂r/∂σ² = ½ r ((loc-μ)²/v - 1)/v, with v = σ² + scale².
    """
    loc, scale = (b.astype(mean.dtype).reshape(*(1,) * mean.ndim, -1) for b in basis)
    inverse = 1.0 / (var[..., None] + scale**2)
    delta = loc - mean[..., None]
    of_mean = (g * delta * inverse).sum(-1)
    of_var = 0.5 * (g * (delta**2 * inverse - 1.0) * inverse).sum(-1)
    return of_mean, of_var


def _split(x, count, size, fill):
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, count * size - x.shape[-1])), constant_values=fill)
    return jnp.moveaxis(padded.reshape(*x.shape[:2], count, size), 2, 0)


@jax.custom_vjp
def _read(basis, mean, var, values):
    def of_chunk(chunk):
        r = expectation(basis, *chunk)
        return jnp.einsum("bhtn,bhnk->bhtk", r, values, precision=HIGHEST)

    return jax.lax.map(of_chunk, (mean, var))


def _read_forward(basis, mean, var, values):
    return _read(basis, mean, var, values), (basis, mean, var, values)


def _read_backward(residuals, cotangent):
    basis, mean, var, values = residuals

    def of_chunk(grad_values, chunk):
        mean, var, ct = chunk
        r = expectation(basis, mean, var)
        grad_values += jnp.einsum("bhtn,bhtk->bhnk", r, ct, precision=HIGHEST)
        g = r * jnp.einsum("bhtk,bhnk->bhtn", ct, values, precision=HIGHEST)
        return grad_values, density_gradient(basis, mean, var, g)

    zeros = jnp.zeros_like(values)
    grad_values, (grad_mean, grad_var) = jax.lax.scan(of_chunk, zeros, (mean, var, cotangent))
    return None, grad_mean, grad_var, grad_values


_read.defvjp(_read_forward, _read_backward)
