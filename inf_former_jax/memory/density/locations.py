"""Where a write reads the old signal: on a grid, or where attention fell (paper §3.2, §3.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.density.salience import normalise
from inf_former_jax.require import require


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


def distinct_bins(salience: Float[AnyArray, "B D"], num_samples: int) -> Int[Array, "B M"]:
    """M ≤ D different bins, sorted: those of most salience, and some of the others.

    They are where the quantiles at `(m - ½)/M` fall of a density that no bin has more than 1/M of:
    `min(1/M, c p_d)`, c so that it sums to 1. Bins that would have more are in for certain. In a
    row without salience all bins have as much.

    Raises:
        ValueError: more samples than bins.
    """
    bins = salience.shape[-1]
    require(num_samples <= bins, "num_samples", num_samples, f"at most the {bins} bins")
    p = normalise(normalise(salience) * (1 - _SPREAD) + _SPREAD / bins)
    falling = -jnp.sort(-p, axis=-1)
    # If the s largest bins are full, the others share M - s in proportion to what they have.
    number = jnp.arange(bins, dtype=p.dtype)[None]
    others = jnp.cumsum(falling[:, ::-1], axis=-1)[:, ::-1]
    factor = (num_samples - number) / jnp.maximum(others, jnp.finfo(p.dtype).tiny)
    # The fewest that are full so that the next one does not overflow.
    fits = (number < num_samples) & (factor * falling <= 1)
    fewest = jnp.argmax(fits, axis=-1)[:, None]
    factor = jnp.where(fits.any(-1)[:, None], jnp.take_along_axis(factor, fewest, -1), jnp.inf)
    full = factor * p >= 1
    share = jnp.where(full, 0.0, factor * p)
    below = jnp.cumsum(share, axis=-1)
    met = jnp.floor(below + 0.5) > jnp.floor(below - share + 0.5)
    # Rounding may meet one too many or too few: the M first of this order are always M bins.
    _, found = jax.lax.top_k(2.0 * full + met + share / 2, num_samples)
    return jnp.sort(found, axis=-1)


#: The part of its salience that a row of `distinct_bins` spreads over all bins, so that there are
#: always enough of them to choose from.
_SPREAD = 1e-4


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
