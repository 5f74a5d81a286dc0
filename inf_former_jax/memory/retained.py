"""How much of each past segment a memory still holds, without training anything (SPEC §3).

Segments of L vectors of white noise are written, `writes` of them. A write is linear in what is
stored and in what is new, so second moments follow it exactly. Let S be the covariance of the
coefficients, and c_k their covariance with the mean of the segment that was written k writes ago:

    S ← A S Aᵀ + G_newᵀ G_new,    c ← A c,    the newest c = G_newᵀ 1/L,    A = G_pastᵀ Ψ(u).

A memory that is written as intervals, and is not sticky, has an A in closed form instead (SPEC §9).

Let v be the variance of the mean. A linear read-out explains the share `cᵀ S⁻¹ c / v` of it. One
attention density p reads out with w = E_p[ψ] and explains at most `max_p (wᵀc)² / (wᵀ S w · v)`:
the best that any one head can do.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from inf_former_jax.memory.basis import evaluate, expectation
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import uniform_locations
from inf_former_jax.memory.fit.ridge import first_fit_times
from inf_former_jax.memory.write_operators import interval_decay, write_operator
from inf_former_jax.require import require, require_at_least

#: ε = RELATIVE_NOISE · tr(S)/N is added to S, since float32 holds the coefficients no better.
RELATIVE_NOISE = 1e-7

#: Standard deviations of the densities that are tried.
SCALES = np.geomspace(1e-3, 1.0, 48)

#: How often the best of them is refined, with half the step each time.
REFINEMENTS = 8


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
        detail: r; a segment is cut into J = 2^r equal blocks, the earliest first, and each block
            has a mean, with v = J/L; 0 = one mean of the whole segment.
        salience: histogram that steers every further write of a sticky memory; None = u_m = m/M,
            or (m - ½)/M where the fit is of intervals.
        seed: of NumPy's generator, for locations = draw, drawn anew at every write.
        points: how many equally spaced μ are tried first; more where a basis function is narrower.
        progress: called after each write with the number of writes so far.

    Raises:
        ValueError: no such number of writes, length, block or salience; a salience for a memory
            that is not sticky; or a sticky one that drops what is not attended to.
    """
    require_at_least("writes", writes, 1)
    require_at_least("length", length, 1)
    require_at_least("points", points, 2)
    require_at_least("detail", detail, 0)
    found = "kept, of a sticky memory"
    fits = not (cfg.sticky and cfg.contraction == "kept")
    require(fits, "contraction", found, "one that does not depend on what is attended to")
    blocks = 2**detail
    accepted = f"a multiple of 2^detail = {blocks}"
    require(length % blocks == 0, "length", length, accepted)
    locations = _locations(cfg, salience, seed)
    second, first = _moments(cfg, writes, length, blocks, locations, progress)
    n = cfg.num_basis
    second += RELATIVE_NOISE * np.trace(second) / n * np.eye(n)
    # cᵀ S⁻¹ c as a squared norm is never negative.
    half = np.linalg.solve(np.linalg.cholesky(second), first)
    scale = length / blocks  # 1/v
    score, mean, var = _best_density(cfg, second, first, points)
    found = (half**2).sum(0) * scale, score * scale, mean, var
    return Retention(*(leaf.reshape(writes, blocks) for leaf in found))


