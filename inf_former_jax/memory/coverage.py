"""Which tokens of the stream attention densities cover (paper §3.1, §3.2; SPEC §3).

The k-th further write moves what lay at t to τ_k t and puts its L vectors on (τ_k, 1] in equal
cells. So each token ever written has a cell of its own, and the cells tile [0, 1]. What a density
covers says where a head looks, not what is left there: of that, `memory.retained` tells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import GaussianDensity, interval_sum
from inf_former_jax.memory.long_term import edges
from inf_former_jax.require import require


class Coverage(NamedTuple):
    """Shares of the densities' mass; a row's sum to 1, or all are 0 without a query."""

    tokens: Float[np.ndarray, "B W"]  # on each token that was written, in the stream's order
    padding: Float[np.ndarray, " B"]  # on what was written in the place of tokens
    outside: Float[np.ndarray, " B"]  # before 0 and after 1: all of it before the first write


def token_edges(cfg: LongTermConfig, writes: int, length: int) -> Float[np.ndarray, " J"]:
    """Where vectors lie after `writes` writes of L: the j-th oldest between edges j and j + 1.

    A segment's vectors share its part of [0, 1] (`long_term.edges`) equally; J = writes · L + 1.
    Vector i of a first fit is in the middle of its cell, (i + ½)/L; that of a further write at its
    end, τ_k + (1-τ_k)(i+1)/L.

    Raises:
        ValueError: sticky memories: a write stretches what attention dwelt on, and of the
            histograms that steered the writes only the last one is kept.
    """
    accepted = "False, since where a sticky memory put its past is not kept"
    require(not cfg.sticky, "sticky", cfg.sticky, accepted)
    of_segments = edges(cfg, writes)
    return np.interp(np.arange(writes * length + 1) / length, np.arange(writes + 1), of_segments)


def coverage(
    cfg: LongTermConfig,
    density: GaussianDensity,
    lengths: Sequence[int],
    *,
    segment_len: int,
    where: Bool[AnyArray, "B T"] | None = None,
) -> Coverage:
    """`(1/HT) Σ_heads Σ_queries ∫_w N(t; μ, σ²) dt` of each written token's cell w (SPEC §3).

    Args:
        density: fields [B, H, T], of queries that read after exactly these writes.
        lengths: of each segment that the row wrote since its reset, oldest first, how many of its
            `segment_len` (L) vectors were tokens; the others, on its right, were padding.
        where: queries that count; None = all.

    Raises:
        ValueError: a sticky memory, as for `token_edges`, or impossible lengths.
    """
    require(segment_len >= 1, "segment_len", segment_len, "a whole number ≥ 1")
    accepted = f"each 0 to segment_len = {segment_len}"
    for length in map(int, lengths):
        require(0 <= length <= segment_len, "lengths", length, accepted)
    borders = token_edges(cfg, len(lengths), segment_len)
    sums = _interval_sum(density, np.concatenate([[-np.inf], borders, [np.inf]]), where)
    batch, heads, queries = np.shape(density.mean)
    counts = np.full(batch, queries) if where is None else np.asarray(where).sum(1)
    share = np.asarray(sums) / np.maximum(heads * counts, 1)[:, None]
    written = share[:, 1:-1]
    valid = np.arange(segment_len) < np.asarray(lengths, int)[:, None]
    padding = written[:, ~valid.ravel()].sum(1)
    return Coverage(written[:, valid.ravel()], padding, share[:, 0] + share[:, -1])


_interval_sum = jax.jit(interval_sum)  # else the queries' masses on all cells would all be kept
