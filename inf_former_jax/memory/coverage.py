"""Where written tokens lie in the signal, and which of them attention covers (paper §3.1, §3.2).

The k-th further write moves what lay at t to τ_k t and puts its L vectors on (τ_k, 1] in equal
cells (SPEC §3). So each token ever written has a cell of its own, and the cells tile [0, 1]. The
mass of a density on a cell says where a head looks. It does not say what is left of the token
there; `memory.retained` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import Density, interval_sum
from inf_former_jax.memory.fit import doubling, kept
from inf_former_jax.require import require, require_at_least


class Coverage(NamedTuple):
    """Shares of the densities' mass; a row's sum to 1, or all are 0 without a query."""

    tokens: Float[np.ndarray, "B W"]  # on each token that was written, in the stream's order
    padding: Float[np.ndarray, " B"]  # on what was written in the place of tokens
    outside: Float[np.ndarray, " B"]  # before 0 and after 1: all of it before the first write


def segment_edges(cfg: LongTermConfig, writes: int) -> Float[np.ndarray, " J"]:
    """Borders of the written segments: the j-th oldest lies between borders j and j + 1.

    They hold for writes that read the past on the uniform grid. A sticky write stretches the parts
    of the past that attention dwelt on, so the borders of a sticky memory are elsewhere.
    """
    if cfg.contraction == "doubling":
        return doubling.edges(cfg.num_basis, writes)
    if cfg.contraction == "kept":
        return kept.edges(cfg, writes)
    times = np.array([0.0, 1.0][: writes + 1])
    for k in range(1, writes):
        times = np.append(cfg.tau_of(k) * times, 1.0)
    return times


def token_edges(cfg: LongTermConfig, writes: int, length: int) -> Float[np.ndarray, " J"]:
    """Borders of the written vectors: the j-th oldest lies between borders j and j + 1.

    There are `writes` writes of L = `length` vectors, so J = writes · L + 1. The vectors of a
    segment share its part of [0, 1] (`segment_edges`) equally. As intervals, each covers its cell.
    As points, vector i of a first fit lies in the middle of its cell, at (i + ½)/L; vector i of a
    further write lies at the end of its cell, at τ_k + (1-τ_k)(i+1)/L.

    Raises:
        ValueError: a sticky memory: it keeps the last histogram only, so that where earlier writes
            put the past is no longer known.
    """
    accepted = "False, since where a sticky memory put its past is not kept"
    require(not cfg.sticky, "sticky", cfg.sticky, accepted)
    borders = segment_edges(cfg, writes)
    return np.interp(np.arange(writes * length + 1) / length, np.arange(writes + 1), borders)


def coverage(
    cfg: LongTermConfig,
    density: Density,
    lengths: Sequence[int],
    *,
    segment_len: int,
    where: Bool[AnyArray, "B T"] | None = None,
) -> Coverage:
    """`(1/HT) Σ_heads Σ_queries ∫_w p(t) dt` of each written token's cell w (SPEC §3).

    Args:
        density: fields [B, H, T], of queries that read after exactly these writes.
        lengths: for each segment that the row wrote since its reset, oldest first, how many of its
            `segment_len` (L) vectors were tokens; the rest, on its right, were padding.
        where: queries that count; None = all.

    Raises:
        ValueError: a sticky memory, as for `token_edges`, or impossible lengths.
    """
    require_at_least("segment_len", segment_len, 1)
    accepted = f"each 0 to segment_len = {segment_len}"
    for length in map(int, lengths):
        require(0 <= length <= segment_len, "lengths", length, accepted)
    borders = token_edges(cfg, len(lengths), segment_len)
    sums = _interval_sum(density, np.concatenate([[-np.inf], borders, [np.inf]]), where)
    batch, heads, queries = density.mean.shape
    counts = np.full(batch, queries) if where is None else np.asarray(where).sum(1)
    share = np.asarray(sums) / np.maximum(heads * counts, 1)[:, None]
    written = share[:, 1:-1]
    is_token = (np.arange(segment_len) < np.asarray(lengths, int)[:, None]).ravel()
    padding = written[:, ~is_token].sum(1)
    return Coverage(written[:, is_token], padding, share[:, 0] + share[:, -1])


# Compiled: eagerly, the masses of all queries on all cells would exist at once.
_interval_sum = jax.jit(interval_sum)
