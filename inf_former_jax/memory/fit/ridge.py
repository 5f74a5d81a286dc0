"""Multivariate ridge regression of a sequence onto the basis (paper §3.1; SPEC §1, §3).

`Cᵀ = Xᵀ G` with `G = Fᵀ (F Fᵀ + λ I)⁻¹`, `F = [ψ(t_1) … ψ(t_L)] ∈ R^{N×L}`. G depends on times
and basis only, never on data, so it is built once, in float64, on the host. Its normal matrix has
a condition number of 5e5 to 4e6, with which float32 would put G off by 1e-2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Real

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import Basis, evaluate
from inf_former_jax.require import require

#: `fit` refuses when `eps · cond(F Fᵀ + λI)` is above this: its signal would be off by > 1 %.
MAX_FIT_ERROR = 1.0


def first_fit_times(length: int) -> Float[np.ndarray, " L"]:
    """Times of a row's first L vectors: `t_i = (i + ½)/L`, the middles of L equal cells."""
    return (np.arange(length) + 0.5) / length


def first_fit_padding(length: int) -> Float[np.ndarray, " P"]:
    """Times outside [0, 1] at which the first fit pins the signal to zero (SPEC §1).

    L even: `linspace(-½+1/(2L), 1½-1/(2L), 2L)`; L odd: `linspace(-½+1/L, 1½-1/L, 2L-1)`;
    the central L of them are the data's own times and are left out.
    """
    margin = 1 / (2 * length) if length % 2 == 0 else 1 / length
    points = np.linspace(-0.5 + margin, 1.5 - margin, 2 * length - length % 2)
    return _outside_unit_interval(points)


def write_times(
    tau: float, num_samples: int, length: int
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " L"]]:
    """Times of a further write: the past contracted to [0, τ], the new vectors in (τ, 1].

    `τ m/M` for m = 1..M and `τ + (1-τ) i/L` for i = 1..L (paper §3.2).
    """
    past = tau * np.arange(1, num_samples + 1) / num_samples
    new = tau + (1 - tau) * np.arange(1, length + 1) / length
    return past, new


def write_padding(num_samples: int, length: int) -> Float[np.ndarray, " P"]:
    """Zero-padding times of a further write, of M + L points (SPEC §3).

    The offset is `1/(2(2L+M))`, with 2L + M and not 2(L + M), as the published code has it.
    """
    margin = 1 / (2 * length + num_samples)
    count = 2 * (length + num_samples)
    return _outside_unit_interval(np.linspace(-0.5 + margin, 1.5 - margin, count))


def _outside_unit_interval(points: np.ndarray) -> Float[np.ndarray, " P"]:
    return points[(points < 0) | (points > 1)]


def gram(basis: Basis, times: Float[np.ndarray, " P"]) -> Float[np.ndarray, "N N"]:
    """`F Fᵀ` of the basis at P times: what they add to the normal matrix of a regression."""
    design = np.asarray(evaluate(basis, np.asarray(times, dtype=np.float64))).T
    return design @ design.T


def ridge_operator(
    basis: Basis,
    times: Float[np.ndarray, " L"],
    ridge: float,
    zeros: Float[np.ndarray, " P"] | tuple[float, ...] = (),
    *,
    zeros_gram: Float[np.ndarray, "N N"] | None = None,
) -> Float[np.ndarray, "L N"]:
    """The ridge operator `G = Fᵀ (F Fᵀ + λ I)⁻¹`, so that coefficients are `C = Gᵀ X` (paper §3.1).

    Args:
        times: where the L vectors sit.
        ridge: λ ≥ 0; 0 gives the least-squares fit of least norm.
        zeros: P further times at which the signal is pinned to zero; their rows of G are dropped.
        zeros_gram: `gram(basis, zeros)` if it is known already; with λ > 0 nothing else of the
            zeros is needed.

    Raises:
        ValueError: ridge is negative, or too small for float64, or times is no list of numbers.
    """
    require(ridge >= 0, "ridge", ridge, "a number ≥ 0")
    times = np.asarray(times, dtype=np.float64)
    is_list = times.ndim == 1 and times.size > 0
    require(is_list, "times", f"shape {times.shape}", "[L] with L ≥ 1")
    zeros = np.asarray(zeros, dtype=np.float64)
    design = np.asarray(evaluate(basis, times)).T  # F of the data [N, L]
    if ridge == 0:
        padded = np.concatenate([design, evaluate(basis, zeros).T], axis=1)
        return np.linalg.pinv(padded)[: len(times)]
    if zeros_gram is None:
        zeros_gram = gram(basis, zeros)
    normal = design @ design.T + zeros_gram + ridge * np.eye(len(design))
    try:
        np.linalg.cholesky(normal)
    except np.linalg.LinAlgError:
        least = np.finfo(np.float64).eps * np.abs(normal).sum(axis=1).max()
        raise ValueError(
            f"ridge: found {ridge}, too small beside N={len(normal)} for float64, accepted: 0 or "
            f"{least:.1g} and more"
        ) from None
    # In float64 the inverse is as exact as solving (1e-10). It is twice as fast as SciPy's
    # triangular solves, whose BLAS would wait for the threads of NumPy's.
    return design.T @ np.linalg.inv(normal)