def _moments(
    cfg: LongTermConfig,
    writes: int,
    length: int,
    blocks: int,
    locations: Callable[[], np.ndarray],
    progress: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray]:
    """S [N, N], and c of all ages and blocks [N, writes·J], the newest segment's first."""
    averages = np.kron(np.eye(blocks), np.ones((length // blocks, 1))) * blocks / length
    operator = lru_cache(maxsize=1)(partial(write_operator, cfg, length))
    _, g_new = operator(0)
    second, first = g_new.T @ g_new, g_new.T @ averages
    progress(1)
    for k in range(1, writes):
        which = min(k, cfg.num_contractions) if cfg.tabled else k
        g_past, g_new = operator(which)
        if cfg.fit == "intervals" and not cfg.sticky:
            decay = interval_decay(cfg, which)
        else:
            assert g_past is not None
            decay = g_past.T @ np.asarray(evaluate(cfg.basis, locations()))
        second = decay @ second @ decay.T + g_new.T @ g_new
        second = (second + second.T) / 2
        first = np.concatenate([g_new.T @ averages, decay @ first], axis=1)
        progress(k + 1)
    return second, first


def _locations(
    cfg: LongTermConfig, salience: np.ndarray | None, seed: int
) -> Callable[[], Float[np.ndarray, " M"]]:
    """A function that gives u of the next write, in NumPy's float64.

    They are `density.quantile_locations` and `density.drawn_locations`, which are in float32.
    """
    points = cfg.fit == "points"
    uniform = (uniform_locations if points else first_fit_times)(cfg.num_samples)
    if salience is None:
        return lambda: uniform
    require(cfg.sticky, "salience", "one for a memory that is not sticky", "None there")
    salience = np.asarray(salience, np.float64)
    require(salience.shape == (cfg.bins,), "salience", f"shape {salience.shape}", f"[{cfg.bins}]")
    is_mass = bool(np.isfinite(salience).all() and (salience >= 0).all())
    require(is_mass, "salience", "a negative or undefined mass", "masses ≥ 0")
    if not salience.sum() > 0:
        return lambda: uniform
    cumulative = np.concatenate([[0.0], np.cumsum(salience / salience.sum())])
    if cfg.locations == "quantile":
        levels = first_fit_times(cfg.num_samples)
        quantiles = np.interp(levels, cumulative, np.linspace(0, 1, cfg.bins + 1))
        return lambda: quantiles
    rng = np.random.default_rng(seed)

    def drawn():
        bins = np.searchsorted(cumulative[1:], rng.uniform(size=cfg.num_samples), side="right")
        return np.sort(np.minimum(bins, cfg.bins - 1)) / cfg.bins

    return drawn


def _best_density(
    cfg: LongTermConfig, second: np.ndarray, first: np.ndarray, points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maximal (wᵀc)²/(wᵀSw) for each column c of `first`, and the μ and σ² that reach it."""
    smallest = math.sqrt(cfg.min_var)
    scales = np.unique(np.maximum(SCALES, smallest))
    # As a function of μ, E_p[ψ_j] is a Gaussian as wide as p and ψ_j together.
    narrowest = math.hypot(scales[0], cfg.basis.narrowest())
    means = np.linspace(0.0, 1.0, max(points, math.ceil(2 / narrowest) + 1))

    def read_out(mean, scale):
        """w and wᵀSw of each density."""
        w = expectation(cfg.basis, mean, scale**2)
        # Between narrow functions far apart w underflows: there is nothing to read.
        return w, np.maximum(((w @ second) * w).sum(-1), np.finfo(np.float64).tiny)

    def better(best, score, mean, scale):
        found = np.stack([score, mean, scale])
        return np.where(score > best[0], found, best)

    best = np.full((3, first.shape[1]), -np.inf)
    for scale in scales:
        w, power = read_out(means, np.full_like(means, scale))
        score = (w @ first) ** 2 / power[:, None]
        at = score.argmax(0)
        best = better(best, score.max(0), means[at], np.full(len(at), scale))
    step = np.array([means[1], math.log(SCALES[1] / SCALES[0])])
    for _ in range(REFINEMENTS):
        step = step / 2
        for shift in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
            mean = np.clip(best[1] + shift[0] * step[0], 0.0, 1.0)
            scale = np.maximum(best[2] * math.exp(shift[1] * step[1]), smallest)
            w, power = read_out(mean, scale)
            best = better(best, (w * first.T).sum(-1) ** 2 / power, mean, scale)
    return best[0], best[1], np.maximum(best[2] ** 2, cfg.min_var)
