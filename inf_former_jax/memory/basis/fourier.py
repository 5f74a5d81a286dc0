"""Fourier basis: a constant, and waves of period 1, 1/2, 1/3 … of the signal (SPEC §9).

`ψ(t) = (1, cos 2πt, … cos 2πKt, sin 2πt, … sin 2πKt)`, N = 2K + 1 functions. They are orthogonal on
[0, 1]. Outside of it they repeat: the signal's end and its beginning are neighbours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import AnyArray, beside
from inf_former_jax.memory.density.kind import LocatedDensity
from inf_former_jax.require import require


class FourierBasis(NamedTuple):
    """A constant, K cosines and K sines, by their angular frequencies in float64."""

    frequency: Float[AnyArray, " K"]  # ω_k = 2πk

    def narrowest(self) -> float:
        """`1/ω_K`, the scale of the fastest wave as a standard deviation is of a Gaussian."""
        return 1 / max(float(np.max(self.frequency, initial=0.0)), 1.0)

    def evaluate(self, t: Real[AnyArray, "*batch"] | float) -> Float[AnyArray, "*batch N"]:
        """`ψ(t)`, with period 1."""
        xp, t, frequency = beside(t, self.frequency)
        phase = frequency * t
        return xp.concatenate([xp.ones_like(t), xp.cos(phase), xp.sin(phase)], axis=-1)

    def expectation(self, density: LocatedDensity) -> Float[AnyArray, "*batch N"]:
        """1, and real and imaginary part of the density's characteristic function at each ω_k."""
        cosine, sine = density.waves(self.frequency)
        xp = jnp if isinstance(cosine, jax.Array) else np
        one = xp.ones_like(xp.asarray(density.mean), dtype=cosine.dtype)[..., None]
        return xp.concatenate([one, cosine, sine], axis=-1)

    def integral(self, edges: Float[np.ndarray, " J"]) -> Float[np.ndarray, "J-1 N"]:
        """`e' - e`, `(sin ωe' - sin ωe)/ω` and `(cos ωe - cos ωe')/ω` of edges e < e'."""
        edges, frequency = np.asarray(edges, np.float64)[:, None], np.asarray(self.frequency)
        phase = edges * frequency
        parts = edges, np.sin(phase) / frequency, -np.cos(phase) / frequency
        return np.diff(np.concatenate(parts, axis=1), axis=0)

    def products(self, tau: float, *, whole_line: bool = False) -> Float[np.ndarray, "N N"]:
        """Waves of the frequencies ω_j ± ω_i/τ, integrated over [0, τ].

        `∫_0^τ cos(ut/τ) dt = τ sin(u)/u` and `∫_0^τ sin(ut/τ) dt = τ (1 - cos u)/u`.

        Raises:
            ValueError: the integral over the whole line, which waves do not have.
        """
        require(not whole_line, "whole_line", True, "False, since waves go on for ever")
        frequency = np.concatenate([[0.0], np.asarray(self.frequency, np.float64)])
        row, column = tau * frequency[:, None], frequency[None, :]
        (even_sum, odd_sum), (even, odd) = (
            # 1 - cos u = 2 sin²(u/2). NumPy's sinc(x) is sin(πx)/(πx), and 1 at 0.
            (tau * np.sinc(u / np.pi), tau * u / 2 * np.sinc(u / (2 * np.pi)) ** 2)
            for u in (row + column, row - column)
        )
        cosines = 0.5 * (even + even_sum)
        sines = 0.5 * (even - even_sum)[1:, 1:]
        by_sines, by_cosines = 0.5 * (odd_sum - odd)[:, 1:], 0.5 * (odd_sum + odd)[1:]
        return np.block([[cosines, by_sines], [by_cosines, sines]])


def fourier_basis(num_basis: int) -> FourierBasis:
    """A constant and `(num_basis - 1) / 2` frequencies.

    Raises:
        ValueError: num_basis is even, or below 1.
    """
    accepted = "an odd number: a constant, and a cosine and a sine of each frequency"
    require(num_basis >= 1 and num_basis % 2 == 1, "num_basis", num_basis, accepted)
    return FourierBasis(2 * np.pi * np.arange(1, (num_basis - 1) // 2 + 1))
