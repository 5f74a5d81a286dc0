"""What a long-term memory is made of, and the linear operators of its writes (paper §3.1, §3.2).

A row's k-th further write squeezes the past into [0, τ_k] and regresses it and the new vectors
again. Its operators depend on the configuration and on k only, never on data:

    G = [G_past (M rows); G_new (L rows)],    A = G_pastᵀ Ψ(u),    C ← sg(A C) + G_newᵀ X.

Fixed contraction, τ_k = τ, is the paper's: of a segment's width τ^k is left after k writes, and
below the basis functions' widths it is gone. Power contraction is τ_k = (k/(k+1))^p: with p = 1 all
segments have the same width while k is within `horizon`; later they fade by τ_horizon a write.
"""

import dataclasses
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from inf_former_jax.memory import density as densities
from inf_former_jax.memory import regression
from inf_former_jax.memory.basis import AnyArray, GaussianBasis, evaluate, gaussian_basis
from inf_former_jax.memory.tables import Table, compact


def require(holds: bool, name: str, found: object, accepted: object) -> None:
    """Raise ValueError in the user's words unless `holds`: what was found, what is accepted."""
    if not holds:
        raise ValueError(f"{name}: found {found}, accepted: {accepted}")


@dataclasses.dataclass(frozen=True)
class LongTermConfig:
    """Constants of one long-term memory. The defaults are the paper's for sorting (SPEC §5).

    Raises:
        ValueError: on construction, for a value that no memory can have.
    """

    num_basis: int = 512
    """N, number of basis functions; a multiple of the number of widths."""
    widths: tuple[float, ...] = (0.01, 0.05)
    """Standard deviations of the basis functions, in units of the whole signal."""
    ridge: float = 1.0
    """λ of the ridge regression."""
    tau: float = 0.75
    """τ in (0, 1) of fixed contraction: the part of [0, 1] that the past is squeezed into."""
    num_samples: int = 512
    """M, locations at which a further write reads the old signal."""
    padding: bool = True
    """Pin the signal to zero outside [0, 1], as published."""
    sticky: bool = False
    """Read the old signal where attention fell, instead of on a uniform grid (paper §3.3)."""
    locations: Literal["quantile", "draw"] = "quantile"
    """Sticky locations: deterministic quantiles, or the published random draws."""
    bins: int = 128
    """D, bins of the salience histogram."""
    min_var: float = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    prior_scale: float = 0.05
    """σ_0 of the KL regulariser."""
    prior_mean: float | None = None
    """μ_0 of the KL regulariser; None leaves the mean free."""
    gate: bool = True
    """Smooth what is written by `X ⊙ sigmoid(conv1d(X))` (the module's; SPEC §3)."""
    contraction: Literal["fixed", "power"] = "fixed"
    """τ_k of a row's k-th further write: fixed, τ_k = tau (paper); power, (k/(k+1))^power."""
    power: float = 1.0
    """p > 0 of power contraction: 1 weighs all history equally, more leans to the recent."""
    horizon: int = 64
    """Power contraction: τ_k of later writes than this many stays what it is."""
    max_operator_mib: int = 256
    """Largest table of operators that is built, in MiB; a bigger one is refused."""
    read: Literal["chunks", "kernel"] = "chunks"
    """How queries read: compiled by XLA, or (kernel) a Pallas kernel that writes no expectations;
    for GPUs (CUDA, ROCm), anywhere else it is interpreted, which is slow and for tests."""

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(map(float, self.widths)))  # hashable
        gaussian_basis(self.num_basis, self.widths)
        require(0 < self.tau < 1, "tau", self.tau, "a number in (0, 1), its ends excluded")
        for name in ("ridge", "min_var", "prior_scale", "power"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a number > 0")
        for name in ("num_samples", "bins", "horizon", "max_operator_mib"):
            whole = isinstance(getattr(self, name), int) and getattr(self, name) >= 1
            require(whole, name, getattr(self, name), "a whole number ≥ 1")
        kinds = {"locations": ("quantile", "draw"), "contraction": ("fixed", "power"),
                 "read": ("chunks", "kernel")}  # fmt: skip
        for name, known in kinds.items():
            require(getattr(self, name) in known, name, getattr(self, name), " or ".join(known))
        self._check_contraction()

    def _check_contraction(self):
        """τ belongs to one contraction, p and horizon to the other: what is ignored is refused."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("tau",) if self.contraction == "power" else ("power", "horizon"):
            found = f"{getattr(self, name)} with contraction = {self.contraction}"
            accepted = f"only its default {defaults[name]} there, since it would be ignored"
            require(getattr(self, name) == defaults[name], name, found, accepted)
        far = self.tau_of(self.num_contractions)
        accepted = "a power with 0 < τ_k < 1 for every k up to horizon"
        require(0 < self.tau_of(1) <= far < 1, "power", self.power, accepted)

    @property
    def basis(self) -> GaussianBasis:
        """The basis ψ that the coefficients belong to."""
        return gaussian_basis(self.num_basis, self.widths)

    @property
    def num_contractions(self) -> int:
        """K, how many different τ_k there are."""
        return 1 if self.contraction == "fixed" else self.horizon

    def tau_of(self, k: int) -> float:
        """τ_k of a row's k-th further write, k ≥ 1."""
        if self.contraction == "fixed":
            return self.tau
        k = min(k, self.horizon)
        return (k / (k + 1)) ** self.power


class Operators(NamedTuple):
    """Data-independent operators of a write of L vectors. Neither state nor parameters.

    One for each of the K first further writes of a row, the last one for all later ones. Each acts
    on a signal from the left as `gᵀ x`. What the configuration never uses is None.
    """

    first: Float[AnyArray, "1 L N"]  # G of a row's first write, the plain fit
    new: Table  # [K, L, N] G_new of the new vectors of a further one
    decay: Float[AnyArray, "K N N"] | None  # Aᵀ of the uniform grid u_m = m/M: C ← A C + …
    past: Float[AnyArray, "K M N"] | None  # G_past of samples read at given or sticky locations


def write_operator(
    cfg: LongTermConfig, length: int, k: int
) -> tuple[Float[np.ndarray, "M N"] | None, Float[np.ndarray, "L N"]]:
    """(G_past, G_new) of a row's k-th further write, in float64; k = 0 is (None, first fit)."""
    if k == 0:
        zeros = regression.first_fit_padding(length) if cfg.padding else ()
        times = regression.first_fit_times(length)
        return None, regression.ridge_operator(cfg.basis, times, cfg.ridge, zeros)
    past, new = regression.write_times(cfg.tau_of(k), cfg.num_samples, length)
    pinned = _padding_gram(cfg, length)
    times = np.concatenate([past, new])
    g = regression.ridge_operator(cfg.basis, times, cfg.ridge, zeros_gram=pinned)
    return g[: cfg.num_samples], g[cfg.num_samples :]


@lru_cache(maxsize=4)
def _padding_gram(cfg, length):
    """What the zero padding adds to the normal matrix of every further write alike."""
    zeros = regression.write_padding(cfg.num_samples, length) if cfg.padding else np.zeros(0)
    return regression.gram(cfg.basis, zeros)


def operators(cfg: LongTermConfig, length: int, dtype=None) -> Operators:
    """Operators for writes of `length` vectors: formed in float64 on the host, cast once, cached.

    dtype defaults to JAX's default float (float32; float64 under x64). The leaves are NumPy
    arrays: pass them to jitted programs as an argument, on the device, so that they are not
    folded into the program as constants.

    Raises:
        ValueError: no such length, or a table above `cfg.max_operator_mib`.
    """
    require(length >= 1, "length", length, "a whole number ≥ 1")
    check_size(cfg, length)
    return _operators(cfg, length, np.dtype(dtype or jnp.zeros(()).dtype))


def shapes(cfg: LongTermConfig, length: int) -> Operators:
    """Shapes of the operators for writes of `length` vectors, as if none had a low rank.

    Nothing is built for them. A memory can be written with such operators as well.
    """
    count, n = cfg.num_contractions, cfg.num_basis
    # With one contraction only, room is no question, and any locations may be given.
    past = cfg.sticky or cfg.contraction == "fixed"
    return Operators(
        jax.ShapeDtypeStruct((1, length, n), np.float32),
        jax.ShapeDtypeStruct((count, length, n), np.float32),
        None if cfg.sticky else jax.ShapeDtypeStruct((count, n, n), np.float32),
        jax.ShapeDtypeStruct((count, cfg.num_samples, n), np.float32) if past else None,
    )


def operator_mib(cfg: LongTermConfig, length: int) -> float:
    """Room of the float32 operators for writes of `length` vectors, in MiB, at most."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(cfg, length))) * 4 / 2**20


def check_size(cfg: LongTermConfig, length: int) -> None:
    """Refuse operators that would take more room than `cfg.max_operator_mib`, with the numbers."""
    mib = operator_mib(cfg, length)
    found = (
        f"{cfg.max_operator_mib} for the operators of {cfg.num_contractions} contractions (N = "
        f"{cfg.num_basis}, L = {length}, M = {cfg.num_samples}), which take up to {mib:,.1f} MiB"
    )
    accepted = "that much, or a smaller horizon, num_basis or num_samples"
    require(mib <= cfg.max_operator_mib, "max_operator_mib", found, accepted)


@lru_cache(maxsize=8)
def _operators(cfg, length, dtype):
    made = jax.tree.map(lambda of: np.empty(of.shape), shapes(cfg, length))
    grid = evaluate(cfg.basis, densities.uniform_locations(cfg.num_samples))  # Ψ(u) [M, N]
    _, made.first[0] = write_operator(cfg, length, 0)
    for k in range(cfg.num_contractions):
        g_past, made.new[k] = write_operator(cfg, length, k + 1)
        if made.decay is not None:
            made.decay[k] = grid.T @ g_past
        if made.past is not None:
            made.past[k] = g_past
    # The others' ranks are too high for two products to be much less work than one.
    cast = jax.tree.map(lambda of: of.astype(dtype), made._replace(new=None))
    return cast._replace(new=compact(made.new, dtype))
