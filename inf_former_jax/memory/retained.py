"""How much of each past segment a memory still holds, without training anything (SPEC §3).

A segment of L vectors of white noise is written `writes` times in all. The write is linear in what
is stored and in what is new, so second moments follow it exactly. With S the covariance of the
coefficients and c_k their covariance with a mean of the segment that was written k writes ago,

    S ← A S Aᵀ + G_newᵀ G_new,    c ← A c,    the newest c = G_newᵀ 1/L,    A = G_pastᵀ Ψ(u).

Of that mean's variance v a linear read-out explains `cᵀ S⁻¹ c / v`, and a single attention density,
whose read-out is w = E_p[ψ], at most `max_p (wᵀc)² / (wᵀ S w · v)`: the best any one head can do.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory import density as densities
from inf_former_jax.memory.basis import GaussianBasis, evaluate, expectation
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.regression import ridge_operator
from inf_former_jax.memory.write_operators import write_operator
from inf_former_jax.require import require

#: ε = RELATIVE_NOISE · tr(S)/N is added to S: what is read is known to float32's precision only.
RELATIVE_NOISE = 1e-7

#: The densities that are tried: standard deviations, and how often the best one is refined.
SCALES, REFINEMENTS = np.geomspace(1e-3, 1.0, 48), 8


class Retention(NamedTuple):
    """What is left of the J blocks of a segment, by the segment's age in writes (0 = newest)."""

    linear: Float[np.ndarray, "writes J"]  # R² of the best linear read-out
    density: Float[np.ndarray, "writes J"]  # R² of the best single Gaussian density
    mean: Float[np.ndarray, "writes J"]  # μ of that density
    var: Float[np.ndarray, "writes J"]  # σ² of that density


def retention(
    cfg: LongTermConfig,
    writes: int = 64,
    *,
    length: int = 128,
    detail: int = 0,
    salience: Real[np.ndarray, " D"] | None = None,
    seed: int = 0,
    points: int = 1025,
    progress: Callable[[int], object] = lambda written: None,
) -> Retention:
    """R² of the means of each past segment after `writes` writes of white noise (paper §3.2).

    Linear: `cᵀ (S + εI)⁻¹ c / v`. Density: `max (wᵀc)² / (wᵀ (S + εI) w · v)` over μ in [0, 1] and
    σ² ≥ σ²_min, w = E_p[ψ]; never above the linear one. v is the variance of the mean.

    Args:
        length: L, vectors of a segment.
        detail: r; the means are of each of the J = 2^r equal blocks of a segment, the earliest
            first, so that v = J/L; 0 = of the whole segment.
        salience: histogram that steers every further write of a sticky memory; None = u_m = m/M.
        seed: of NumPy's generator, for locations = draw, drawn anew at every write.
        points: μ of the first search, equally spaced; more where a basis function is narrower.
        progress: called after each write with the number of writes so far.

    Raises:
        ValueError: no such number of writes, length, block or salience; or a salience for a
            memory that is not sticky.
    """
    require(writes >= 1, "writes", writes, "a whole number ≥ 1")
    require(length >= 1, "length", length, "a whole number ≥ 1")
    require(points >= 2, "points", points, "a whole number ≥ 2")
    require(detail >= 0, "detail", detail, "a whole number ≥ 0")
    blocks = 2**detail
    accepted = f"a multiple of 2^detail = {blocks}"
    require(length % blocks == 0, "length", length, accepted)
    second, first = _moments(cfg, writes, length, blocks, _locations(cfg, salience, seed), progress)
    n = cfg.num_basis
    second += RELATIVE_NOISE * np.trace(second) / n * np.eye(n)
    # cᵀ S⁻¹ c as a squared norm is never negative.
    half = np.linalg.solve(np.linalg.cholesky(second), first)
    scale = length / blocks  # 1/v
    found = _best_density(cfg, second, first, points)
    linear, density = (half**2).sum(0) * scale, found[0] * scale
    return Retention(*(leaf.reshape(writes, blocks) for leaf in (linear, density, *found[1:])))


