"""What a layer keeps of a segment that is still open, so that it can be extended by tokens.

    keys, values  [ window, as the segment found it (S) | its tokens so far (T slots) ]

A row opens a segment (`Decoder.open`), extends it (`Decoder.extend`) and, when it is full, commits
it to the `Memory`, which then is the one that `Decoder` returns for the whole segment. Rows lead
in every leaf and each is at a place of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import density, long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.reading_basis import reading_basis
from inf_former_jax.memory.state import LayerMemory, Memory
from inf_former_jax.models.attention import Projected
from inf_former_jax.models.config import ModelConfig


class LayerCache(NamedTuple):
    """One layer's part of the open segments; absent parts are None."""

    keys: Float[AnyArray, "B S+T H K"]
    values: Float[AnyArray, "B S+T H K"]
    inputs: Float[AnyArray, "B T E"] | None  # of the layer, what the memory will get
    projected: Projected | None  # of the long-term memory, once a segment
    mass: Float[AnyArray, "B D"] | None  # sticky: where the segment's queries attended, summed


class Cache(NamedTuple):
    """A whole model's open segments."""

    layers: tuple[LayerCache, ...]
    logits: Float[AnyArray, "B V"]  # of the token that follows the last one


def init(cfg: ModelConfig, batch: int, dtype=jnp.float32) -> Cache:
    """Nothing is open in any of `batch` rows; every leaf is its own buffer."""

    def zeros(*shape):
        return jnp.zeros((batch, *shape), dtype)

    def layer():
        slots, heads = state.window_len(cfg) + cfg.segment_len, (cfg.num_heads, cfg.head_dim)
        remembers, ltm = state.fifo_len(cfg) > 0, cfg.long_term
        projected = None
        if ltm is not None:
            functions = len(reading_basis(ltm, dtype).functions.loc)
            values = zeros(cfg.num_heads, functions, cfg.head_dim)
            projected = Projected(zeros(2, *heads), values)
        return LayerCache(
            keys=zeros(slots, *heads),
            values=zeros(slots, *heads),
            inputs=zeros(cfg.segment_len, cfg.d_model) if remembers else None,
            projected=projected,
            mass=zeros(ltm.bins) if ltm is not None and ltm.sticky else None,
        )

    return Cache(tuple(layer() for _ in range(cfg.num_layers)), zeros(cfg.vocab_size))


def opened(
    cache: LayerCache,
    rows: Bool[AnyArray, " B"],
    of_window: tuple[Float[Array, "H B S K"], Float[Array, "H B S K"]] | None,
    projected: Projected | None,
) -> LayerCache:
    """The cache with the window and the memory that a new segment finds in the given rows."""
    if of_window is not None:

        def beside(new, old):
            return jnp.concatenate([_rows_first(new), old[:, new.shape[2] :]], axis=1)

        keys, values = map(beside, of_window, (cache.keys, cache.values))
        cache = _where(rows, cache._replace(keys=keys, values=values), cache)
    if projected is not None:
        cache = cache._replace(projected=_where(rows, projected, cache.projected))
    if cache.mass is not None:
        cache = cache._replace(mass=_where(rows, jnp.zeros_like(cache.mass), cache.mass))
    return cache


def append(
    cfg: ModelConfig,
    cache: LayerCache,
    x: Float[AnyArray, "B C E"],
    keys_values: tuple[Float[Array, "H B C K"], Float[Array, "H B C K"]],
    places: Int[AnyArray, "B C"],
    where: Bool[AnyArray, "B C"],
) -> LayerCache:
    """The cache with the tokens that count (`where`) at their places in the segment."""
    rows = np.arange(places.shape[0])[:, None]

    def put(buffer, new, first=0):
        slots = jnp.where(where, first + places, buffer.shape[1])  # out of range: dropped
        return buffer.at[rows, slots].set(jnp.asarray(new, buffer.dtype), mode="drop")

    keys, values = map(_rows_first, keys_values)
    skipped = state.window_len(cfg)
    return cache._replace(
        keys=put(cache.keys, keys, skipped),
        values=put(cache.values, values, skipped),
        inputs=None if cache.inputs is None else put(cache.inputs, x),
    )


def attend(
    cache: LayerCache, attended: GaussianDensity, where: Bool[AnyArray, "B C"]
) -> LayerCache:
    """The cache with where these queries attended, if a sticky memory will want it."""
    if cache.mass is None:
        return cache
    mass = density.bin_sum(attended, cache.mass.shape[1], where)
    return cache._replace(mass=cache.mass + mass.astype(cache.mass.dtype))


def commit(cfg: ModelConfig, memory: Memory, cache: Cache, rows: Bool[AnyArray, " B"]) -> Memory:
    """The memory after the full segments of the given rows, as `Decoder` returns it."""

    def of_layer(layer: LayerMemory, cache: LayerCache):
        if cache.mass is not None:
            remembered = long_term.remember_mass(layer.long_term, cache.mass)
            layer = layer._replace(long_term=remembered)
        return layer if cache.inputs is None else state.push(layer, cache.inputs)

    layers = tuple(map(of_layer, memory.layers, cache.layers))
    return _where(rows, Memory(state.advance(memory.seen, cfg.segment_len), layers), memory)


def _rows_first(heads):
    return jnp.moveaxis(heads, 0, 2)


def _where(rows, chosen, other):
    def of_leaf(a, b):
        return jnp.where(jnp.reshape(rows, (-1, *(1,) * (b.ndim - 1))), jnp.asarray(a, b.dtype), b)

    return jax.tree.map(of_leaf, chosen, other)
