"""Vectors as intervals: the L² projection of a step function onto the basis (SPEC §9).

Vector i of L covers its own `1/L` of the written part. A further write squeezes the old signal into
[0, τ] and puts the vectors on (τ, 1]. The coefficients are those of the nearest signal to the whole
of it,

    C_new = S⁻¹ (D C + Fᵀ X),    F_i = ∫_{interval i} ψ dt,
    S = ∫ ψψᵀ dt + ρI,           D = ∫_0^τ ψ(t) ψ(t/τ)ᵀ dt.

All of it is in closed form, in float64 on the host. With orthogonal functions ρ = 0: constants are
reproduced, and on the rectangular basis every write conserves the mean of the signal. Overlapping
Gaussians need ρ = λ/N, the ridge of N points on [0, 1].
"""

import numpy as np
from jaxtyping import Float

from inf_former_jax.memory.basis import Basis


def interval_edges(tau: float, length: int) -> Float[np.ndarray, " J"]:
    """Borders of the L new vectors: `τ + (1-τ) i/L`, i = 0..L; τ = 0 is a first write."""
    return tau + (1 - tau) * np.arange(length + 1) / length


def projection(
    basis: Basis, edges: Float[np.ndarray, " J"], ridge: float = 0.0, *, whole_line: bool = False
) -> Float[np.ndarray, "J-1 N"]:
    """G of vectors that cover the intervals between neighbouring edges: `C = Gᵀ X`.

    Args:
        ridge: ρ ≥ 0.
        whole_line: pin the signal to 0 outside of [0, 1].
    """
    return _solved(basis, basis.integral(edges).T, ridge, whole_line).T


def decay(
    basis: Basis, tau: float, ridge: float = 0.0, *, whole_line: bool = False
) -> Float[np.ndarray, "N N"]:
    """A of the old signal squeezed into [0, τ]: its coefficients become `A C`.

    Args:
        ridge, whole_line: as of `projection`.
    """
    return _solved(basis, basis.products(tau), ridge, whole_line)


def _solved(basis: Basis, right: np.ndarray, ridge: float, whole_line: bool) -> np.ndarray:
    """`S⁻¹ right`."""
    gram = basis.products(1.0, whole_line=whole_line)
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), right)
