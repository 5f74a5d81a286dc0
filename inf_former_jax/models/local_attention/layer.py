"""The layer of local attention: projections of inputs, around attention over the window."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory import compressed
from inf_former_jax.memory.ages import cell_ages
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.content import ContentRead, join
from inf_former_jax.memory.long_term import LongTermMemory
from inf_former_jax.memory.state import num_filled, window_len
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.local_attention import rotary
from inf_former_jax.models.local_attention.cached import cached_attention
from inf_former_jax.models.local_attention.causal import causal_attention
from inf_former_jax.models.local_attention.scores import Heads
from inf_former_jax.models.projections import F32, FROM_HEADS, TO_HEADS, from_heads, to_heads
from inf_former_jax.models.segment import Segment
from inf_former_jax.require import require

#: Keys and values, their J heads first.
KeysValues = tuple[Float[Array, "J B S K"], Float[Array, "J B S K"]]

#: A projection's kernel [E, H, K] and its bias [H, K] or None.
Projection = tuple[Array, Array | None]

#: Implementations of `causal_attention` without dropout, by their name in `ModelConfig.fused_by`:
#: (heads, filled, same_length) -> [H, B, T, K]. The models do not import `contrib`; a module of it
#: adds its functions here when it is imported.
FUSED: dict[str, Callable[[Heads, Int[AnyArray, " B"], int], Array]] = {}


class Attended(NamedTuple):
    """What heads find in the window, and how much there was to find."""

    value: Float[Array, "H B T K"]
    logsum: Float[Array, "H B T"] | None  # of the scores' exponentials; None if not known


class LocalAttention(nn.Module):
    """Multi-head attention over [sinks or compressed | short-term | segment].

    It is called with normalised inputs where the block is pre-norm. The two position biases of
    relative attention come with the segment, since all layers share them.
    """

    cfg: ModelConfig
    layer: int

    def setup(self):
        cfg = self.cfg
        heads, shared = (cfg.num_heads, cfg.head_dim), (cfg.kv_heads, cfg.head_dim)
        inward, outward = (cfg.d_model, *heads), (*heads, cfg.d_model)
        self.query = self.param("query", TO_HEADS, inward, F32)
        self.key = self.param("key", TO_HEADS, (cfg.d_model, *shared), F32)
        self.value = self.param("value", TO_HEADS, (cfg.d_model, *shared), F32)
        if cfg.position == "relative":
            self.position = self.param("position", TO_HEADS, inward, F32)
        self.out = self.param("out", FROM_HEADS, outward, F32)
        if cfg.attention_bias:
            zeros = nn.initializers.zeros
            self.query_bias = self.param("query_bias", zeros, heads, F32)
            self.key_bias = self.param("key_bias", zeros, shared, F32)
            self.value_bias = self.param("value_bias", zeros, shared, F32)
            self.out_bias = self.param("out_bias", zeros, (cfg.d_model,), F32)

    def __call__(
        self, q: Float[AnyArray, "B H T K"], keys_values: KeysValues, segment: Segment
    ) -> Attended:
        """What the heads find in the window.

        Args:
            q: `queries` of the inputs.
            keys_values: of [compressed | short-term | inputs], S + T rows, oldest first.
        """
        (keys, values), cfg = keys_values, self.cfg
        slots, window = np.arange(keys.shape[2])[None], keys.shape[2] - q.shape[2]
        q = self.placed(jnp.swapaxes(q, 0, 1), slots[:, window:])
        keys = self.for_queries(self.placed(keys, slots))
        heads = self._heads(q, (keys, self.for_queries(values)), segment)
        filled = num_filled(cfg, segment.seen)
        if cfg.fused_attention:
            accepted = "after `import inf_former_jax.contrib.fused_attention` only"
            require(cfg.fused_by in FUSED, "fused_attention", True, accepted)
            return Attended(FUSED[cfg.fused_by](heads, filled, self._same_length()), None)
        found: Any = causal_attention(
            heads,
            filled,
            same_length=self._same_length(),
            chunk=cfg.query_chunk,
            rate=cfg.attention_dropout,
            dropout_keys=segment.dropout,
            layer=self.layer,
        )
        return Attended(*found)

    def cached(
        self,
        q: Float[AnyArray, "B H T K"],
        keys_values: KeysValues,
        segment: Segment,
        slots: Int[AnyArray, "B T"],
    ) -> Attended:
        """What the call returns, for inputs at any slots of a cache: see `cached_attention`.

        Args:
            q: as of the call.
            keys_values: of the cache, S + T slots; the keys are `placed`.
            slots: where the keys of the inputs stand in it.
        """
        cfg, window = self.cfg, keys_values[0].shape[2] - self.cfg.segment_len
        q, sharing = self.placed(jnp.swapaxes(q, 0, 1), slots), cfg.num_heads // cfg.kv_heads
        # Heads that share keys are further queries of these: the cache is read as it is.
        shape = (cfg.kv_heads, sharing, *q.shape[1:])
        grouped = jnp.moveaxis(q.reshape(shape), 1, 2).reshape(*shape[:1], shape[2], -1, shape[4])
        z, logsum = cached_attention(
            self._heads(grouped, keys_values, segment),
            window - num_filled(cfg, segment.seen),
            jnp.tile(slots, (1, sharing)),
            same_length=self._same_length(),
            chunk=cfg.query_chunk,
        )

        def by_head(x):
            split = x.reshape(*x.shape[:2], sharing, -1, *x.shape[3:])
            return jnp.moveaxis(split, 2, 1).reshape(*q.shape[:3], *x.shape[3:])

        return Attended(by_head(z), by_head(logsum))

    def placed(
        self, x: Float[Array, "h B C K"], slots: Int[AnyArray, "b C"]
    ) -> Float[Array, "h B C K"]:
        """Queries or keys as attention sees them at slots of [window | segment].

        Rotary positions turn them. Only distances count, so that slots begin anew in each segment.

        Args:
            slots: of each row, b = B, or of all of them, b = 1.
        """
        cfg = self.cfg
        if cfg.position != "rotary":
            return x
        table = rotary.angles(window_len(cfg) + cfg.segment_len, cfg.head_dim, cfg.rope_theta)
        return rotary.turned(x, table, slots)

    def for_cells(
        self, q: Float[Array, "B H T K"], places: Int[AnyArray, "b T"] | None
    ) -> Float[Array, "B H T K"]:
        """Queries as they see the cells of a long-term memory.

        Args:
            places: where in the segment they are; None: at 0, 1, ….
        """
        cfg = self.cfg
        if cfg.cells_by_age:
            places = np.arange(q.shape[2])[None] if places is None else places
            return jnp.swapaxes(self.placed(jnp.swapaxes(q, 0, 1), window_len(cfg) + places), 0, 1)
        if not cfg.cell_distance:
            return q
        # Cells are not turned, and a query is as far from all of them as from the place 0.
        table = rotary.angles(cfg.cell_distance + 1, cfg.head_dim, cfg.rope_theta)[-1:]
        return rotary.turned(q, table, np.zeros((1, q.shape[2]), int))

    def aged(
        self, keys: Float[Array, "H B R K"], memory: LongTermMemory
    ) -> Float[Array, "H B R K"]:
        """Keys of a memory's cells as queries see them.

        With `cells_by_age` each stands before the short-term memory. Sinks and compressed vectors
        stand there, too, so that the newest cells share their places.
        """
        cfg = self.cfg
        if not cfg.cells_by_age:
            return keys
        assert cfg.long_term is not None
        # The newest vector, whose middle has the age ½, stands just before the short-term memory.
        ages = memory.ages
        if ages is None:
            ages = cell_ages(cfg.long_term, memory.writes, cfg.segment_len)
        distances = jnp.asarray(ages) + 0.5
        if cfg.cell_distance:
            distances = jnp.minimum(distances, cfg.cell_distance)
        return rotary.turned_to(keys, window_len(cfg) - cfg.mem_len - distances, cfg.rope_theta)

    def for_queries(self, x: Float[Array, "J B S K"]) -> Float[Array, "H B S K"]:
        """Keys or values of every head of queries: those that heads share are repeated."""
        sharing = self.cfg.num_heads // self.cfg.kv_heads
        return x if sharing == 1 else jnp.repeat(x, sharing, axis=0)

    def keys_values(self, x: Float[AnyArray, "B S E"], precision: Any = None) -> KeysValues:
        """The keys and values of inputs, which have no place yet (`placed`)."""
        _, key, value = self._projections()
        return to_heads(x, *key, precision=precision), to_heads(x, *value, precision=precision)

    def queries(self, x: Float[AnyArray, "B T E"]) -> Float[Array, "B H T K"]:
        """The projected queries of inputs, for the long-term memory to use; not `placed` yet."""
        return jnp.swapaxes(to_heads(x, *self._projections()[0]), 0, 1)

    def _projections(self) -> tuple[Projection, Projection, Projection]:
        """Those of queries, keys and values."""
        if not self.cfg.attention_bias:
            return (self.query, None), (self.key, None), (self.value, None)
        return (
            (self.query, self.query_bias),
            (self.key, self.key_bias),
            (self.value, self.value_bias),
        )

    def distances(self, positions: Float[AnyArray, "P E"] | None) -> Float[Array, "H P K"] | None:
        """The projected position table, None without relative positions."""
        if positions is None:
            return None
        table = jnp.asarray(positions, self.position.dtype)
        return jnp.einsum("se,ehk->hsk", table, self.position)

    def reconstruction(
        self, x: Float[AnyArray, "B T E"], old: Float[Array, "B L E"], new: Float[Array, "B C E"]
    ) -> Float[Array, "B T"]:
        """How far attention to compressed vectors is from attention to the old ones (SPEC §5b).

        Everything but `new` is detached: inputs, old vectors, and this layer's projections. It is
        attention by content, without positions of any kind.
        """
        (query, key, value), x, old = jax.lax.stop_gradient((self._projections(), x, old))
        before, after = (
            (self.for_queries(to_heads(m, *key)), self.for_queries(to_heads(m, *value)))
            for m in (old, new)
        )
        return compressed.reconstruction(to_heads(x, *query), before, after)

    def _same_length(self) -> int:
        return self.cfg.mem_len if self.cfg.same_length else 0

    def _heads(self, q: AnyArray, keys_values: KeysValues, segment: Segment) -> Heads:
        heads = Heads(q, *keys_values)
        if segment.biases is None or segment.distances is None:
            return heads
        r, u, w = (part.astype(q.dtype) for part in (segment.distances, *segment.biases))
        return heads._replace(r=r, u=u, w=w)

    def output(self, attended: Attended, joined: ContentRead | None) -> Float[Array, "B T E"]:
        """What the heads attended to, as channels again.

        Args:
            joined: what the same queries found among further keys of the same softmax.
        """
        z = attended.value
        if joined is not None:
            assert attended.logsum is not None
            z = join(z, attended.logsum, joined)
        output = from_heads(z, self.out)
        if self.cfg.attention_bias:
            output = output + self.out_bias.astype(output.dtype)[None, None]
        return output
