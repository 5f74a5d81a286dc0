"""Causal attention over the window in chunks of queries: relative (Transformer-XL), or plain.

The window is [compressed | short-term memory]; what is compressed is told by `Compression`.

Scores are [H, B, T, S] numbers, far more than anything else in a layer: a custom VJP forms those of
a chunk of queries, uses them, and in the backward pass forms them again. With `p = exp(s - log Σ
exp s)`, `z = p v` and a cotangent g of z (Dao et al. 2022, §3.1),

    ∂v = pᵀ g,    ∂s = p ⊙ (g vᵀ - (g · z) 1ᵀ).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.cpu_cache import in_cached_pieces
from inf_former_jax.models.dropout import RowKeys, dropout
from inf_former_jax.models.local_attention.scores import (
    Heads,
    by_distance,
    by_key,
    joined,
    scaled_queries,
    scores,
)


class Kind(NamedTuple):
    """What of an attention is no array."""

    same_length: int
    chunk: int
    rate: float
    layer: int


def causal_attention(
    heads: Heads,
    filled: Int[AnyArray, " B"],
    *,
    same_length: int = 0,
    chunk: int = 128,
    rate: float = 0.0,
    dropout_keys: RowKeys | None = None,
    layer: int = 0,
) -> Float[Array, "H B T K"]:
    """Causal attention over [memory | segment], with relative positions or without.

    `score = ((q+u)·k + (q+w)·R(d)) / √K` (Dai et al. 2019, §3.3) or, absolute, `q·k / √K`, with
    d = query time - key time; a key is seen iff d ≥ 0, it is filled and, with same_length,
    d < same_length. Computed over chunks of queries, each on the keys that it can see at all.

    Args:
        filled: how many of the S - T memory rows hold something (the newest ones).
        same_length: 0, or the number of keys that every query sees at most.
        rate, dropout_keys, layer: dropout of the probabilities; each head has masks of its own.
    """
    kind = Kind(same_length, chunk, 0.0 if dropout_keys is None else rate, layer)
    return _causal(heads, jnp.asarray(filled), dropout_keys, kind)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _causal(heads, filled, rows, kind):
    return _forward(heads, filled, rows, kind)[0]


def _forward(heads, filled, rows, kind):
    def of_group(heads, numbers):
        return _attend(heads, numbers, filled, rows, kind)

    numbers = jnp.arange(heads.q.shape[0])
    output, logsum = in_cached_pieces(of_group, _scores_of_a_head(heads, kind), heads, numbers)
    return output, (heads, filled, rows, output, logsum)


def _backward(kind, kept, cotangent):
    heads, filled, rows, output, logsum = kept
    mean = (output.astype(logsum.dtype) * cotangent.astype(logsum.dtype)).sum(-1, keepdims=True)

    def of_group(heads, numbers, *of_queries):
        return _gradients(heads, numbers, of_queries, filled, rows, kind)

    given = heads, jnp.arange(heads.q.shape[0]), logsum, mean, cotangent
    return in_cached_pieces(of_group, _scores_of_a_head(heads, kind), *given), None, None


_causal.defvjp(_forward, _backward)


def _scores_of_a_head(heads, kind):
    _, batch, total, _ = heads.k.shape
    return batch * min(kind.chunk, heads.q.shape[2]) * total


class Cut(NamedTuple):
    """A chunk of queries, and the keys that any of them sees."""

    part: int
    queries: slice
    keys: slice
    distances: slice  # of the position table, those of these keys
    memory: int  # S - T


def _cuts(heads: Heads, kind: Kind) -> Iterator[tuple[Cut, Heads]]:
    length, total = heads.q.shape[2], heads.k.shape[2]
    memory = total - length
    for part, start in enumerate(range(0, length, kind.chunk)):
        stop = min(start + kind.chunk, length)
        first = max(0, memory + start - kind.same_length + 1) if kind.same_length else 0
        last = memory + stop
        distances = slice(total - (last - first), None)
        cut = Cut(part, slice(start, stop), slice(first, last), distances, memory)
        yield (
            cut,
            heads._replace(
                q=heads.q[:, :, cut.queries],
                k=heads.k[:, :, cut.keys],
                v=heads.v[:, :, cut.keys],
                r=None if heads.r is None else heads.r[:, distances],
            ),
        )


def _attend(heads, numbers, filled, rows, kind):
    """(output, log Σ exp of the scores) of the heads with these numbers."""
    outputs, logsums = [], []
    for cut, piece in _cuts(heads, kind):
        masked = _masked(piece, cut, filled, kind)
        top = masked.max(axis=-1, keepdims=True)
        weights = jnp.exp(masked - top)
        total = weights.sum(axis=-1, keepdims=True)
        kept = _dropped(weights, numbers, rows, kind, cut).astype(heads.v.dtype)
        mixed = jnp.einsum("hbts,hbsk->hbtk", kept, piece.v)
        outputs.append((mixed / total).astype(heads.v.dtype))
        logsums.append(top + jnp.log(total))
    return joined(outputs), joined(logsums)


def _gradients(heads, numbers, of_queries, filled, rows, kind):
    """Cotangents of the heads with these numbers."""
    grads, grad_q = jax.tree.map(jnp.zeros_like, heads), []
    scale, narrow = heads.q.shape[-1] ** -0.5, heads.v.dtype
    for cut, piece in _cuts(heads, kind):
        logsum, mean, ct = (x[:, :, cut.queries] for x in of_queries)
        of_content, of_position = scaled_queries(piece)
        probs = jnp.exp(_masked(piece, cut, filled, kind) - logsum)
        kept = _dropped(probs, numbers, rows, kind, cut).astype(narrow)
        by_kept = jnp.einsum("hbtk,hbsk->hbts", ct, piece.v).astype(probs.dtype)
        by_probs = _dropped(by_kept, numbers, rows, kind, cut)
        by_score = (probs * (by_probs - mean)).astype(narrow)
        by_query = jnp.einsum("hbts,hbsk->hbtk", by_score, piece.k) * scale
        grads = grads._replace(
            k=grads.k.at[:, :, cut.keys].add(_over_queries(of_content, by_score)),
            v=grads.v.at[:, :, cut.keys].add(_over_queries(ct, kept)),
        )
        if of_position is not None:
            of_distance = by_distance(by_score)
            to_w = jnp.einsum("hbtp,hpk->hbtk", of_distance, piece.r) * scale
            to_r = jnp.einsum("hbtk,hbtp->hkp", of_position, of_distance)
            grads = grads._replace(
                r=grads.r.at[:, cut.distances].add(jnp.swapaxes(to_r, 1, 2)),
                u=grads.u + by_query.sum(axis=(1, 2)),
                w=grads.w + to_w.sum(axis=(1, 2)),
            )
            by_query = by_query + to_w
        grad_q.append(by_query)
    return grads._replace(q=joined(grad_q))


def _over_queries(x, of_keys):
    """`Σ_t y_ts x_t` [H, B, S, K]: a product turns its first factor, so that is the small one."""
    return jnp.swapaxes(jnp.einsum("hbtk,hbts->hbks", x, of_keys), 2, 3)


def _masked(piece, cut, filled, kind):
    """Scores, -inf where a query does not see a key."""
    content, position = scores(piece)
    if position is not None:
        content = content + by_key(position)
    shape = content.shape[2:]
    query = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + (cut.memory + cut.queries.start)
    key = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + cut.keys.start
    seen = key <= query
    if kind.same_length:
        seen &= query - key < kind.same_length
    seen = seen[None] & (key[None] >= (cut.memory - filled)[:, None, None])
    wide = content.astype(jnp.promote_types(content.dtype, jnp.float32))
    return jnp.where(seen[None], wide, -jnp.inf)


def _dropped(probs, numbers, rows, kind, cut):
    """Dropout of probabilities [H, B, T, S]; it is its own transpose."""
    if kind.rate == 0:
        return probs

    def of_head(probs, number):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(rows.keys)
        return dropout(probs, kind.rate, RowKeys(keys), kind.layer, "attention", cut.part)

    return jax.vmap(of_head)(probs, numbers)
