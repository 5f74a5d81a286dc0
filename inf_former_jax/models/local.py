"""Attention over the window in chunks of queries: Transformer-XL's relative one, or the plain one.

The window is [compressed | short-term memory]; what is compressed is told by `Compression`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory import compressed
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.models.dropout import RowKeys, dropout

#: Parameters are float32 whatever JAX's default is.
F32 = jnp.float32

# A linear map from [..., E] to heads [H, K], and back.
TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def sinusoid(
    farthest: int, dim: int, clamp_len: int = 0
) -> Float[np.ndarray, "{farthest}+1 {dim}"]:
    """Position table of the distances S … 0 (S = farthest): `[sin(d f), cos(d f)]`.

    `f_i = 10000^(-2i/E)`, in float64. Queries never look S back, but `relative_attention` wants
    the row.

    Args:
        clamp_len: if positive, distances above it count as it.
    """
    distance = np.arange(farthest, -1, -1, dtype=np.float64)
    if clamp_len > 0:
        distance = np.minimum(distance, clamp_len)
    angle = distance[:, None] * (10000.0 ** (-np.arange(0, dim, 2) / dim))[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


class Heads(NamedTuple):
    """What attention needs of its inputs, all by head first; without r, u and w it is absolute."""

    q: Float[AnyArray, "H B T K"]
    k: Float[AnyArray, "H B S K"]  # S = short-term rows + T
    v: Float[AnyArray, "H B S K"]
    r: Float[Array, "H S+1 K"] | None = None  # projected positions of the distances S … 0
    u: Float[Array, "H K"] | None = None  # content bias
    w: Float[Array, "H K"] | None = None  # position bias


def causal_attention(
    heads: Heads,
    filled: Int[AnyArray, " B"],
    *,
    same_length: int = 0,
    chunk: int = 128,
    rate: float = 0.0,
    rows: RowKeys | None = None,
    layer: int = 0,
) -> Float[Array, "H B T K"]:
    """Causal attention over [memory | segment], with relative positions or without.

    `score = ((q+u)·k + (q+w)·R(d)) / √K` (Dai et al. 2019, §3.3) or, absolute, `q·k / √K`, with
    d = query time - key time; a key is seen iff d ≥ 0, it is filled and, with same_length,
    d < same_length. Computed over chunks of queries, each on the keys that it can see at all.

    Args:
        filled: how many of the S - T memory rows hold something (the newest ones).
        same_length: 0, or the number of keys that every query sees at most.
        rate, rows, layer: dropout of the probabilities.
    """
    length, total = heads.q.shape[2], heads.k.shape[2]
    memory = total - length
    outputs = []
    for part, start in enumerate(range(0, length, chunk)):
        stop = min(start + chunk, length)
        first = max(0, memory + start - same_length + 1) if same_length else 0
        last = memory + stop
        piece = heads._replace(
            q=heads.q[:, :, start:stop],
            k=heads.k[:, :, first:last],
            v=heads.v[:, :, first:last],
            r=None if heads.r is None else heads.r[:, total - (last - first) :],
        )
        empty = memory - filled - first  # keys before this one are empty slots of the memory
        outputs.append(_attend(piece, empty, same_length, rate, rows, (layer, part)))
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=2)


def _attend(heads, empty, same_length, rate, rows, place):
    queries, keys = heads.q.shape[2], heads.k.shape[2]
    scores = _scores(heads)
    distance = np.arange(keys - queries, keys)[:, None] - np.arange(keys)[None, :]
    seen = distance >= 0
    if same_length:
        seen &= distance < same_length
    filled = np.arange(keys)[None, :] >= empty[:, None]  # [B, S]
    mask = seen[None, None] & filled[None, :, None]
    scores = jnp.where(mask, scores.astype(_at_least_float32(scores)), -jnp.inf)
    probs = jax.nn.softmax(scores, axis=-1).astype(heads.v.dtype)
    if rate > 0 and rows is not None:
        by_row = dropout(jnp.swapaxes(probs, 0, 1), rate, rows, place[0], "attention", place[1])
        probs = jnp.swapaxes(by_row, 0, 1)
    return jnp.einsum("hbts,hbsk->hbtk", probs, heads.v)


def _scores(heads):
    scale = heads.q.shape[-1] ** -0.5
    if heads.r is None:
        return jnp.einsum("hbtk,hbsk->hbts", heads.q * scale, heads.k)
    content = jnp.einsum("hbtk,hbsk->hbts", (heads.q + heads.u[:, None, None]) * scale, heads.k)
    position = jnp.einsum("hbtk,hsk->hbts", (heads.q + heads.w[:, None, None]) * scale, heads.r)
    return content + _relative_shift(position)


def _relative_shift(x):
    """[…, T, S+1] by distance to […, T, S] by key: (i, j) is x's (i, j - i + T).

    Read flat, each row of x begins one place too early for the next key: dropping the first T
    numbers aligns all of them. What wraps around to another row lies in the future, masked.
    """
    *batch, queries, width = x.shape
    flat = x.reshape(*batch, queries * width)[..., queries:]
    return flat.reshape(*batch, queries, width - 1)


def _at_least_float32(x):
    return jnp.promote_types(x.dtype, jnp.float32)


class LocalAttention(nn.Module):
    """Multi-head attention over [compressed | short-term | segment].

    Called with normalised inputs where the block is pre-norm. The two position biases of relative
    attention are given, since all layers share them.
    """

    num_heads: int
    head_dim: int
    dim: int
    same_length: int = 0
    chunk: int = 128
    rate: float = 0.0
    relative: bool = True
    bias: bool = False

    def setup(self):
        shape = (self.dim, self.num_heads, self.head_dim)
        self.query = self.param("query", TO_HEADS, shape, F32)
        self.key = self.param("key", TO_HEADS, shape, F32)
        self.value = self.param("value", TO_HEADS, shape, F32)
        if self.relative:
            self.position = self.param("position", TO_HEADS, shape, F32)
        self.out = self.param("out", FROM_HEADS, (self.num_heads, self.head_dim, self.dim), F32)
        if self.bias:
            zeros, heads = nn.initializers.zeros, shape[1:]
            self.query_bias = self.param("query_bias", zeros, heads, F32)
            self.key_bias = self.param("key_bias", zeros, heads, F32)
            self.value_bias = self.param("value_bias", zeros, heads, F32)
            self.out_bias = self.param("out_bias", zeros, (self.dim,), F32)

    def __call__(
        self,
        x: Float[AnyArray, "B T E"],
        window: Float[Array, "B S E"] | None,
        filled: Int[AnyArray, " B"],
        positions: Float[AnyArray, "P E"] | None,
        biases: tuple[Float[Array, "H K"], Float[Array, "H K"]] | None,
        rows: RowKeys | None = None,
        layer: int = 0,
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B H T K"]]:
        """The attention's output, and the projected queries, for the long-term memory to use.

        Args:
            window: [compressed | short-term] rows, oldest first; the newest `filled` count.
            positions: `sinusoid(S + T, E)`, of P = S + T + 1 rows; None in absolute attention.
            biases: u and w of the scores; None in absolute attention.
        """
        context = x if window is None else jnp.concatenate([window, x], axis=1)
        query, key, value = self._projections()
        heads = Heads(q=_to_heads(x, *query), k=_to_heads(context, *key),
                      v=_to_heads(context, *value))  # fmt: skip
        if self.relative:
            r = jnp.einsum("se,ehk->hsk", jnp.asarray(positions, x.dtype), self.position)
            heads = heads._replace(r=r, u=biases[0], w=biases[1])
        attended = causal_attention(
            heads, filled, same_length=self.same_length, chunk=self.chunk,
            rate=self.rate, rows=rows, layer=layer,
        )  # fmt: skip
        output = jnp.einsum("hbtk,hke->bte", attended, self.out)
        if self.bias:
            output = output + self.out_bias[None, None]
        return output, jnp.swapaxes(heads.q, 0, 1)

    def _projections(self):
        """(kernel, bias or None) of queries, keys and values."""
        if not self.bias:
            return (self.query, None), (self.key, None), (self.value, None)
        return ((self.query, self.query_bias), (self.key, self.key_bias),
                (self.value, self.value_bias))  # fmt: skip

    def reconstruction(
        self, x: Float[AnyArray, "B T E"], old: Float[Array, "B L E"], new: Float[Array, "B C E"]
    ) -> Float[Array, "B T"]:
        """How well attention to compressed vectors equals attention to the old ones (SPEC §5b).

        Everything but `new` is detached: inputs, old vectors, and this layer's projections.
        """
        (query, key, value), x, old = jax.lax.stop_gradient((self._projections(), x, old))
        keys, values = ([_to_heads(m, *into) for m in (old, new)] for into in (key, value))
        pairs = zip(keys, values, strict=True)
        return compressed.reconstruction(_to_heads(x, *query), *pairs)


def _to_heads(x, kernel, bias=None):
    heads = jnp.einsum("bte,ehk->hbtk", x, kernel)
    return heads if bias is None else heads + bias[:, None, None]
