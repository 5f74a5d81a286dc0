"""The protocol that every basis answers."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.density.kind import LocatedDensity


@runtime_checkable
class Basis(Protocol):
    """N functions ψ_j of time, in units of the whole signal, [0, 1]."""

    def narrowest(self) -> float:
        """The width of its narrowest function: the signal has no finer detail."""
        ...

    def evaluate(self, t: Real[AnyArray, "*batch"] | float) -> Float[AnyArray, "*batch N"]:
        """`ψ(t)`, in t's dtype; NumPy in, NumPy out."""
        ...

    def expectation(self, density: LocatedDensity) -> Float[Any, "*batch N"]:
        """`E_p[ψ(t)]` of densities with fields [*batch]."""
        ...

    def integral(self, edges: Float[np.ndarray, " J"]) -> Float[np.ndarray, "J-1 N"]:
        """`∫ ψ(t) dt` between neighbouring edges in [0, 1], in float64."""
        ...

    def products(self, tau: float, *, whole_line: bool = False) -> Float[np.ndarray, "N N"]:
        """`∫_0^τ ψ_j(t) ψ_i(t/τ) dt` in row j and column i, in float64; τ = 1 is the Gram matrix.

        Args:
            whole_line: integrate over all t instead, which pins a fit to 0 outside of [0, 1].
        """
        ...
