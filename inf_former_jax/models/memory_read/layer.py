"""How all heads of a layer read its memory: those by content, and those at a place (SPEC §2, §9).

`project` makes what every query of a segment shares, `densities_of` says where each query looks,
and `LongTermRead` is the module that owns the parameters of both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.content import ContentRead, cell_signal, content_read
from inf_former_jax.memory.density import Density, MixedDensity, bin_sum, bins_of_cells
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory
from inf_former_jax.models.memory_read import content, located
from inf_former_jax.models.memory_read.content import ContentMemory, ContentParams
from inf_former_jax.models.memory_read.located import LocatedMemory
from inf_former_jax.models.projections import F32, FROM_HEADS, TO_HEADS, from_heads, to_heads
from inf_former_jax.require import require


class Projected(NamedTuple):
    """What any query needs of a long-term memory: the same until the next write."""

    located: LocatedMemory | None  # of the heads that look at a place
    content: ContentMemory | None  # of the heads that look for content, which are the first


class LayerProjections(NamedTuple):
    """The matrices of a layer's own attention, by which its memory can be read (SPEC §9)."""

    keys_values: Callable[[Array], tuple[Array, Array]]  # [B, R, E] -> two of [H, B, R, K]
    output: Callable[[Array], Array]  # [H, B, T, K] -> [B, T, E]
    # Queries [B, H, T, K] as they look for cells, by their places [b, T] in the segment or None.
    queries: Callable[[Array, Any], Array] = lambda q, places: q
    # Keys [H, B, R, K] of the cells of a memory, as queries see them.
    aged: Callable[[Array, LongTermMemory], Array] = lambda keys, memory: keys


class ReadParams(NamedTuple):
    """The parameters of a read. Absent ones are the layer's own, or no head needs them."""

    key: Float[Array, "E H K"] | None = None
    value: Float[Array, "E H K"] | None = None
    out: Float[Array, "H K E"] | None = None
    mu: Float[Array, " N"] | None = None
    sigma: Float[Array, " N"] | None = None
    turn: Float[Array, "h K K"] | None = None
    age: Float[Array, "h R"] | Float[Array, " h"] | None = None
    log_temperature: Float[Array, " h"] | None = None
    worth: Float[Array, " E"] | None = None


class Steering(NamedTuple):
    """How much each query steers the next write of a sticky memory."""

    counted: Bool[AnyArray, "B T"] | None = None  # padding does not count; None = all do
    others: Float[AnyArray, "B H T"] | None = None  # as of `GibbsDensity`


class Found(NamedTuple):
    """What queries find in a memory."""

    context: Float[Array, "B T E"] | None  # None if it is joined to local attention
    joined: ContentRead | None
    density: Density
    mass: Float[Array, "B D"] | None = None  # that steers the next write, if it was asked for


def project(
    cfg: LongTermConfig,
    params: ReadParams,
    memory: LongTermMemory,
    layer: LayerProjections | None = None,
) -> Projected:
    """What all queries of a segment share: keys and values of the signal, for each kind of head."""
    coeffs = memory.coeffs
    by_place = by_content = None
    if params.key is None:
        assert layer is not None
        signal = cell_signal(cfg, coeffs)
        keys, values = layer.keys_values(signal)
        keys, values = (jnp.swapaxes(x, 0, 1) for x in (layer.aged(keys, memory), values))
        return Projected(None, ContentMemory(keys, values, _worth(params, signal)))
    assert params.value is not None
    heads = params.key.shape[1]
    count = cfg.num_content_heads(heads)
    if count:
        signal = cell_signal(cfg, coeffs)
        kernels = params.key[:, :count], params.value[:, :count]
        projected = (to_heads(signal, kernel, precision=HIGHEST) for kernel in kernels)
        keys, values = (jnp.swapaxes(x, 0, 1) for x in projected)
        by_content = ContentMemory(keys, values, _worth(params, signal))
    if count < heads:
        assert params.mu is not None and params.sigma is not None
        kernels = params.key[:, count:], params.value[:, count:]
        by_place = located.project(cfg, coeffs, *kernels, params.mu, params.sigma)
    return Projected(by_place, by_content)


def _worth(params: ReadParams, signal: Float[Array, "B R E"]) -> Float[Array, "B R"] | None:
    """w·x of what each cell holds, in float32 at least; None if it is not learned."""
    if params.worth is None:
        return None
    wide = jnp.promote_types(signal.dtype, params.worth.dtype)
    return jnp.einsum("bre,e->br", signal.astype(wide), params.worth, precision=HIGHEST)


def projected_shapes(cfg: LongTermConfig, heads: int, width: int, dtype: DTypeLike) -> Projected:
    """The shapes of `project`'s leaves without B, in their places."""
    count, by_place, by_content = cfg.num_content_heads(heads), None, None
    if count:
        shape: Any = count, cfg.content_cells, width
        worth: Any = (cfg.content_cells,) if cfg.learn_worth else None
        by_content = ContentMemory(shape, shape, worth)
    if count < heads:
        by_place = located.shapes(cfg, heads - count, width, dtype)
    return Projected(by_place, by_content)


def densities_of(
    cfg: LongTermConfig,
    params: ReadParams,
    q: Float[AnyArray, "B H T K"],
    projected: Projected,
    writes: Int[AnyArray, " B"],
) -> Density:
    """Where each query looks, in a memory after so many writes (paper §3.1; SPEC §9)."""
    count = cfg.num_content_heads(q.shape[1])
    by_place = by_content = None
    if projected.content is not None:
        learned = ContentParams(params.turn, params.age, params.log_temperature)
        by_content = content.density(cfg, learned, q[:, :count], projected.content, writes)
    if projected.located is not None:
        by_place = located.density(cfg, q[:, count:], projected.located.keys)
    if by_content is None:
        assert by_place is not None
        return by_place
    return by_content if by_place is None else MixedDensity(by_content, by_place)


