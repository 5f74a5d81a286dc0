"""Gaussian basis functions of the continuous signal (paper §2.2 and §3.1; SPEC §1).

`ψ_j(t) = N(t; loc_j, scale_j²)` is a *density*: its peak is `1/(scale_j √2π)`, not 1.

To add another basis: a NamedTuple of its constants here, with its own `evaluate` and `expectation`;
a field of `config.LongTermConfig` that chooses it in `LongTermConfig.basis`; and its derivatives in
`read.density_gradient`. `regression` asks a basis for `evaluate` only. `reading_basis` knows
Gaussians only: for any other basis it must return that basis as it is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.require import require

#: What a public function accepts as an array: a host array or a device array (or tracer).
AnyArray = jax.Array | np.ndarray

#: The precision of every product of the memory. By default GPUs multiply in TF32 and TPUs in
#: bfloat16 passes, which puts results off by 1.3 % and 10 %.
HIGHEST = jax.lax.Precision.HIGHEST

_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


class GaussianBasis(NamedTuple):
    """N Gaussian densities on the time axis, held in float64 on the host."""

    loc: Float[AnyArray, " N"]  # centres, in time units of [0, 1]
    scale: Float[AnyArray, " N"]  # standard deviations, same units


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


def evaluate(
    basis: GaussianBasis, t: Real[AnyArray, "*batch"] | float
) -> Float[AnyArray, "*batch N"]:
    """`ψ(t)`, the basis at times t (paper §3.1), in t's dtype; NumPy in, NumPy out.

    Times are in units of the whole signal, [0, 1]; the functions go on outside of it.
    """
    xp, t, (loc, scale) = _broadcast(basis, t)
    return xp.exp(-0.5 * ((t - loc) / scale) ** 2) / (scale * _SQRT_2PI)


def expectation(
    basis: GaussianBasis,
    mean: Float[AnyArray, "*batch"] | float,
    var: Float[AnyArray, "*batch"] | float,
) -> Float[AnyArray, "*batch N"]:
    """`E_p[ψ(t)]` under `p = N(mean, var)` on the whole line (paper §3.1; closed form).

    `E_p[ψ_j] = N(mean; loc_j, var + scale_j²)`, the convolution of two Gaussian densities.
    """
    xp, t, (loc, scale) = _broadcast(basis, mean)
    total = xp.asarray(var, t.dtype)[..., None] + scale**2
    return xp.exp(-0.5 * (t - loc) ** 2 / total) / (xp.sqrt(total) * _SQRT_2PI)


def _broadcast(basis: GaussianBasis, t: Any) -> tuple[Any, Any, GaussianBasis]:
    """The module of t's arrays (jax.numpy or numpy), t [..., 1], and the basis [..., N] like t."""
    xp = jnp if isinstance(t, jax.Array) else np
    floating = jnp.issubdtype(getattr(t, "dtype", bool), jnp.floating)
    t = xp.asarray(t, dtype=None if floating else xp.zeros(()).dtype)[..., None]
    ones = (1,) * (t.ndim - 1)  # leading axes that broadcast: rank promotion is an error in tests
    loc, scale = (xp.asarray(leaf, dtype=t.dtype).reshape(*ones, -1) for leaf in basis)
    return xp, t, GaussianBasis(loc, scale)
