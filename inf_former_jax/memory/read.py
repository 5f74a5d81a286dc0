"""Reading the signal under attention densities, recomputed instead of stored.

`z = E_p[x̄(t)] = Σ_n E_p[ψ_n] V_n` (paper §3.1). The expectations are [B, H, T, N] numbers, each
an exponential: too many to keep for the backward pass. A custom VJP walks over chunks of queries
and forms them again, so that no more than a chunk of them exists at any time, on a CPU of a few
heads only.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import HIGHEST, AnyArray, GaussianBasis, expectation
from inf_former_jax.memory.cpu_cache import in_cached_pieces
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.require import require

#: Other ways to read, by their name in `LongTermConfig.read`. This floor does not import `contrib`;
#: a module of `contrib` adds its function here when it is imported.
READERS: dict[str, Callable[[GaussianBasis, GaussianDensity, Array], Array]] = {}

# Rows, of all heads' queries, that a product has at least: fewer are slower, even in the cache.
_ROWS = 1024


def expected_value(
    basis: GaussianBasis,
    density: GaussianDensity,
    values: Float[AnyArray, "B H N K"],
    chunk: int = 256,
    read: str = "chunks",
) -> Float[Array, "B H T K"]:
    """`z = Σ_n E_p[ψ_n] V_n` for each density p, over chunks of queries (paper §3.1).

    Args:
        density: fields [B, H, T].
        values: V, the projected coefficients of each head.
        chunk: queries whose [N] expectations exist at a time; any T is accepted. More of them
            where fewer heads than 1,024 / chunk are read at once, as on a CPU.
        read: `LongTermConfig.read`: chunks, or the name of a function in `READERS`.

    Raises:
        ValueError: nobody has put a function of this name into `READERS`.
    """
    if read != "chunks":
        accepted = "chunks, or kernel after `import inf_former_jax.contrib.pallas_read`"
        require(read in READERS, "read", read, accepted)
        return READERS[read](basis, density, values)
    # [B, H] as one axis: heads of rows are independent of each other.
    given = (density.mean, density.var, jnp.swapaxes(values, 2, 3))
    out = _read(basis, *(leaf.reshape(-1, *leaf.shape[2:]) for leaf in given), chunk)
    return jnp.swapaxes(out.reshape(*values.shape[:2], *out.shape[1:]), 2, 3)


def density_gradient(
    basis: GaussianBasis,
    mean: Float[Array, "*batch"],
    var: Float[Array, "*batch"],
    g: Float[Array, "*batch N"],
    total: Callable[[Array], Array] = lambda x: x.sum(-1),
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`Σ_n g_n ∂ln r_n` by μ and by σ² for expectations r; g = r · (the cotangent of r).

    ∂r/∂μ = r (loc-μ)/v and ∂r/∂σ² = ½ r ((loc-μ)²/v - 1)/v, with v = σ² + scale².

    Args:
        total: how to sum over n.
    """
    loc, scale = (b.astype(mean.dtype).reshape(*(1,) * mean.ndim, -1) for b in basis)
    inverse = 1.0 / (var[..., None] + scale**2)
    delta = loc - mean[..., None]
    of_mean = total(g * delta * inverse)
    return of_mean, 0.5 * total(g * (delta**2 * inverse - 1.0) * inverse)


def _chunks(x, chunk, fill):
    """[G, T, …] as [chunks, G, t, …]; what fills up the last one is cut off again by `_whole`."""
    length = x.shape[1]
    count = -(-length // max(chunk, _ROWS // x.shape[0]))
    size = -(-length // count)
    pad = ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2))
    padded = jnp.pad(x, pad, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def _whole(chunks, length):
    """[chunks, G, …, t] as [G, …, T]."""
    joined = jnp.moveaxis(chunks, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :length]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _read(basis, mean, var, values, chunk):
    """Of G densities [G, T] over values [G, K, N]: [G, K, T].

    N is last in both factors of the product: so a CPU multiplies narrow heads fastest.
    """

    def of_group(mean, var, values):
        def of_chunk(density):
            r = expectation(basis, *density)
            return jnp.einsum("gkn,gtn->gkt", values, r, precision=HIGHEST)

        chunks = _chunks(mean, chunk, 0.5), _chunks(var, chunk, 1.0)
        return _whole(jax.lax.map(of_chunk, chunks), mean.shape[1])

    return in_cached_pieces(of_group, _expectations(mean, values, chunk), mean, var, values)


def _expectations(mean, values, chunk):
    return min(chunk, mean.shape[1]) * values.shape[-1]


def _read_forward(basis, mean, var, values, chunk):
    return _read(basis, mean, var, values, chunk), (basis, mean, var, values)


def _read_backward(chunk, residuals, cotangent):
    basis, mean, var, values = residuals
    cotangent = jnp.swapaxes(cotangent, 1, 2)
    # As a product: XLA's own sums along the last axis are slow on a CPU.
    total = partial(jnp.dot, b=jnp.ones(values.shape[-1], values.dtype), precision=HIGHEST)

    def of_group(mean, var, values, cotangent):
        def of_chunk(grad_values, now):
            mean, var, ct = now
            r = expectation(basis, mean, var)
            # A product turns its first factor, so that is the small one.
            grad_values += jnp.einsum("gtk,gtn->gkn", ct, r, precision=HIGHEST)
            g = r * jnp.einsum("gtk,gkn->gtn", ct, values, precision=HIGHEST)
            return grad_values, density_gradient(basis, mean, var, g, total)

        chunks = _chunks(mean, chunk, 0.5), _chunks(var, chunk, 1.0), _chunks(cotangent, chunk, 0.0)
        grad_values, of_density = jax.lax.scan(of_chunk, jnp.zeros_like(values), chunks)
        return *(_whole(of, mean.shape[1]) for of in of_density), grad_values

    given = mean, var, values, cotangent
    return None, *in_cached_pieces(of_group, _expectations(mean, values, chunk), *given)


_read.defvjp(_read_forward, _read_backward)