def steering_mass(
    cfg: LongTermConfig,
    density: Density,
    projected: Projected,
    writes: Int[AnyArray, " B"],
    steering: Steering,
    read: ContentRead | None = None,
) -> Float[Array, "B D"]:
    """The mass of D bins that steers the next write of a sticky memory; without a gradient.

    It is where attention fell (paper §3.3), or what cells are worth where that is learned.

    Args:
        read: what was read by these densities. It may have summed the mass of cells on its way.
    """
    if cfg.learn_worth:
        assert projected.content is not None and projected.content.worth is not None
        mass = content.mass_by_worth(cfg, projected.content.worth, writes)
    elif read is not None and read.mass is not None:
        mass = bins_of_cells(read.mass, cfg.salience_bins)
    else:
        # With a gradient its weights would be kept.
        looked = jax.lax.stop_gradient(_among(density, steering.others))
        mass = bin_sum(looked, cfg.salience_bins, steering.counted)
    return jax.lax.stop_gradient(mass)


def _among(density: Any, others: Float[AnyArray, "B H T"] | None) -> Any:
    """The density as a part of the softmax over its cells and other keys, if they are joined."""
    return density if others is None else density._replace(others=others)


def by_kind(density: Density) -> tuple[Any, Any]:
    """The densities of the heads that read by content, and of those that look at a place."""
    if isinstance(density, MixedDensity):
        return density.content, density.located
    return density, density  # of one kind: only one of the two is asked for


class LongTermRead(nn.Module):
    """Attention of given queries over a long-term memory (paper §3.1; SPEC §2, §9)."""

    cfg: LongTermConfig

    @nn.compact
    def __call__(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        projected: Projected | None = None,
        layer: LayerProjections | None = None,
        steering: Steering | None = None,
    ) -> Found:
        """The context `concat_heads(z) W_O` of what each head reads, and the densities.

        Args:
            projected: `project` of the memory, if it is at hand.
            layer: the layer's own attention, for `cfg.projections = attention`.
            steering: the mass that steers the next write is wanted, too.

        Raises:
            ValueError: without the layer where it is needed, or more heads by content than heads.
        """
        cfg, (_, heads, _, width), dim = self.cfg, q.shape, memory.coeffs.shape[-1]
        accepted = f"fewer than the {heads} heads of q; density = gibbs where all are"
        require(cfg.content_heads < heads, "content_heads", cfg.content_heads, accepted)
        params = ReadParams(**self._created(heads, width, dim))
        found = "none with projections = attention"
        require(params.key is not None or layer is not None, "layer", found, "the layer's own")
        if projected is None:
            projected = project(cfg, params, memory, layer)
        density, values = densities_of(cfg, params, q, projected, memory.writes), []
        by_content, by_place = by_kind(density)
        read, counted = None, None
        if steering is not None and cfg.density == "gibbs" and not cfg.learn_worth:
            by_content, counted = _among(by_content, steering.others), steering.counted
            counted = jnp.ones(q.shape[::2], bool) if counted is None else counted
        if projected.content is not None:
            read = content_read(by_content, projected.content.values, counted=counted)
            values.append(read.value)
        mass = None
        if steering is not None:
            mass = steering_mass(cfg, density, projected, memory.writes, steering, read)
        if cfg.joined:
            return Found(None, read, density, mass)
        if projected.located is not None:
            values.append(located.read(cfg, by_place, projected.located))
        z = values[0] if len(values) == 1 else jnp.concatenate(values, axis=1)
        z = jnp.swapaxes(z, 0, 1)
        if params.out is None:
            assert layer is not None
            return Found(layer.output(z), None, density, mass)
        return Found(from_heads(z, params.out, HIGHEST), None, density, mass)

    def _created(self, heads: int, width: int, dim: int) -> dict[str, Array]:
        cfg, shapes = self.cfg, {}
        count, own = cfg.num_content_heads(heads), cfg.projections == "own"
        if own:
            shapes["key"] = TO_HEADS, (dim, heads, width)
            shapes["value"] = TO_HEADS, (dim, heads, width)
        if own and not cfg.joined:
            shapes["out"] = FROM_HEADS, (heads, width, dim)
        if count < heads:
            scatter = nn.initializers.normal(cfg.num_basis**-0.5)
            shapes["mu"] = shapes["sigma"] = scatter, (cfg.num_basis,)
        if cfg.turn_queries:
            shapes["turn"] = (_near_identity if own else _identity), (count, width, width)
        if cfg.age_bias != "none":
            cells = (cfg.content_cells,) if cfg.age_bias == "cells" else ()
            shapes["age"] = nn.initializers.zeros, (count, *cells)
        if cfg.learn_worth:
            shapes["worth"] = nn.initializers.zeros, (dim,)
        if cfg.learn_temperature:
            shapes["log_temperature"] = nn.initializers.zeros, (count,)
        return {name: self.param(name, init, shape, F32) for name, (init, shape) in shapes.items()}

    def project(self, memory: LongTermMemory, layer: LayerProjections | None = None) -> Projected:
        """What all queries of a segment share."""
        return project(self.cfg, self.params(), memory, layer)

    def params(self) -> ReadParams:
        """The parameters, which the first call has created."""
        return ReadParams(**self.variables.get("params", {}))


def _identity(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "H K K"]:
    """The identity of each head."""
    return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype)[None], shape)


def _near_identity(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "H K K"]:
    """The identity and, of the size that a query has, noise."""
    width = shape[-1]
    return _identity(key, shape, dtype) + jax.random.normal(key, shape, dtype) * width**-0.5
