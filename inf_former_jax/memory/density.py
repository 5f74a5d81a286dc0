"""Attention densities over the memory's time, and what the sticky memory keeps of them.

`p(t) = N(t; μ, σ²)` on the whole line, one for each head and query (paper §3.1, §3.3; SPEC §2, §3).

To add another density (see CONTRIBUTING.md): a NamedTuple of its parameters here, with its own `kl`
and `bin_sum`; its `expectation` under each basis in `basis`; the derivatives of that expectation in
`read.density_gradient`; and the function of queries and coefficients that makes it, in
`models.attention`, chosen by a field of `config.LongTermConfig`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from inf_former_jax.memory.basis import AnyArray

#: How far the first and the last bin edge are moved outwards, as published.
EDGE_MARGIN = 1e-6


class GaussianDensity(NamedTuple):
    """Gaussian densities over time, in units of the whole signal."""

    mean: Float[AnyArray, "*batch"]  # μ
    var: Float[AnyArray, "*batch"]  # σ²


def kl(
    density: GaussianDensity, prior_scale: float, prior_mean: float | None = None
) -> Float[Array, "*batch"]:
    """`KL(N(μ,σ²) ‖ N(μ_0,σ_0²))` of each density, in nats (paper §3.1, "KL regularization").

    `½(σ²/σ_0² - log(σ²/σ_0²) - 1 + (μ-μ_0)²/σ_0²)`; without prior_mean (μ_0) the last term is
    dropped, so that only the width is regularised.
    """
    mean, var = map(jnp.asarray, density)
    ratio = var / prior_scale**2
    result = 0.5 * (ratio - jnp.log(ratio) - 1.0)
    if prior_mean is None:
        return result
    return result + 0.5 * ((mean - prior_mean) / prior_scale) ** 2


def bin_mass(
    density: GaussianDensity, bins: int, where: Bool[AnyArray, "B T"] | None = None
) -> Float[Array, "B D"]:
    """Share of the attention that falls into each of D equal bins of [0, 1] (paper §3.3).

    `p(d) ∝ Σ_heads Σ_queries ∫_d N(t; μ, σ²) dt` with the outermost edges moved out by 1e-6.

    Args:
        density: fields of shape [B, H, T].
        where: queries that count; a row without any gets zeros.

    Returns:
        Rows that sum to 1 (or are all 0).
    """
    return normalise(bin_sum(density, bins, where))


def bin_sum(
    density: GaussianDensity, bins: int, where: Bool[AnyArray, "B T"] | None = None
) -> Float[Array, "B D"]:
    """`Σ_heads Σ_queries ∫_d N(t; μ, σ²) dt` of each bin d; `bin_mass` divides it by its sum.

    All queries' distribution functions are summed at each bin edge e first, `½ Σ erf((e-μ)/σ√2)`,
    and neighbouring sums are subtracted: half the work of `interval_sum`. In float32 a bin is off
    by some 1e-5 of the largest one, which is accurate enough to place samples.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    edges[0], edges[-1] = -EDGE_MARGIN, 1.0 + EDGE_MARGIN
    edges, mean, var, counts = _broadcast(density, edges, where)
    below = jax.lax.erf((edges - mean) * jax.lax.rsqrt(2.0 * var))
    if counts is not None:
        below = jnp.where(counts, below, 0.0)
    return jnp.maximum(0.5 * jnp.diff(below.sum(axis=(1, 2))), 0.0)


def interval_sum(
    density: GaussianDensity,
    edges: Float[AnyArray, " J"],
    where: Bool[AnyArray, "B T"] | None = None,
) -> Float[Array, "B J-1"]:
    """`Σ_heads Σ_queries ∫_d N(t; μ, σ²) dt` between neighbouring edges, which may be infinite.

    Each query's mass is formed before the sum, so that many small intervals are as exact as few
    large ones.
    """
    edges, mean, var, counts = _broadcast(density, edges, where)
    scale = jnp.sqrt(var)
    mass = ndtr((edges[..., 1:] - mean) / scale) - ndtr((edges[..., :-1] - mean) / scale)
    if counts is not None:
        mass = jnp.where(counts, mass, 0.0)
    return jnp.maximum(mass, 0.0).sum(axis=(1, 2))


