"""The same signal on fewer basis functions, which makes reading it cheaper (tuning).

The cost of a read grows with the number of basis functions. A wide Gaussian is a sum of narrower
ones on a grid of places u_j with step δ: with s² = d² + r²,

    N(t; c, s²) = ∫ N(u; c, d²) N(t; u, r²) du ≈ Σ_j δ N(u_j; c, d²) N(t; u_j, r²).

The trapezoidal rule for the product of Gaussians makes a relative error of 2 exp(-2π² (d r / s δ)²)
at every t. For d = r and a step δ ≈ s/2 the error is below float32's rounding, and the derivatives
by a density's mean and variance are within a few roundings. So functions of width s never need a
spacing below about s/2. The paper's 256 functions of width .05 have a spacing of .004; 58 functions
stand for them. All weights are positive, and the weights of one function sum to 1, so the sum
cancels nothing.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import Basis, GaussianBasis, evaluate
from inf_former_jax.memory.config import LongTermConfig

# The change of basis is work, too: it is made only if it saves a quarter of all functions.
_LARGEST_SHARE = 0.75


class ReadingBasis(NamedTuple):
    """The functions that a signal is read on, and how its coefficients are moved to them."""

    functions: Basis  # R functions, those of each width one after the other
    weights: tuple[Float[np.ndarray, "n r"] | None, ...] | None
    """For each width, how much each of its n old functions puts on each of the r new ones; None
    where the functions of that width stay. None altogether: the signal's own basis stays."""
    size: int  # R


@lru_cache(maxsize=8)
def reading_basis(cfg: LongTermConfig, dtype: DTypeLike) -> ReadingBasis:
    """The functions to read a memory of this dtype on: fewer than N where that is less work.

    They span the memory's signals to the rounding of the dtype. The functions of a width stay
    where the grid would need as many.
    """
    if not isinstance(cfg.basis, GaussianBasis):
        return ReadingBasis(cfg.basis, None, cfg.num_basis)
    error, loc = float(jnp.finfo(dtype).eps) / 16, np.asarray(cfg.basis.loc)
    grids = [_grid(loc[i :: len(cfg.widths)], width, error) for i, width in enumerate(cfg.widths)]
    functions = GaussianBasis(*map(np.concatenate, zip(*(grid[0] for grid in grids), strict=True)))
    if len(functions.loc) > _LARGEST_SHARE * cfg.num_basis:
        return ReadingBasis(cfg.basis, None, cfg.num_basis)
    return ReadingBasis(functions, tuple(weights for _, weights in grids), len(functions.loc))


def _grid(
    centres: np.ndarray, width: float, error: float
) -> tuple[GaussianBasis, np.ndarray | None]:
    """r functions that stand for the n functions of one width, and weights [n, r], in float64."""
    narrower = width / math.sqrt(2)  # d and r
    step = 0.5 * width / math.sqrt(math.log(2 / error) / (2 * math.pi**2))
    # Beyond this distance the weights are below the error.
    reach = narrower * math.sqrt(2 * math.log(1 / error))
    span = centres[-1] - centres[0] + 2 * reach
    count = math.ceil(span / step) + 1
    if count >= len(centres):
        return GaussianBasis(centres, np.full(len(centres), width)), None
    places = (centres[0] + centres[-1]) / 2 + step * (np.arange(count) - (count - 1) / 2)
    sources = GaussianBasis(centres, np.full(len(centres), narrower))
    weights = step * np.asarray(evaluate(sources, places)).T
    return GaussianBasis(places, np.full(count, narrower)), weights


def to_reading_basis(
    reading: ReadingBasis, coeffs: Float[AnyArray, "B N E"]
) -> Float[AnyArray, "B R E"]:
    """The coefficients of the same signal on the reading basis."""
    if reading.weights is None:
        return coeffs
    parts = []
    for i, weights in enumerate(reading.weights):
        part = coeffs[:, i :: len(reading.weights)]
        if weights is not None:
            cast = jnp.asarray(weights, part.dtype)
            part = jnp.einsum("nr,bne->bre", cast, part, precision=HIGHEST)
        parts.append(part)
    return jnp.concatenate(parts, axis=1)
