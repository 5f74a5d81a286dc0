"""Where attention fell: its mass on parts of the memory's time (paper §3.3)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.density.gibbs import mass_below
from inf_former_jax.memory.density.kind import Density

#: How far the first and the last bin edge are moved outwards, as published.
EDGE_MARGIN = 1e-6


def bin_mass(
    density: Density, bins: int, where: Bool[AnyArray, "B T"] | None = None
) -> Float[Array, "B D"]:
    """Share of the attention that falls into each of D equal bins of [0, 1] (paper §3.3).

    `p(d) ∝ Σ_heads Σ_queries ∫_d p(t) dt` with the outermost edges moved out by 1e-6.

    Args:
        density: of H heads and T queries, fields of shape [B, H, T].
        where: queries that count; a row without any gets zeros.

    Returns:
        Rows that sum to 1 (or are all 0).
    """
    return normalise(bin_sum(density, bins, where))


def bin_sum(
    density: Density, bins: int, where: Bool[AnyArray, "B T"] | None = None
) -> Float[Array, "B D"]:
    """`Σ_heads Σ_queries ∫_d p(t) dt` of each bin d; `bin_mass` divides it by its sum.

    All queries' distribution functions are summed at each bin edge first, and neighbouring sums are
    subtracted: half the work of `interval_sum`. In float32 a bin is off by some 1e-5 of the largest
    one, which is accurate enough to place samples.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    edges[0], edges[-1] = -EDGE_MARGIN, 1.0 + EDGE_MARGIN
    return jnp.maximum(jnp.diff(density.sums_below(edges, where)), 0.0)


def bins_of_cells(mass: Float[AnyArray, "B R"], bins: int) -> Float[Array, "B D"]:
    """The mass of D equal bins, given that of R equal cells: `bin_sum` of a density on cells."""
    if mass.shape[-1] == bins:
        return jnp.asarray(mass)
    return jnp.maximum(
        jnp.diff(mass_below(jnp.asarray(mass), np.linspace(0.0, 1.0, bins + 1))), 0.0
    )


def interval_sum(
    density: Density,
    edges: Float[AnyArray, " J"],
    where: Bool[AnyArray, "B T"] | None = None,
) -> Float[Array, "B J-1"]:
    """`Σ_heads Σ_queries ∫_d p(t) dt` between neighbouring edges, which may be infinite.

    Each query's mass is formed before the sum, so that many small intervals are as exact as few
    large ones.
    """
    mass = jnp.diff(density.below(edges))
    if where is not None:
        mass = jnp.where(jnp.asarray(where)[:, None, :, None], mass, 0.0)
    return jnp.maximum(mass, 0.0).sum(axis=(1, 2))


def normalise(mass: Float[AnyArray, "B D"]) -> Float[Array, "B D"]:
    """Rows divided by their sums; rows of zeros stay zeros, where 0/0 would be NaN."""
    total = mass.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, mass / jnp.where(total > 0, total, 1.0), 0.0)
