"""Bases ψ(t) of the continuous signal (paper §2.2, §3.1; SPEC §1, §9): one file a basis.

    kind          the protocol that each basis answers
    gaussian      N(t; loc_j, scale_j²), the paper's
    rectangular   1 on one of N equal cells: a coefficient is the signal's value there
    fourier       1, cos 2πkt, sin 2πkt

A basis is a NamedTuple of its constants, in float64 on the host. To add one: its file here, its
name in `config.LongTermConfig.functions`, and its line in `config.LongTermConfig.basis`. A density
needs to know nothing of it: a basis asks a density for its mass below edges, its smoothed values,
or its characteristic function (`memory.density.kind`).
"""

from typing import Any

from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import HIGHEST as HIGHEST
from inf_former_jax.memory.arrays import AnyArray as AnyArray
from inf_former_jax.memory.basis.fourier import FourierBasis as FourierBasis
from inf_former_jax.memory.basis.fourier import fourier_basis as fourier_basis
from inf_former_jax.memory.basis.gaussian import GaussianBasis as GaussianBasis
from inf_former_jax.memory.basis.gaussian import check_widths as check_widths
from inf_former_jax.memory.basis.gaussian import gaussian_basis as gaussian_basis
from inf_former_jax.memory.basis.kind import Basis as Basis
from inf_former_jax.memory.basis.rectangular import RectangularBasis as RectangularBasis
from inf_former_jax.memory.basis.rectangular import rectangular_basis as rectangular_basis
from inf_former_jax.memory.density.gaussian import GaussianDensity


def evaluate(basis: Basis, t: Real[AnyArray, "*batch"] | float) -> Float[AnyArray, "*batch N"]:
    """`ψ(t)`, the basis at times t (paper §3.1), in t's dtype; NumPy in, NumPy out.

    Times are in units of the whole signal, [0, 1].
    """
    return basis.evaluate(t)


def expectation(
    basis: Basis,
    mean: Float[AnyArray, "*batch"] | float,
    var: Float[AnyArray, "*batch"] | float,
) -> Float[AnyArray, "*batch N"]:
    """`E_p[ψ(t)]` under `p = N(mean, var)` on the whole line (paper §3.1; closed form)."""
    fields: Any = mean, var  # numbers are as good as arrays
    return basis.expectation(GaussianDensity(*fields))
