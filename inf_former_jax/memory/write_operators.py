"""The linear operators of a long-term memory's writes (paper §3.1, §3.2).

A row's k-th further write squeezes the past into [0, τ_k] and fits it and the new vectors
again. Its operators depend on the configuration and on k only, never on data:

    G = [G_past (M rows); G_new (L rows)],    A = G_pastᵀ Ψ(u),    C ← sg(A C) + G_newᵀ X.

They are formed in float64 on the host, once, and passed to every jitted program as an argument.

Fixed contraction, τ_k = τ, is the paper's: after k writes τ^k of a segment's width is left, and
below the basis functions' widths the segment is gone. Power contraction is τ_k = (k/(k+1))^p: with
p = 1 all segments have the same width while k is within `horizon`; after that they fade by
τ_horizon a write.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import uniform_locations
from inf_former_jax.memory.fit import doubling, intervals, kept, ridge
from inf_former_jax.memory.operator_tables import Table, compact
from inf_former_jax.require import require


class Operators(NamedTuple):
    """Data-independent operators of a write of L vectors. Neither state nor parameters.

    K operators belong to a row's first K further writes; the last of them serves all later writes.
    Each acts on a signal from the left as `gᵀ x`. What the configuration never uses is None.
    """

    first: Float[AnyArray, "1 L N"]  # G of a row's first write, the plain fit
    new: Table | None  # [K, L, N] G_new of the new vectors of a further one
    decay: Float[AnyArray, "K N N"] | None  # Aᵀ of the uniform grid u_m = m/M: C ← A C + …
    past: Float[AnyArray, "K M N"] | None  # G_past of samples read at given or sticky locations


def write_operator(
    cfg: LongTermConfig, length: int, k: int
) -> tuple[Float[np.ndarray, "M N"] | None, Float[np.ndarray, "L N"]]:
    """(G_past, G_new) of a row's k-th further write, in float64; k = 0 is (None, first fit).

    Where the past is not sampled G_past is None, too, and G_new of float32's precision
    (`fit.doubling`).
    """
    if cfg.fit == "intervals":
        return _interval_operator(cfg, length, k)
    if k == 0:
        zeros = ridge.first_fit_padding(length) if cfg.padding else ()
        times = ridge.first_fit_times(length)
        return None, ridge.ridge_operator(cfg.basis, times, cfg.ridge, zeros)
    times = np.concatenate(ridge.write_times(cfg.tau_of(k), cfg.num_samples, length))
    zeros_gram = _padding_gram(cfg, length)
    g = ridge.ridge_operator(cfg.basis, times, cfg.ridge, zeros_gram=zeros_gram)
    return g[: cfg.num_samples], g[cfg.num_samples :]


def _interval_operator(
    cfg: LongTermConfig, length: int, k: int
) -> tuple[Float[np.ndarray, "M N"] | None, Float[np.ndarray, "L N"]]:
    """`write_operator` where each vector, and each sample of the past, covers an interval."""
    if cfg.contraction == "kept":
        return None, kept.new(cfg, length)
    if k and cfg.contraction == "doubling":
        return None, doubling.new(cfg, length, k)
    tau = 0.0 if k == 0 else cfg.tau_of(k)
    past = tau * np.arange(cfg.num_samples + 1) / cfg.num_samples
    edges = intervals.interval_edges(tau, length)
    g_past, g_new = (intervals.projection(cfg.basis, e, **_nearest(cfg)) for e in (past, edges))
    return None if k == 0 else g_past, g_new


def _nearest(cfg: LongTermConfig) -> dict[str, Any]:
    """How the nearest signal is found: functions that overlap need a ridge, of N points."""
    if cfg.functions != "gaussian":
        return {}
    return {"ridge": cfg.ridge / cfg.num_basis, "whole_line": cfg.padding}


def interval_decay(cfg: LongTermConfig, k: int) -> Float[np.ndarray, "N N"]:
    """A of a row's k-th further write as intervals, which takes all of the past; float64, k ≥ 1."""
    if cfg.contraction == "doubling":
        return doubling.decay(cfg, k)
    if cfg.contraction == "kept":
        return kept.decay(cfg)
    return intervals.decay(cfg.basis, cfg.tau_of(k), **_nearest(cfg))


@lru_cache(maxsize=4)
def _padding_gram(cfg: LongTermConfig, length: int) -> Float[np.ndarray, "N N"]:
    """What the zero padding adds to the normal matrix of every further write alike."""
    zeros = ridge.write_padding(cfg.num_samples, length) if cfg.padding else np.zeros(0)
    return ridge.gram(cfg.basis, zeros)


def operators(cfg: LongTermConfig, length: int, dtype: DTypeLike | None = None) -> Operators:
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


@lru_cache(maxsize=8)
def _operators(cfg: LongTermConfig, length: int, dtype: np.dtype) -> Operators:
    tables = jax.tree.map(lambda table: np.empty(table.shape), shapes(cfg, length))
    _, tables.first[0] = write_operator(cfg, length, 0)
    if not cfg.tabled:
        return tables._replace(first=tables.first.astype(dtype))
    psi = np.asarray(evaluate(cfg.basis, uniform_locations(cfg.num_samples)))  # Ψ(u) [M, N]
    for k in range(cfg.num_contractions):
        g_past, tables.new[k] = write_operator(cfg, length, k + 1)
        assert g_past is not None
        if tables.decay is not None:
            points = cfg.fit == "points"
            tables.decay[k] = psi.T @ g_past if points else interval_decay(cfg, k + 1).T
        if tables.past is not None:
            tables.past[k] = g_past
    # Only G_new has a rank so low that two thin products are much less work than one.
    cast = jax.tree.map(lambda table: table.astype(dtype), tables._replace(new=None))
    return cast._replace(new=compact(tables.new, dtype))


def shapes(cfg: LongTermConfig, length: int) -> Operators:
    """Shapes of the operators for writes of `length` vectors; nothing is built.

    All of them are whole matrices here. `operators` may return a `LowRank` in the place of one; a
    memory can be written with either.
    """
    count, n = cfg.num_contractions, cfg.num_basis

    def matrices(count: int, rows: int) -> Any:  # shapes stand in the places of arrays
        return jax.ShapeDtypeStruct((count, rows, n), np.float32)

    # A uniform memory with one contraction has room for G_past: locations may be given to it.
    any_locations = cfg.sticky or cfg.contraction == "fixed"
    if not cfg.tabled:
        return Operators(matrices(1, length), None, None, None)
    return Operators(
        first=matrices(1, length),
        new=matrices(count, length),
        decay=None if cfg.sticky else matrices(count, n),
        past=matrices(count, cfg.num_samples) if any_locations else None,
    )


def operator_mib(cfg: LongTermConfig, length: int) -> float:
    """Room of the float32 operators for writes of `length` vectors, in MiB, at most."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(cfg, length))) * 4 / 2**20


def check_size(cfg: LongTermConfig, length: int, name: str = "max_operator_mib") -> None:
    """Refuse operators that would take more room than `cfg.max_operator_mib`, called `name`."""
    mib = operator_mib(cfg, length)
    found = (
        f"{cfg.max_operator_mib} for the operators of {cfg.num_contractions} contractions (N = "
        f"{cfg.num_basis}, L = {length}, M = {cfg.num_samples}), which take up to {mib:,.1f} MiB"
    )
    accepted = "that much, or a smaller horizon, num_basis or num_samples"
    require(mib <= cfg.max_operator_mib, name, found, accepted)
