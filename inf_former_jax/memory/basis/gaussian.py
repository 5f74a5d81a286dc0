"""Gaussian basis functions of the continuous signal (paper §2.2 and §3.1; SPEC §1).

`ψ_j(t) = N(t; loc_j, scale_j²)` is a *density*: its peak is `1/(scale_j √2π)`, not 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import AnyArray, beside, normal_cdf
from inf_former_jax.memory.density.kind import LocatedDensity
from inf_former_jax.require import require

_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


class GaussianBasis(NamedTuple):
    """N Gaussian densities on the time axis, held in float64 on the host."""

    loc: Float[AnyArray, " N"]  # centres, in time units of [0, 1]
    scale: Float[AnyArray, " N"]  # standard deviations, same units

    def narrowest(self) -> float:
        """The smallest standard deviation."""
        return float(np.min(self.scale))

    def evaluate(self, t: Real[AnyArray, "*batch"] | float) -> Float[AnyArray, "*batch N"]:
        """`ψ(t)`; the functions go on outside of [0, 1]."""
        xp, t, loc, scale = beside(t, *self)
        return xp.exp(-0.5 * ((t - loc) / scale) ** 2) / (scale * _SQRT_2PI)

    def expectation(self, density: LocatedDensity) -> Float[AnyArray, "*batch N"]:
        """The density smoothed by each function, at the function's centre."""
        return density.smoothed(self.loc, self.scale)

    def integral(self, edges: Float[np.ndarray, " J"]) -> Float[np.ndarray, "J-1 N"]:
        """`Φ((e' - loc)/scale) - Φ((e - loc)/scale)` of neighbouring edges e < e'."""
        loc, scale = (np.asarray(leaf, np.float64)[None, :] for leaf in self)
        return np.diff(normal_cdf((np.asarray(edges, np.float64)[:, None] - loc) / scale), axis=0)

    def products(self, tau: float, *, whole_line: bool = False) -> Float[np.ndarray, "N N"]:
        """`τ N(loc_j; τ loc_i, scale_j² + τ² scale_i²)` times the mass of a Gaussian on [0, τ].

        The product of two Gaussian densities is a Gaussian density times a constant.
        """
        loc, scale = (np.asarray(leaf, np.float64) for leaf in self)
        a, b = loc[:, None], tau * loc[None, :]
        s, r = scale[:, None] ** 2, (tau * scale[None, :]) ** 2
        total = s + r
        constant = tau * np.exp(-0.5 * (a - b) ** 2 / total) / (np.sqrt(total) * _SQRT_2PI)
        if whole_line:
            return constant
        middle, width = (a * r + b * s) / total, np.sqrt(s * r / total)
        return constant * (normal_cdf((tau - middle) / width) - normal_cdf(-middle / width))


def gaussian_basis(
    num_basis: int, widths: Sequence[float] | Float[np.ndarray, " k"]
) -> GaussianBasis:
    """`num_basis / k` equally spaced centres in [0, 1], each with all k widths, centre-major.

    The order is (c0, w0), (c0, w1), (c1, w0), … as in the published code. Float64, because
    centres and widths that are rounded to float32 put the ridge operator off by 5e-6 to 9e-6.

    Raises:
        ValueError: the number of widths does not divide num_basis, or a width is not positive.
    """
    widths = tuple(map(float, widths))
    check_widths(num_basis, widths)
    centres = np.linspace(0.0, 1.0, num_basis // len(widths))
    return GaussianBasis(
        loc=np.repeat(centres, len(widths)),
        scale=np.tile(np.asarray(widths, dtype=np.float64), len(centres)),
    )


def check_widths(num_basis: int, widths: tuple[float, ...]) -> None:
    """Refuse what `gaussian_basis` refuses, without building anything."""
    positive = bool(widths) and all(0 < width < np.inf for width in widths)
    require(positive, "widths", widths, "one or more positive numbers")
    require(
        num_basis >= 1 and num_basis % len(widths) == 0,
        "num_basis",
        f"{num_basis} with {len(widths)} widths {widths}",
        "a positive multiple of the number of widths",
    )
