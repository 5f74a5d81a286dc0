"""Causal attention of whole segments, in chunks of queries and with its own backward pass.

The scores are [H, B, T, S] numbers, far more than anything else in a layer. A custom VJP forms
those of a chunk of queries, uses them, and forms them again in the backward pass. With the weights
`p = exp(s - Z)`, `Z = log Σ exp s`, `z = p v` and the cotangents g of z and h of Z (Dao et al.
2022, §3.1),

    ∂v = pᵀ g,    ∂s = p ⊙ (g vᵀ - (g · z - h) 1ᵀ).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.cpu_cache import in_cached_pieces
from inf_former_jax.models.dropout import RowKeys, dropout
from inf_former_jax.models.local_attention.scores import (
    Heads,
    by_distance,
    by_key,
    joined,
    scaled_queries,
    scores,
    summed,
)


class Settings(NamedTuple):
    """What of an attention is known when it is compiled."""

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
) -> tuple[Float[Array, "H B T K"], Float[Array, "H B T"]]:
    """(attention of T queries over [window (S - T) | segment (T)], log Σ exp of their scores).

    The scores are those of `scores.py`.

    A query sees a key iff their distance d ≥ 0, the key is filled and, with same_length,
    d < same_length. Each chunk of queries is computed on the keys that any of them sees.

    Args:
        filled: how many of the S - T rows of the window hold something (the newest ones). The
            others must be finite, since they are multiplied by weights of 0.
        same_length: 0, or the number of keys that every query sees at most.
        chunk: queries whose scores exist at a time.
        rate, dropout_keys, layer: dropout of the probabilities; each head has masks of its own.
    """
    settings = Settings(same_length, chunk, 0.0 if dropout_keys is None else rate, layer)
    return _causal(heads, jnp.asarray(filled), dropout_keys, settings)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _causal(heads, filled, dropout_keys, settings):
    output, logsum = _forward(heads, filled, dropout_keys, settings)[0]
    return output, logsum


def _forward(heads, filled, dropout_keys, settings):
    def attend(heads, numbers):
        return _attend(heads, numbers, filled, dropout_keys, settings)

    numbers = jnp.arange(heads.q.shape[0])
    output, logsum = in_cached_pieces(attend, _scores_of_a_head(heads, settings), heads, numbers)
    return (output, logsum[..., 0]), (heads, filled, dropout_keys, output, logsum)


def _backward(settings, residuals, cotangents):
    (heads, filled, dropout_keys, output, logsum), (cotangent, by_logsum) = residuals, cotangents
    mean = (output.astype(logsum.dtype) * cotangent.astype(logsum.dtype)).sum(-1, keepdims=True)
    mean = mean - by_logsum[..., None]

    def gradients(heads, numbers, *by_query):
        return _gradients(heads, numbers, by_query, filled, dropout_keys, settings)

    arrays = heads, jnp.arange(heads.q.shape[0]), logsum, mean, cotangent
    return in_cached_pieces(gradients, _scores_of_a_head(heads, settings), *arrays), None, None


_causal.defvjp(_forward, _backward)


def _scores_of_a_head(heads: Heads, settings: Settings) -> int:
    _, batch, total, _ = heads.k.shape
    return batch * min(settings.chunk, heads.q.shape[2]) * total


class Cut(NamedTuple):
    """A chunk of queries, and the keys that any of them sees."""

    number: int
    queries: slice
    keys: slice
    distances: slice  # rows of the position table, as many as there are keys and one more
    window: int  # S - T


def _cuts(heads: Heads, settings: Settings) -> Iterator[tuple[Cut, Heads]]:
    """The chunks, and the parts of the heads that belong to each."""
    length, total = heads.q.shape[2], heads.k.shape[2]
    window, same_length = total - length, settings.same_length
    for number, start in enumerate(range(0, length, settings.chunk)):
        stop = min(start + settings.chunk, length)
        first = max(0, window + start - same_length + 1) if same_length else 0
        last = window + stop
        distances = slice(total - (last - first), None)
        cut = Cut(number, slice(start, stop), slice(first, last), distances, window)
        piece = heads._replace(
            q=heads.q[:, :, cut.queries],
            k=heads.k[:, :, cut.keys],
            v=heads.v[:, :, cut.keys],
            r=None if heads.r is None else heads.r[:, distances],
        )
        yield cut, piece


def _attend(heads, numbers, filled, dropout_keys, settings):
    """(output, log Σ exp of the scores) of the heads with these numbers."""
    outputs, logsums = [], []
    for cut, piece in _cuts(heads, settings):
        masked = _masked_scores(piece, cut, filled, settings)
        top = masked.max(axis=-1, keepdims=True)
        weights = jnp.exp(masked - top)
        total = weights.sum(axis=-1, keepdims=True)
        kept = _dropped(weights, numbers, dropout_keys, settings, cut).astype(heads.v.dtype)
        mixed = summed("hbts,hbsk->hbtk", kept, piece.v)
        outputs.append((mixed / total).astype(heads.v.dtype))
        logsums.append(top + jnp.log(total))
    return joined(outputs), joined(logsums)


def _gradients(heads, numbers, by_query, filled, dropout_keys, settings):
    """Cotangents of the heads with these numbers.

    Args:
        by_query: Z, g · z - h, and g.
    """
    grads, grad_q = jax.tree.map(jnp.zeros_like, heads), []
    scale, narrow = heads.q.shape[-1] ** -0.5, heads.v.dtype
    for cut, piece in _cuts(heads, settings):
        logsum, mean, g = (x[:, :, cut.queries] for x in by_query)
        content_queries, position_queries = scaled_queries(piece)
        probs = jnp.exp(_masked_scores(piece, cut, filled, settings) - logsum)
        kept = _dropped(probs, numbers, dropout_keys, settings, cut).astype(narrow)
        grad_kept = summed("hbtk,hbsk->hbts", g, piece.v)
        grad_probs = _dropped(grad_kept, numbers, dropout_keys, settings, cut)
        grad_scores = (probs * (grad_probs - mean)).astype(narrow)
        grad_queries = (summed("hbts,hbsk->hbtk", grad_scores, piece.k) * scale).astype(narrow)
        grads = grads._replace(
            k=grads.k.at[:, :, cut.keys].add(_sum_over_queries(content_queries, grad_scores)),
            v=grads.v.at[:, :, cut.keys].add(_sum_over_queries(g, kept)),
        )
        if position_queries is not None:
            shifted = by_distance(grad_scores)
            grad_w = (summed("hbtp,hpk->hbtk", shifted, piece.r) * scale).astype(narrow)
            grad_r = summed("hbtk,hbtp->hkp", position_queries, shifted).astype(narrow)
            grads = grads._replace(
                r=grads.r.at[:, cut.distances].add(jnp.swapaxes(grad_r, 1, 2)),
                u=grads.u + grad_queries.sum(axis=(1, 2)),
                w=grads.w + grad_w.sum(axis=(1, 2)),
            )
            grad_queries = grad_queries + grad_w
        grad_q.append(grad_queries)
    return grads._replace(q=joined(grad_q))


def _sum_over_queries(
    x: Float[Array, "H B T K"], weights: Float[Array, "H B T S"]
) -> Float[Array, "H B S K"]:
    """`Σ_t weights_ts x_t`. XLA transposes the first operand, so the smaller one stands there."""
    return jnp.swapaxes(summed("hbtk,hbts->hbks", x, weights), 2, 3).astype(x.dtype)


def _masked_scores(piece, cut, filled, settings):
    """The scores in float32 at least, -inf where a query does not see a key."""
    content, position = scores(piece)
    if position is not None:
        content = content + by_key(position)
    shape = content.shape[2:]
    query = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + (cut.window + cut.queries.start)
    key = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + cut.keys.start
    visible = key <= query
    if settings.same_length:
        visible &= query - key < settings.same_length
    visible = visible[None] & (key[None] >= (cut.window - filled)[:, None, None])
    return jnp.where(visible[None], content, -jnp.inf)


def _dropped(probs, numbers, dropout_keys, settings, cut):
    """Dropout of probabilities [H, B, T, S]; the function is its own transpose."""
    if settings.rate == 0:
        return probs

    def of_head(probs, number):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(dropout_keys.keys)
        rate, layer = settings.rate, settings.layer
        return dropout(probs, rate, RowKeys(keys), layer, "attention", cut.number)

    return jax.vmap(of_head)(probs, numbers)
