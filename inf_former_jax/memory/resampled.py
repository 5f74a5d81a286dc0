"""The same signal on fewer basis functions, for reading it.

A Gaussian is a sum of narrower ones on a grid: with s² = d² + r²,

    N(t; c, s²) = ∫ N(u; c, d²) N(t; u, r²) du = Σ_j δ N(u_j; c, d²) N(t; u_j, r²),

at every t to a relative error of 2 exp(-2π² (d r / s δ)²), the trapezoidal rule's of a Gaussian.
For d = r and a step δ ≈ s/2 that is below float32's own rounding, and derivatives by mean and
variance of a density are within a few of it; however many functions of width s the signal has: of
the paper's 512, 256 are five times closer than their width .05 asks for. All weights are positive
and those of a function sum to 1, so nothing cancels that did not before.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import HIGHEST, AnyArray, GaussianBasis, evaluate, gaussian_basis

# A quarter of all basis functions has to be saved: resampling is work, too.
_WORTH = 0.75


class Resampled(NamedTuple):
    """A basis that spans another one's signals, to the rounding of a dtype."""

    basis: GaussianBasis  # R functions, by the widths that they stand for
    weights: tuple[Float[np.ndarray, "n r"] | None, ...]  # of each width; None: they stay


@lru_cache(maxsize=8)
def resampled(num_basis: int, widths: tuple[float, ...], dtype: np.dtype) -> Resampled | None:
    """What signals on `gaussian_basis(num_basis, widths)` are resampled to; None: no gain in it.

    The functions of a width stay where a grid would need as many.
    """
    basis = gaussian_basis(num_basis, widths)
    found = [
        _of_width(basis.loc[i :: len(widths)], width, float(jnp.finfo(dtype).eps) / 16)
        for i, width in enumerate(widths)
    ]
    parts, weights = zip(*found, strict=True)
    joined = GaussianBasis(*map(np.concatenate, zip(*parts, strict=True)))
    return Resampled(joined, weights) if len(joined.loc) <= _WORTH * num_basis else None


def _of_width(centres, width, error):
    """(functions, weights [n, r]) for those of one width, in float64."""
    inner = width / math.sqrt(2)  # d and r
    step = 0.5 * width / math.sqrt(math.log(2 / error) / (2 * math.pi**2))
    # Beyond that the weights are below the error.
    reach = inner * math.sqrt(2 * math.log(1 / error))
    span = centres[-1] - centres[0] + 2 * reach
    count = math.ceil(span / step) + 1
    if count >= len(centres):
        return GaussianBasis(centres, np.full(len(centres), width)), None
    grid = (centres[0] + centres[-1]) / 2 + step * (np.arange(count) - (count - 1) / 2)
    weights = step * evaluate(GaussianBasis(centres, np.full(len(centres), inner)), grid).T
    return GaussianBasis(grid, np.full(count, inner)), weights


def resample(to: Resampled, coeffs: Float[AnyArray, "B N E"]) -> Float[Array, "B R E"]:
    """The coefficients of the same signal on `to.basis`."""
    parts = []
    for i, weights in enumerate(to.weights):
        part = coeffs[:, i :: len(to.weights)]
        if weights is not None:
            cast = jnp.asarray(weights, part.dtype)
            part = jnp.einsum("nr,bne->bre", cast, part, precision=HIGHEST)
        parts.append(part)
    return jnp.concatenate(parts, axis=1)
