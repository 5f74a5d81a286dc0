"""Reading the signal under attention densities, recomputed instead of stored.

`z = E_p[x̄(t)] = Σ_n E_p[ψ_n] V_n` (paper §3.1). The expectations are [B, H, T, N] numbers, each
an exponential: too many to keep for the backward pass. A custom VJP walks over chunks of queries
and forms them again, so that no more than a chunk of them exists at any time, on a CPU of a few
heads only.

Functions of one width s share all but the exponential: with d = μ - loc_n and v = σ² + s²,

    z = Σ_s Σ_n e_n V_n / √(2πv),    e_n = exp(-d_n² / 2v)
    ∂z/∂μ: -Σ_n (g_n d_n) / v,    ∂z/∂σ²: ½ Σ_n g_n (d_n²/v - 1) / v,    g = e ⊙ (∂z V) / √(2πv),

so divisions and roots are taken once a query and width, not once a number.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inf_former_jax.memory import groups
from inf_former_jax.memory.basis import AnyArray, GaussianBasis
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.operators import HIGHEST


def expected_value(
    basis: GaussianBasis,
    density: GaussianDensity,
    values: Float[AnyArray, "B H N K"],
    chunk: int = 256,
    read: Literal["chunks", "kernel"] = "chunks",
) -> Float[Array, "B H T K"]:
    """`z = Σ_n E_p[ψ_n] V_n` for each density p, over chunks of queries (paper §3.1).

    Args:
        density: fields [B, H, T].
        values: V, the projected coefficients of each head.
        chunk: queries whose expectations, of one width, exist at a time; any T is accepted. Of a
            few heads there may be more, up to `groups.CACHED` numbers.
        read: kernel does without chunks, see `memory.read_kernel`.
    """
    if read == "kernel":
        # Pallas is imported for those only who ask for it.
        from inf_former_jax.memory import read_kernel

        return read_kernel.expected_value(basis, density, values)
    scales = _scales(basis)
    # [B, H] as one axis: heads of rows are independent of each other.
    mean, var, values = (x.reshape(-1, *x.shape[2:]) for x in (density.mean, density.var, values))
    apart = values.reshape(values.shape[0], -1, len(scales), values.shape[-1])
    locs = np.reshape(basis.loc, (-1, len(scales))).T
    by_width = tuple(
        Width(jnp.asarray(loc, mean.dtype), jnp.asarray(scale, mean.dtype), apart[:, :, number])
        for number, (loc, scale) in enumerate(zip(locs, scales, strict=True))
    )
    out = _read(mean, var, by_width, chunk)
    return out.reshape(*density.mean.shape, -1)


class Width(NamedTuple):
    """The functions of one width."""

    loc: Float[Array, " C"]
    scale: Float[Array, ""]
    values: Float[Array, "G C K"]


def _scales(basis):
    """The widths that follow each other at every centre: the shortest period of the scales."""
    scale = np.asarray(basis.scale)
    lengths = (n for n in range(1, len(scale) + 1) if len(scale) % n == 0)
    return next(scale[:n] for n in lengths if (scale.reshape(-1, n) == scale[:n]).all())


def _chunks(x, chunk, fill):
    """[G, T, …] as [chunks, G, t, …]; what fills up the last one is cut off again by `_whole`."""
    length = x.shape[1]
    count = -(-length // chunk)
    size = -(-length // count)
    pad = ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2))
    padded = jnp.pad(x, pad, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def _whole(chunks, length):
    joined = jnp.moveaxis(chunks, 0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _read(mean, var, by_width, chunk):
    """Of G densities [G, T] over values [G, C, K] of each width: [G, T, K]."""

    def of_group(mean, var, *values):
        def of_chunk(density):
            total = 0.0
            for width, of in zip(by_width, values, strict=True):
                e, _, _, peak = _exponentials(width, *density)
                z = jnp.einsum("gtc,gck->gtk", e, of, precision=HIGHEST)
                total += peak[..., None] * z
            return total

        size = _size(mean, by_width, chunk)
        chunks = _chunks(mean, size, 0.5), _chunks(var, size, 1.0)
        return _whole(jax.lax.map(of_chunk, chunks), mean.shape[1])

    values = (width.values for width in by_width)
    return groups.by_groups(of_group, _numbers(mean, by_width, chunk), mean, var, *values)


def _exponentials(width, mean, var):
    """`exp(-d²/2v)` [G, t, C], d, and of each query 1/v and the peak 1/√(2πv)."""
    inverse = 1.0 / (var + width.scale**2)
    d = mean[..., None] - width.loc[None, None]
    e = jnp.exp(d * d * (-0.5 * inverse)[..., None])
    return e, d, inverse, jnp.sqrt(inverse / (2.0 * np.pi))


def _size(mean, by_width, chunk):
    """Queries of a chunk: more of a few heads, since many small steps leave cores idle."""
    of_query = mean.shape[0] * by_width[0].values.shape[1]
    return max(chunk, groups.CACHED // of_query)


def _numbers(mean, by_width, chunk):
    return min(chunk, mean.shape[1]) * by_width[0].values.shape[1]


def _read_forward(mean, var, by_width, chunk):
    return _read(mean, var, by_width, chunk), (mean, var, by_width)


def _read_backward(chunk, residuals, cotangent):
    mean, var, by_width = residuals

    def of_group(mean, var, cotangent, *values):
        def of_chunk(grads, now):
            mean, var, ct = now
            of_mean, of_var, of_values = jnp.zeros_like(mean), jnp.zeros_like(var), []
            for width, of, grad in zip(by_width, values, grads, strict=True):
                e, d, inverse, peak = _exponentials(width, mean, var)
                peaked = ct * peak[..., None]
                # A product turns its first factor, so that is the small one.
                of_values.append(grad + jnp.einsum("gtk,gtc->gkc", peaked, e, precision=HIGHEST))
                g = e * jnp.einsum("gtk,gck->gtc", peaked, of, precision=HIGHEST)
                # As a product: XLA's own sums along the last axis are slow on a CPU.
                total = partial(jnp.dot, b=jnp.ones_like(width.loc), precision=HIGHEST)
                by_d = g * d
                of_mean -= inverse * total(by_d)
                of_var += 0.5 * inverse * total(by_d * (d * inverse[..., None]) - g)
            return tuple(of_values), (of_mean, of_var)

        size = _size(mean, by_width, chunk)
        chunks = _chunks(mean, size, 0.5), _chunks(var, size, 1.0), _chunks(cotangent, size, 0.0)
        zeros = tuple(jnp.zeros_like(jnp.swapaxes(of, 1, 2)) for of in values)
        grads, of_density = jax.lax.scan(of_chunk, zeros, chunks)
        whole = (_whole(of, mean.shape[1]) for of in of_density)
        return *whole, *(jnp.swapaxes(grad, 1, 2) for grad in grads)

    given = mean, var, cotangent, *(width.values for width in by_width)
    of_mean, of_var, *grads = groups.by_groups(of_group, _numbers(mean, by_width, chunk), *given)
    return of_mean, of_var, tuple(Width(None, None, grad) for grad in grads)


_read.defvjp(_read_forward, _read_backward)