def _moments(cfg, writes, length, blocks, locations, progress):
    """S [N, N], and c of all ages and blocks [N, writes·J], the newest segment's first."""
    averages = np.kron(np.eye(blocks), np.ones((length // blocks, 1))) * blocks / length
    _, g_new = write_operator(cfg, length, 0)
    second, first = g_new.T @ g_new, g_new.T @ averages
    progress(1)
    for k in range(1, writes):
        if k <= cfg.num_contractions:
            g_past, g_new = write_operator(cfg, length, k)
            ours, newest = g_new.T @ g_new, g_new.T @ averages
        u = locations()
        decay = g_past.T @ evaluate(cfg.basis, u)
        second = decay @ second @ decay.T + ours
        second = (second + second.T) / 2
        first = np.concatenate([newest, decay @ first], axis=1)
        progress(k + 1)
    return second, first


def _locations(cfg, salience, seed) -> Callable[[], Float[np.ndarray, " M"]]:
    """A function that gives u of the next write, in float64 (the memory's own are in float32)."""
    uniform = densities.uniform_locations(cfg.num_samples)
    if salience is None:
        return lambda: uniform
    require(cfg.sticky, "salience", "one for a memory that is not sticky", "None there")
    salience = np.asarray(salience, np.float64)
    require(salience.shape == (cfg.bins,), "salience", f"shape {salience.shape}", f"[{cfg.bins}]")
    fine = bool(np.isfinite(salience).all() and (salience >= 0).all())
    require(fine, "salience", "a negative or undefined mass", "masses ≥ 0")
    if not salience.sum() > 0:
        return lambda: uniform
    cumulative = np.concatenate([[0.0], np.cumsum(salience / salience.sum())])
    if cfg.locations == "quantile":
        levels = (np.arange(cfg.num_samples) + 0.5) / cfg.num_samples
        quantiles = np.interp(levels, cumulative, np.linspace(0, 1, cfg.bins + 1))
        return lambda: quantiles
    rng = np.random.default_rng(seed)

    def drawn():
        bins = np.searchsorted(cumulative[1:], rng.uniform(size=cfg.num_samples), side="right")
        return np.sort(np.minimum(bins, cfg.bins - 1)) / cfg.bins

    return drawn


def _best_density(cfg, second, first, points):
    """Of each column c of `first`: the maximal (wᵀc)²/(wᵀSw), its μ and its σ²."""
    smallest = math.sqrt(cfg.min_var)
    scales = np.unique(np.maximum(SCALES, smallest))
    # E_p[ψ] varies in μ by the width of what p and the narrowest basis function give together.
    narrowest = math.hypot(scales[0], min(cfg.widths))
    means = np.linspace(0.0, 1.0, max(points, math.ceil(2 / narrowest) + 1))

    def scores(mean, scale):
        w = expectation(cfg.basis, mean, scale**2)
        return w, ((w @ second) * w).sum(-1)

    best = np.full((3, first.shape[1]), -np.inf)
    for scale in scales:
        w, power = scores(means, np.full_like(means, scale))
        # Between narrow functions far apart w underflows: there is nothing to read.
        score = (w @ first) ** 2 / np.maximum(power, np.finfo(np.float64).tiny)[:, None]
        at = score.argmax(0)
        found = np.stack([score[at, np.arange(len(at))], means[at], np.full(len(at), scale)])
        best = np.where(found[0] > best[0], found, best)
    step = np.array([means[1], math.log(SCALES[1] / SCALES[0])])
    for _ in range(REFINEMENTS):
        step = step / 2
        for shift in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
            mean = np.clip(best[1] + shift[0] * step[0], 0.0, 1.0)
            scale = np.maximum(best[2] * math.exp(shift[1] * step[1]), smallest)
            w, power = scores(mean, scale)
            power = np.maximum(power, np.finfo(np.float64).tiny)
            found = np.stack([(w * first.T).sum(-1) ** 2 / power, mean, scale])
            best = np.where(found[0] > best[0], found, best)
    return best[0], best[1], np.maximum(best[2] ** 2, cfg.min_var)


def degrees_of_freedom(
    basis: GaussianBasis,
    times: Float[np.ndarray, " L"],
    ridge: float,
    zeros: Float[np.ndarray, " P"] | tuple[float, ...] = (),
) -> float:
    """Tokens that the regression tells apart: `tr(Fᵀ (F Fᵀ + F_0 F_0ᵀ + λI)⁻¹ F)` (SPEC §1).

    The trace of the hat matrix over the data's own rows, F_0 the basis at the P times where the
    signal is pinned to zero. Without zeros it is `Σ s²/(s² + λ)` of F's singular values s; with the
    padding among the times it counts the padding too.

    Raises:
        ValueError: ridge is negative or too small for float64, or times is no list of numbers.
    """
    g = ridge_operator(basis, times, ridge, zeros)
    return float((g * evaluate(basis, np.asarray(times, np.float64))).sum())
