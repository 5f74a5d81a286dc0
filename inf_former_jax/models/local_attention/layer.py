"""The layer of local attention: projections around `causal.causal_attention`."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.contrib.fused_attention import fused_attention
from inf_former_jax.memory import compressed
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.models.dropout import RowKeys
from inf_former_jax.models.local_attention.causal import causal_attention
from inf_former_jax.models.local_attention.scores import (
    F32,
    FROM_HEADS,
    TO_HEADS,
    Heads,
    cached_attention,
)

#: Keys and values, by head first.
KeysValues = tuple[Float[Array, "H B S K"], Float[Array, "H B S K"]]
#: (kernel, bias or None) of each of them.
SeenParams = tuple[tuple[Array, Array | None], tuple[Array, Array | None]]

Params = TypeVar("Params")
Projected = TypeVar("Projected")


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
    fused: Literal["xla", "cudnn"] | None = None

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
        seen: KeysValues,
        filled: Int[AnyArray, " B"],
        distances: Float[AnyArray, "H P K"] | None,
        biases: tuple[Float[Array, "H K"], Float[Array, "H K"]] | None,
        rows: RowKeys | None = None,
        layer: int = 0,
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B H T K"]]:
        """The attention's output, and the projected queries, for the long-term memory to use.

        Args:
            seen: `keys_values` of [compressed | short-term | x], S + T rows, oldest first, of which
                the newest `filled` + T count.
            distances: `distances(sinusoid(S + T, E))`, of P = S + T + 1 rows; None in absolute
                attention.
            biases: u and w of the scores; None in absolute attention.
        """
        heads = self._heads(x, *seen, distances, biases)
        if self.fused:
            attended = fused_attention(
                heads, filled, same_length=self.same_length, implementation=self.fused
            )
            return self._output(attended), jnp.swapaxes(heads.q, 0, 1)
        attended = causal_attention(
            heads, filled, same_length=self.same_length, chunk=self.chunk,
            rate=self.rate, rows=rows, layer=layer,
        )  # fmt: skip
        return self._output(attended), jnp.swapaxes(heads.q, 0, 1)

    def cached(
        self,
        x: Float[AnyArray, "B T E"],
        keys: Float[AnyArray, "H B S K"],
        values: Float[AnyArray, "H B S K"],
        first: Int[AnyArray, " B"],
        places: Int[AnyArray, "B T"],
        distances: Float[AnyArray, "H P K"] | None,
        biases: tuple[Float[Array, "H K"], Float[Array, "H K"]] | None,
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B H T K"]]:
        """What the call returns, on `keys_values` of earlier calls and x: see `cached_attention`.

        Args:
            distances: `distances(sinusoid(S, E))`, of P = S + 1 rows.
        """
        heads = self._heads(x, keys, values, distances, biases)
        attended = cached_attention(
            heads, first, places, same_length=self.same_length, chunk=self.chunk
        )
        return self._output(attended), jnp.swapaxes(heads.q, 0, 1)

    def keys_values(self, x: Float[AnyArray, "B S E"]) -> KeysValues:
        """What is seen of x."""
        return keys_values(self.seen_params(), x)

    def seen_params(self) -> SeenParams:
        """What `keys_values` takes of the parameters."""
        return self._projections()[1:]

    def distances(self, positions: Float[AnyArray, "P E"] | None) -> Float[Array, "H P K"] | None:
        """The projected position table, None in absolute attention."""
        if not self.relative:
            return None
        table = jnp.asarray(positions, self.position.dtype)
        return jnp.einsum("se,ehk->hsk", table, self.position)

    def _heads(self, x, keys, values, distances, biases):
        heads = Heads(_to_heads(x, *self._projections()[0]), keys, values)
        if biases is None:
            return heads
        r, u, w = (part.astype(x.dtype) for part in (distances, *biases))
        return heads._replace(r=r, u=u, w=w)

    def _output(self, attended):
        output = jnp.einsum("hbtk,hke->bte", attended, self.out.astype(attended.dtype))
        if self.bias:
            output = output + self.out_bias.astype(output.dtype)[None, None]
        return output

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


def keys_values(params: SeenParams, x: Float[AnyArray, "B S E"]) -> KeysValues:
    """Keys and values of x, by `LocalAttention.seen_params`."""
    return tuple(_to_heads(x, *of) for of in params)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def own_and_later(
    project: Callable[[Params, Array], Projected], params: Params, x: Array
) -> tuple[Projected, Projected]:
    """`(project(params, x), project(params, sg(x)))`, by one projection.

    The gradient reaches the parameters from both and x from the first: one product each instead of
    three, since what is projected is the same, `∂W = xᵀ (g_own + g_later)`.
    """
    projected = project(params, x)
    return projected, projected


def _own_and_later(project, params, x):
    return own_and_later(project, params, x), (params, x)


def _own_and_later_back(project, given, cotangents):
    pullback = jax.vjp(project, *given)[1]
    own, _ = cotangents
    both = jax.tree.map(jnp.add, *cotangents)
    return pullback(both)[0], pullback(own)[1]


own_and_later.defvjp(_own_and_later, _own_and_later_back)


def _to_heads(x, kernel, bias=None):
    heads = jnp.einsum("bte,ehk->hbtk", x, kernel.astype(x.dtype))
    return heads if bias is None else heads + bias.astype(x.dtype)[:, None, None]
