"""Gaussian densities `p(t) = N(t; μ, σ²)` on the whole line (paper §3.1; SPEC §2)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import AnyArray, beside, normal_cdf
from inf_former_jax.memory.density.kind import LocatedDensity

_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


class GaussianDensity(NamedTuple):
    """Gaussian densities over time, in units of the whole signal."""

    mean: Float[AnyArray, "*batch"]  # μ
    var: Float[AnyArray, "*batch"]  # σ²

    def below(self, edges: Float[Any, " J"]) -> Float[AnyArray, "*batch J"]:
        """`Φ((e - μ)/σ)` at each edge e, which may be infinite."""
        xp, mean, edges = beside(self.mean, edges)
        scaled = (edges - mean) / xp.sqrt(xp.asarray(self.var, mean.dtype))[..., None]
        return normal_cdf(scaled)

    def smoothed(
        self, loc: Float[Any, " N"], scale: Float[Any, " N"]
    ) -> Float[AnyArray, "*batch N"]:
        """`N(μ; loc_j, σ² + scale_j²)`, the convolution of two Gaussian densities."""
        xp, mean, loc, scale = beside(self.mean, loc, scale)
        total = xp.asarray(self.var, mean.dtype)[..., None] + scale**2
        return xp.exp(-0.5 * (mean - loc) ** 2 / total) / (xp.sqrt(total) * _SQRT_2PI)

    def waves(
        self, frequency: Float[Any, " F"]
    ) -> tuple[Float[AnyArray, "*batch F"], Float[AnyArray, "*batch F"]]:
        """`e^{-ω²σ²/2} cos ωμ` and `e^{-ω²σ²/2} sin ωμ` of each angular frequency ω."""
        xp, mean, frequency = beside(self.mean, frequency)
        damping = xp.exp(-0.5 * frequency**2 * xp.asarray(self.var, mean.dtype)[..., None])
        return damping * xp.cos(frequency * mean), damping * xp.sin(frequency * mean)

    def sums_below(
        self, edges: Float[Any, " J"], where: Bool[AnyArray, "B T"] | None = None
    ) -> Float[Array, "B J"]:
        """`½ Σ erf((e-μ)/σ√2)`, which is `Σ Φ((e-μ)/σ)` less a constant, of fields [B, H, T]."""
        mean, var = (jnp.asarray(field)[..., None] for field in self)
        edges = jnp.asarray(edges, dtype=mean.dtype).reshape(1, 1, 1, -1)
        below = jax.lax.erf((edges - mean) * jax.lax.rsqrt(2.0 * var))
        if where is not None:
            below = jnp.where(jnp.asarray(where)[:, None, :, None], below, 0.0)
        return 0.5 * below.sum(axis=(1, 2))

    def part(self, heads: slice, queries: Any = slice(None)) -> "GaussianDensity":
        """The densities of these heads and queries, of fields [B, H, T]."""
        return GaussianDensity(*(field[:, heads][:, :, queries] for field in self))


def kl(
    density: LocatedDensity, prior_scale: float, prior_mean: float | None = None
) -> Float[Array, "*batch"]:
    """`KL(N(μ,σ²) ‖ N(μ_0,σ_0²))` of each density, in nats (paper §3.1, "KL regularization").

    `½(σ²/σ_0² - log(σ²/σ_0²) - 1 + (μ-μ_0)²/σ_0²)`; without prior_mean (μ_0) the last term is
    dropped, so that only the width is regularised. Densities of another kind pay the same for the
    same μ and σ², as published.
    """
    mean, var = jnp.asarray(density.mean), jnp.asarray(density.var)
    ratio = var / prior_scale**2
    result = 0.5 * (ratio - jnp.log(ratio) - 1.0)
    if prior_mean is None:
        return result
    return result + 0.5 * ((mean - prior_mean) / prior_scale) ** 2