def degrees_of_freedom(
    basis: Basis,
    times: Float[np.ndarray, " L"],
    ridge: float,
    zeros: Float[np.ndarray, " P"] | tuple[float, ...] = (),
) -> float:
    """Tokens that the regression tells apart: `tr(Fᵀ (F Fᵀ + F_0 F_0ᵀ + λI)⁻¹ F)` (SPEC §1).

    This is the trace of the hat matrix over the data's own rows, F_0 the basis at the P times where
    the signal is pinned to zero. Without zeros it is `Σ s²/(s² + λ)` of F's singular values s; with
    the padding among the times it counts the padding too.

    Raises:
        ValueError: ridge is negative or too small for float64, or times is no list of numbers.
    """
    g = ridge_operator(basis, times, ridge, zeros)
    return float((g * evaluate(basis, np.asarray(times, np.float64))).sum())


def fit(
    basis: Basis,
    times: Float[AnyArray, " L"],
    x: Real[AnyArray, "L E"],
    ridge: float | Float[AnyArray, ""],
) -> Float[jax.Array, "N E"]:
    """Coefficients `C = (F Fᵀ + λI)⁻¹ F X` by Cholesky, inside the traced program (paper §3.1).

    For times that are known at run time only; jittable, also in times, basis and ridge, and
    vmappable over rows. Where times are constants prefer `ridge_operator`: float32 puts these
    coefficients off by 1e-2 and the signal by 4e-4 (λ = 1, N = 512).

    Raises:
        ValueError: ridge is not positive, or so small beside N and L that x's precision cannot
            hold the solution. The error is estimated, for traced times as if they were equally
            spaced; with a traced basis or ridge nothing is known and nothing refused.
    """
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.zeros(()).dtype)
    if not any(isinstance(value, Tracer) for value in (*jax.tree.leaves(basis), ridge)):
        _refuse_ill_conditioned(basis, times, x.shape[0], ridge, float(jnp.finfo(x.dtype).eps))
    design = evaluate(basis, jnp.asarray(times, dtype=x.dtype)).T  # F [N, L]
    normal = jnp.matmul(design, design.T, precision=HIGHEST) + ridge * jnp.eye(len(design))
    factor = jax.scipy.linalg.cho_factor(normal.astype(x.dtype))
    return jax.scipy.linalg.cho_solve(factor, jnp.matmul(design, x, precision=HIGHEST))


def _refuse_ill_conditioned(
    basis: Basis, times: AnyArray, length: int, ridge: float | AnyArray, eps: float
) -> None:
    require(bool(ridge > 0), "ridge", ridge, "a number > 0")
    basis = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), basis)
    known = not isinstance(times, Tracer)
    design = evaluate(basis, np.asarray(times, np.float64) if known else first_fit_times(length))
    # The smaller of the two Gram matrices is formed; both have the same largest eigenvalue.
    small_gram = design @ design.T if length < design.shape[1] else design.T @ design
    largest = np.abs(small_gram).sum(axis=1).max()  # ≥ the largest eigenvalue
    error = eps * (largest / ridge + 1)
    found = f"{ridge} with N={design.shape[1]}, L={length}: estimated relative error {error:.1g}"
    accepted = f"ridge ≥ {eps * largest / MAX_FIT_ERROR:.1g}, or float64"
    require(not error > MAX_FIT_ERROR, "ridge", found, accepted)
