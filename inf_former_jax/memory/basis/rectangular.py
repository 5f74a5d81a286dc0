"""Rectangular basis functions: the signal is constant on each of N equal cells (SPEC §9).

`ψ_j(t) = 1` on `[j/N, (j+1)/N)`, the last cell closed, else 0. The coefficient of a cell is the
signal's value in it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import AnyArray, beside
from inf_former_jax.memory.density.kind import LocatedDensity
from inf_former_jax.require import require_at_least


class RectangularBasis(NamedTuple):
    """N equal cells of [0, 1], by their edges in float64."""

    edges: Float[AnyArray, " N+1"]

    def narrowest(self) -> float:
        """The width of a cell, 1/N."""
        return 1 / self.size

    @property
    def size(self) -> int:
        """N."""
        return len(self.edges) - 1

    def evaluate(self, t: Real[AnyArray, "*batch"] | float) -> Float[AnyArray, "*batch N"]:
        """1 in t's cell, 0 elsewhere; outside of [0, 1] all are 0."""
        xp, at, cells = beside(t, np.arange(self.size))
        inside = (at >= 0) & (at <= 1)
        cell = xp.minimum(xp.floor(at * self.size), self.size - 1)
        return ((cell == cells) & inside).astype(at.dtype)

    def expectation(self, density: LocatedDensity) -> Float[AnyArray, "*batch N"]:
        """The density's mass on each cell."""
        below = density.below(self.edges)
        xp = jnp if isinstance(below, jax.Array) else np
        return xp.diff(below, axis=-1)

    def integral(self, edges: Float[np.ndarray, " J"]) -> Float[np.ndarray, "J-1 N"]:
        """The length that each interval between neighbouring edges has in common with each cell."""
        cells, edges = np.asarray(self.edges), np.asarray(edges, np.float64)[:, None]
        upper = np.minimum(edges[1:], cells[None, 1:])
        return np.maximum(upper - np.maximum(edges[:-1], cells[None, :-1]), 0.0)

    def products(self, tau: float, *, whole_line: bool = False) -> Float[np.ndarray, "N N"]:
        """The length that cell j has in common with cell i squeezed into [0, τ]."""
        return self.integral(tau * np.asarray(self.edges)).T


def rectangular_basis(num_basis: int) -> RectangularBasis:
    """`num_basis` equal cells.

    Raises:
        ValueError: num_basis is below 1.
    """
    require_at_least("num_basis", num_basis, 1)
    return RectangularBasis(np.arange(num_basis + 1) / num_basis)