def _broadcast(
    density: GaussianDensity,
    edges: Float[AnyArray, " J"],
    where: Bool[AnyArray, "B T"] | None,
) -> tuple[Array, Array, Array, Array | None]:
    """Edges [1, 1, 1, J]; means and variances [B, H, T, 1]; which queries count [B, 1, T, 1]."""
    mean, var = (jnp.asarray(field)[..., None] for field in density)
    counts = None if where is None else jnp.asarray(where)[:, None, :, None]
    return jnp.asarray(edges, dtype=mean.dtype).reshape(1, 1, 1, -1), mean, var, counts


def normalise(mass: Float[AnyArray, "B D"]) -> Float[Array, "B D"]:
    """Rows divided by their sums; rows of zeros stay zeros, where 0/0 would be NaN."""
    total = mass.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, mass / jnp.where(total > 0, total, 1.0), 0.0)


def uniform_locations(num_samples: int) -> Float[np.ndarray, " M"]:
    """`u_m = m/M`, m = 1..M: the grid on which a memory without salience is read (paper §3.2)."""
    return np.arange(1, num_samples + 1) / num_samples


def quantile_locations(salience: Float[AnyArray, "B D"], num_samples: int) -> Float[Array, "B M"]:
    """M sorted locations with the salience's density: its quantiles at `(m - ½)/M` (SPEC §3).

    `interp(q, cumsum(p), edges)`, linear inside a bin. Deterministic and without the repeats of
    random draws. Rows without salience get `u_m = m/M`.
    """
    levels = (np.arange(num_samples) + 0.5) / num_samples
    edges = np.linspace(0.0, 1.0, salience.shape[-1] + 1)

    def quantiles(p):
        cumulative = jnp.concatenate([jnp.zeros(1, p.dtype), jnp.cumsum(p)])
        return jnp.interp(jnp.asarray(levels, p.dtype), cumulative, jnp.asarray(edges, p.dtype))

    return _uniform_without_salience(salience, jax.vmap(quantiles)(normalise(salience)))


def drawn_locations(
    salience: Float[AnyArray, "B D"], uniforms: Float[AnyArray, "B M"]
) -> Float[Array, "B M"]:
    """M sorted locations by inversion of uniform draws: *left edges* of bins, as published (§3.3).

    With M > D there are at least M - D repeats and nothing beyond 1 - 1/D; `quantile_locations`
    has neither defect. Rows without salience get `u_m = m/M`.
    """
    bins = salience.shape[-1]

    def draw(p, uniforms):
        return jnp.searchsorted(jnp.cumsum(p), uniforms, side="right")

    drawn = jax.vmap(draw)(normalise(salience), jnp.asarray(uniforms))
    # A cumulative sum that rounds to below 1 would put the largest draws into a bin D.
    left_edges = jnp.minimum(drawn, bins - 1).astype(salience.dtype) / bins
    return _uniform_without_salience(salience, jnp.sort(left_edges, axis=-1))


def random_locations(
    key: PRNGKeyArray | Key[Array, " B"], salience: Float[AnyArray, "B D"], num_samples: int
) -> Float[Array, "B M"]:
    """`drawn_locations` of M fresh uniform draws a row.

    Args:
        key: one for all rows, or one for each [B]: with these a row's draws do not depend on which
            rows it is computed with.
    """
    batch, dtype = salience.shape[0], salience.dtype
    if key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        draws = jax.vmap(lambda key: jax.random.uniform(key, (num_samples,), dtype))(key)
    else:  # one, also in the old form of two numbers
        draws = jax.random.uniform(key, (batch, num_samples), dtype)
    return drawn_locations(salience, draws)


def _uniform_without_salience(salience: AnyArray, locations: Array) -> Array:
    grid = jnp.asarray(uniform_locations(locations.shape[-1]), locations.dtype)[None, :]
    return jnp.where(salience.sum(axis=-1, keepdims=True) > 0, locations, grid)
