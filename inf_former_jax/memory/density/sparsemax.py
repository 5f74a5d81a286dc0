"""Continuous sparsemax: truncated parabolas, densities that end (paper §3.1; SPEC §2, §9).

    p(t) = [-(t-μ)²/(2σ²) - κ]_+ = 3/(4a) · (1 - ((t-μ)/a)²) on |t-μ| ≤ a,    a = (3σ²/2)^{1/3}

This is the Epanechnikov kernel of half-width a. σ² is the parabola's scale, not the variance of the
time, which is a²/5. p vanishes at the ends of its support, so that autodiff is the right gradient.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import AnyArray, beside, normal_cdf

_SQRT_2PI = float(np.sqrt(2.0 * np.pi))

# Up to this ρ = a/s the expectations are sums over nodes, beyond it they are in closed form: where
# the two lose equally little, by the precision of the numbers.
_BORDER, _BORDER_IN_FLOAT64 = 1.0, 0.25

# 3 (sin u - u cos u)/u³ = Σ_k (-1)^{k+1} 6k u^{2k-2}/(2k+1)!, the highest power first.
_SERIES = [(-1) ** (k + 1) * 6 * k / math.factorial(2 * k + 1) for k in range(9, 0, -1)]
_SERIES_BELOW = 1.5


def _jacobi(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss–Jacobi quadrature with the weight ¾(1-u²) on [-1, 1].

    They are eigenvalues and eigenvectors of the recurrence of its orthogonal polynomials (Golub &
    Welsch, 1969), and integrate polynomials of degree 2·count - 1 exactly.
    """
    k = np.arange(1, count)
    beside = np.sqrt(k * (k + 2) / ((2 * k + 1) * (2 * k + 3)))
    nodes, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    return nodes, vectors[0] ** 2


_NODES, _WEIGHTS = _jacobi(6)


class SparsemaxDensity(NamedTuple):
    """Truncated parabolas over time, in units of the whole signal."""

    mean: Float[AnyArray, "*batch"]  # μ
    var: Float[AnyArray, "*batch"]  # σ², the parabola's scale

    def half_width(self) -> Float[AnyArray, "*batch"]:
        """a: the density is 0 outside of μ ± a."""
        xp = jnp if isinstance(self.mean, jax.Array) else np
        return xp.asarray(xp.cbrt(1.5 * xp.asarray(self.var, xp.asarray(self.mean).dtype)))

    def below(self, edges: Float[Any, " J"]) -> Float[AnyArray, "*batch J"]:
        """`(1+u)² (2-u) / 4` at each edge e, which may be infinite; u = (e-μ)/a within ±1."""
        xp, mean, edges = beside(self.mean, edges)
        u = xp.clip((edges - mean) / self.half_width()[..., None], -1.0, 1.0)
        return 0.25 * (1.0 + u) ** 2 * (2.0 - u)

    def smoothed(
        self, loc: Float[Any, " N"], scale: Float[Any, " N"]
    ) -> Float[AnyArray, "*batch N"]:
        """`∫ p(t) N(t; loc_j, scale_j²) dt`; with c = loc_j and s = scale_j (SPEC §9)

            3/(4ρ³s) · (β φ(α) - α φ(β) - (1 + αβ) (Φ(β) - Φ(α))),
            ρ = a/s,  α = (μ-a-c)/s,  β = (μ+a-c)/s.

        The terms cancel where the density is narrower than the function. There it is an integral
        over the density's support by Gauss–Jacobi quadrature.
        """
        xp, mean, loc, scale = beside(self.mean, loc, scale)
        away, ratio = (mean - loc) / scale, self.half_width()[..., None] / scale
        return (_smoothed(away, ratio) if xp is jnp else _parts(away, ratio)[0]) / scale

    def waves(
        self, frequency: Float[Any, " F"]
    ) -> tuple[Float[AnyArray, "*batch F"], Float[AnyArray, "*batch F"]]:
        """`k(ωa) cos ωμ` and `k(ωa) sin ωμ` of each angular frequency ω.

        `k(u) = 3 (sin u - u cos u)/u³`.
        """
        xp, mean, frequency = beside(self.mean, frequency)
        damping = _damping(xp, frequency * self.half_width()[..., None])
        return damping * xp.cos(frequency * mean), damping * xp.sin(frequency * mean)

    def sums_below(
        self, edges: Float[Any, " J"], where: Bool[AnyArray, "B T"] | None = None
    ) -> Float[Array, "B J"]:
        """`Σ ∫_{-∞}^e p(t) dt` of fields [B, H, T]."""
        below = SparsemaxDensity(*map(jnp.asarray, self)).below(edges)
        if where is not None:
            below = jnp.where(jnp.asarray(where)[:, None, :, None], below, 0.0)
        return below.sum(axis=(1, 2))

    def part(self, heads: slice, queries: Any = slice(None)) -> "SparsemaxDensity":
        """The densities of these heads and queries, of fields [B, H, T]."""
        return SparsemaxDensity(*(field[:, heads][:, :, queries] for field in self))


