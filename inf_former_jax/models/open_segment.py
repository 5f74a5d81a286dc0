"""What a model keeps of segments that are still open, so that they can be extended by tokens.

    keys, values   [ window, as the segment found it (S) | the segment's tokens so far (T slots) ]

A row opens a segment (`Decoder.open`), extends it (`Decoder.extend`) and commits it when it is full
(`Decoder.commit`). The memory then is the one that `Decoder` returns for the whole segment. Rows
lead in every leaf, and each row is at a place of its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import select_rows
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.memory_read.layer import Projected, projected_shapes


class LayerCache(NamedTuple):
    """One layer's part of the open segments; absent parts are None."""

    keys: Float[AnyArray, "B S+T J K"]  # turned by their place, with rotary positions
    values: Float[AnyArray, "B S+T J K"]
    inputs: Float[AnyArray, "B T E"] | None  # of the layer, which the memory will take
    projected: Projected | None  # of the long-term memory, once a segment
    mass: Float[AnyArray, "B D"] | None  # sticky: how much attention fell on each bin so far


class Cache(NamedTuple):
    """A whole model's open segments."""

    layers: tuple[LayerCache, ...]
    logits: Float[AnyArray, "B V"]  # of the token that follows the last one


def init(cfg: ModelConfig, batch: int, dtype: Any = jnp.float32) -> Cache:
    """Nothing is open in any of `batch` rows; every leaf is its own buffer."""

    def zeros(*shape):
        return jnp.zeros((batch, *shape), dtype)

    def layer(number):
        slots, heads = state.window_len(cfg) + cfg.segment_len, (cfg.kv_heads, cfg.head_dim)
        long_term, projected, mass = cfg.long_term, None, None
        if long_term is not None and cfg.remembers(number):
            shapes = projected_shapes(long_term, cfg.num_heads, cfg.head_dim, dtype)
            projected = jax.tree.map(lambda shape: zeros(*shape), shapes, is_leaf=_is_shape)
            mass = zeros(long_term.salience_bins) if long_term.sticky else None
        return LayerCache(
            keys=zeros(slots, *heads),
            values=zeros(slots, *heads),
            inputs=zeros(cfg.segment_len, cfg.d_model) if state.fifo_len(cfg) else None,
            projected=projected,
            mass=mass,
        )

    return Cache(tuple(map(layer, range(cfg.num_layers))), zeros(cfg.vocab_size))


def opened(
    cache: LayerCache,
    rows: Bool[AnyArray, " B"],
    window: tuple[Float[Array, "J B S K"], Float[Array, "J B S K"]] | None,
    projected: Projected | None,
) -> LayerCache:
    """The cache with what a new segment finds in the given rows.

    Args:
        window: keys and values of the window.
        projected: of the long-term memory.
    """
    # Slots without a token are 0: attention gives them the weight 0, but 0 times NaN is NaN.
    found = jax.tree.map(jnp.zeros_like, cache)._replace(projected=projected)
    if window is not None:
        keys, values = (
            jnp.concatenate([jnp.moveaxis(new, 0, 2), rest[:, new.shape[2] :]], axis=1)
            for new, rest in zip(window, (found.keys, found.values), strict=True)
        )
        found = found._replace(keys=keys, values=values)
    cast = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), found, cache)
    return select_rows(rows, cast, cache)


def append(
    cache: LayerCache,
    x: Float[AnyArray, "B C E"],
    keys_values: tuple[Float[Array, "J B C K"], Float[Array, "J B C K"]],
    slots: Int[AnyArray, "B C"],
    where: Bool[AnyArray, "B C"],
) -> LayerCache:
    """The cache with further tokens of the segments.

    Args:
        x, keys_values: of the tokens; those that count (`where`) are kept.
        slots: where the tokens' keys and values stand in the cache.
    """
    rows = np.arange(slots.shape[0])[:, None]

    def put(buffer, new, slots):
        slots = jnp.where(where, slots, buffer.shape[1])  # out of range, so dropped
        return buffer.at[rows, slots].set(jnp.asarray(new, buffer.dtype), mode="drop")

    keys, values = (jnp.moveaxis(part, 0, 2) for part in keys_values)
    inputs = cache.inputs
    if inputs is not None:
        inputs = put(inputs, x, slots - (cache.keys.shape[1] - inputs.shape[1]))
    return cache._replace(
        keys=put(cache.keys, keys, slots), values=put(cache.values, values, slots), inputs=inputs
    )


def _is_shape(node: Any) -> bool:
    return type(node) is tuple
