"""Reading the signal under attention densities, recomputed instead of stored.

`z = E_p[x̄(t)] = Σ_n E_p[ψ_n] V_n` (paper §3.1). The expectations are [B, H, T, N] numbers, each
an exponential: too many to keep for the backward pass. A custom VJP walks over chunks of queries
and forms them again in the backward pass, so that only one chunk of them exists at a time. On a
CPU a chunk holds the queries of a few heads, whose expectations stay in the cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import Basis, GaussianBasis
from inf_former_jax.memory.cpu_cache import in_cached_pieces
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.density.kind import LocatedDensity
from inf_former_jax.require import require

#: Other ways to read, by their name in `LongTermConfig.read`. This floor does not import `contrib`;
#: a module of `contrib` adds its function here when it is imported.
READERS: dict[str, Callable[[Any, Any, Array], Array]] = {}

# A product has at least this many rows: the queries of all heads that are read together. On a CPU
# products of fewer rows are slower, although they need less of the cache.
_ROWS = 1024


def expected_value(
    basis: Basis,
    density: LocatedDensity,
    values: Float[AnyArray, "B H N K"],
    chunk: int = 256,
    read: str = "chunks",
) -> Float[Array, "B H T K"]:
    """`z = Σ_n E_p[ψ_n] V_n` for each density p, over chunks of queries (paper §3.1).

    Args:
        density: fields [B, H, T].
        values: V, the projected coefficients of each head.
        chunk: queries whose [N] expectations exist at a time; any T is accepted. Where fewer than
            1,024 / chunk heads are read together, as on a CPU, chunks are longer.
        read: `LongTermConfig.read`: chunks, or the name of a function in `READERS`.

    Raises:
        ValueError: no function of this name is in `READERS`.
    """
    if read != "chunks":
        accepted = "chunks, or kernel after `import inf_former_jax.contrib.pallas_read`"
        require(read in READERS, "read", read, accepted)
        return READERS[read](basis, density, jnp.asarray(values))

    def flat(x):  # [B, H, …] as [G, …]: heads of rows are independent of each other
        return jnp.asarray(x).reshape(-1, *x.shape[2:])

    turned = jnp.swapaxes(values, 2, 3)
    z = _read(basis, jax.tree.map(flat, density), flat(turned), chunk)
    return jnp.swapaxes(z.reshape(*values.shape[:2], *z.shape[1:]), 2, 3)


def density_gradient(
    basis: GaussianBasis,
    mean: Float[Array, "*batch"],
    var: Float[Array, "*batch"],
    g: Float[AnyArray, "*batch N"],
    total: Callable[[Array], Array] = lambda x: x.sum(-1),
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`Σ_n g_n ∂ln r_n` by μ and by σ² for expectations r; g = r · (the cotangent of r).

    ∂r/∂μ = r (loc-μ)/v and ∂r/∂σ² = ½ r ((loc-μ)²/v - 1)/v, with v = σ² + scale².

    Args:
        total: how to sum over n.
    """
    ones = (1,) * mean.ndim
    loc, scale = (jnp.asarray(leaf, mean.dtype).reshape(*ones, -1) for leaf in basis)
    inverse = 1.0 / (var[..., None] + scale**2)
    delta = loc - mean[..., None]
    g = jnp.asarray(g)
    by_mean = total(g * delta * inverse)
    return by_mean, 0.5 * total(g * (delta**2 * inverse - 1.0) * inverse)


def _by_chunks(basis: Basis, density: LocatedDensity, values: Array, chunk: int) -> Array:
    """z [G, K, T] of densities [G, T] over values [G, K, N].

    N is the last axis of both factors, with which a CPU multiplies narrow heads fastest.
    """

    def read_heads(density, values):
        def read_chunk(density):
            r = basis.expectation(density)
            return jnp.einsum("gkn,gtn->gkt", values, r, precision=HIGHEST)

        found = jax.lax.map(read_chunk, _density_chunks(density, chunk))
        return _joined(found, density.mean.shape[1])

    expectations = min(chunk, density.mean.shape[1]) * values.shape[-1]  # of a head, at a time
    return in_cached_pieces(read_heads, expectations, density, values)


def _forward(basis, density, values, chunk):
    return _read(basis, density, values, chunk), (basis, density, values)


def _backward(chunk, residuals, cotangent):
    basis, density, values = residuals
    cotangent = jnp.swapaxes(cotangent, 1, 2)

    def differentiate_heads(density, values, cotangent):
        def differentiate_chunk(grad_values, inputs):
            density, ct = inputs
            r, pull_back = _expectation_vjp(basis, density)
            # XLA transposes the first operand of this product. So that is ct, the smaller one: it
            # has K columns, r has N.
            grad_values += jnp.einsum("gtk,gtn->gkn", ct, r, precision=HIGHEST)
            return grad_values, pull_back(jnp.einsum("gtk,gkn->gtn", ct, values, precision=HIGHEST))

        chunks = _density_chunks(density, chunk), _chunks(cotangent, chunk, 0.0)
        zeros = jnp.zeros_like(values)
        grad_values, by_chunk = jax.lax.scan(differentiate_chunk, zeros, chunks)
        length = density.mean.shape[1]
        return jax.tree.map(lambda grad: _joined(grad, length), by_chunk), grad_values

    arrays = density, values, cotangent
    expectations = min(chunk, density.mean.shape[1]) * values.shape[-1]
    return None, *in_cached_pieces(differentiate_heads, expectations, *arrays)


_read = jax.custom_vjp(_by_chunks, nondiff_argnums=(3,))
_read.defvjp(_forward, _backward)


def _expectation_vjp(basis: Basis, density: LocatedDensity) -> tuple[Array, Callable[[Array], Any]]:
    """Expectations r, and from a cotangent of r to that of the density.

    Gaussian densities on a Gaussian basis have a form that needs no second exponential.
    """
    if not (isinstance(basis, GaussianBasis) and isinstance(density, GaussianDensity)):
        r, pull_back = jax.vjp(basis.expectation, density)
        return jnp.asarray(r), lambda cotangent: pull_back(cotangent)[0]
    r = jnp.asarray(basis.expectation(density))
    # A matrix product with ones: XLA's own sums along the last axis are slow on a CPU.
    total = partial(jnp.dot, b=jnp.ones(r.shape[-1], r.dtype), precision=HIGHEST)
    mean, var = map(jnp.asarray, density)
    return r, lambda ct: GaussianDensity(*density_gradient(basis, mean, var, r * ct, total))


def _density_chunks(density: LocatedDensity, chunk: int) -> Any:
    """Densities [G, T] as [chunks, G, t]; the last chunk is filled up with any valid ones."""
    mean, var = _chunks(density.mean, chunk, 0.5), _chunks(density.var, chunk, 1.0)
    kind: Any = type(density)
    return kind(mean, var)


def _chunks(x: Array, chunk: int, fill: float) -> Array:
    """[G, T, …] as [chunks, G, t, …]; `_joined` cuts off what fills up the last chunk."""
    length = x.shape[1]
    count = -(-length // max(chunk, _ROWS // x.shape[0]))
    size = -(-length // count)
    pad = ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2))
    padded = jnp.pad(x, pad, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def _joined(chunks: Array, length: int) -> Array:
    """[chunks, G, …, t] as [G, …, T]."""
    joined = jnp.moveaxis(chunks, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :length]