def _parts(away: AnyArray, ratio: AnyArray) -> tuple[Any, Any, Any]:
    """`f(δ, ρ) = ¾ ∫ (1-u²) φ(δ + ρu) du` over [-1, 1], and its derivatives by δ and ρ.

    With α = δ-ρ, β = δ+ρ and I = Φ(β)-Φ(α) the derivatives are, in closed form,

        ∂f/∂δ = 3/(4ρ³) · (2 (φ(α) - φ(β)) - (α+β) I),    ∂f/∂ρ = 3/ρ · (I/(2ρ) - f).

    Every ρ has a form of its own: closed where ρ is large, quadrature where it is small. 6 nodes
    are exact to rounding up to the ρ below which the closed form loses more.
    """
    xp = jnp if isinstance(away, jax.Array) else np
    border = _BORDER_IN_FLOAT64 if away.dtype == np.float64 else _BORDER
    closed = _closed(xp, away, xp.maximum(ratio, border))
    by_nodes = _quadrature(xp, away, xp.minimum(ratio, border))
    value, by_away, by_ratio = (
        xp.where(ratio > border, wide, narrow)
        for wide, narrow in zip(closed, by_nodes, strict=True)
    )
    return value, by_away, by_ratio


def _closed(xp: Any, away: Any, ratio: Any) -> tuple[Any, Any, Any]:
    # f is even in δ. With δ ≥ 0 the tails Φ(-α) and Φ(-β) keep their digits.
    side, far = xp.sign(away), xp.abs(away)
    alpha, beta = far - ratio, far + ratio
    at_alpha, at_beta = (xp.exp(-0.5 * x**2) / _SQRT_2PI for x in (alpha, beta))
    mass = normal_cdf(-alpha) - normal_cdf(-beta)
    factor = 0.75 / ratio**3
    value = factor * (beta * at_alpha - alpha * at_beta - (1.0 + alpha * beta) * mass)
    by_away = side * factor * (2.0 * (at_alpha - at_beta) - 2.0 * far * mass)
    return value, by_away, 3.0 / ratio * (0.5 * mass / ratio - value)


def _quadrature(xp: Any, away: Any, ratio: Any) -> tuple[Any, Any, Any]:
    value = by_away = by_ratio = xp.zeros_like(away * ratio)
    for u, weight in zip(map(float, _NODES), map(float, _WEIGHTS), strict=True):
        at = away + u * ratio
        term = weight / _SQRT_2PI * xp.exp(-0.5 * at**2)
        value, slope = value + term, -at * term
        by_away, by_ratio = by_away + slope, by_ratio + u * slope
    return value, by_away, by_ratio


@jax.custom_jvp
def _smoothed(away: Array, ratio: Array) -> Array:
    return _parts(away, ratio)[0]


@_smoothed.defjvp
def _smoothed_jvp(primals, tangents):
    value, by_away, by_ratio = _parts(*primals)
    return value, by_away * tangents[0] + by_ratio * tangents[1]


def _damping(xp: Any, u: Any) -> Any:
    """`3 (sin u - u cos u)/u³`, by its series where u is small."""
    small = xp.abs(u) < _SERIES_BELOW
    large = xp.where(small, _SERIES_BELOW, u)
    squared, series = xp.where(small, u, 0.0) ** 2, 0.0
    for coefficient in _SERIES:
        series = series * squared + coefficient
    return xp.where(small, series, 3.0 * (xp.sin(large) - large * xp.cos(large)) / large**3)
