"""Long-term memory: inputs become a signal that is read by continuous attention (SPEC §2–§4)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory import density, long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import LayerMemory
from inf_former_jax.models import all_segments
from inf_former_jax.models.all_segments import History
from inf_former_jax.models.attention import LongTermAttention, attention_density
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.layer_memory.kind import Info, MemoryKind, Read
from inf_former_jax.models.segment import Segment


@dataclasses.dataclass(frozen=True)
class LongTerm(MemoryKind):
    """The ∞-former's memory of a layer."""

    cfg: ModelConfig
    attention: LongTermAttention

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The pending segment, gated, joins the signal."""
        written = self.attention.write(
            memory.long_term,
            state.pending(self.cfg, memory),
            operators=segment.operators,
            rows=segment.due,
            key=segment.location_key,
            detach=self.cfg.memory_gradient == 0,
        )
        return memory._replace(long_term=written), {}

    def read(self, memory: LayerMemory, q: Float[Array, "B H T K"], segment: Segment) -> Read:
        """The context under one density for each head and query; where attention fell, if sticky.

        It is computed in float32 at least, whatever the dtype of q is.
        """
        wide = q.astype(jnp.promote_types(q.dtype, jnp.float32))
        context, info = self.attention.attend(wide, memory.long_term, segment.projected)
        mass, cfg = None, self.attention.cfg
        if cfg.sticky:
            mass = density.bin_sum(info["density"], cfg.bins, segment.where)
        return Read(context, mass, info)

    def push(
        self, memory: LayerMemory, x: Float[AnyArray, "B T E"] | None, mass: Array | None
    ) -> LayerMemory:
        """A sticky memory remembers where attention fell; it steers the next write."""
        if mass is None:
            return memory
        return memory._replace(long_term=long_term.remember_mass(memory.long_term, mass))

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        history: History,
        q: Float[Array, "BW H T K"],
        segment: Segment,
    ) -> tuple[LayerMemory, LayerMemory]:
        """See `all_segments.write_all`; queries steer the writes of sticky memories."""
        cfg, rows = self.attention.cfg, history.course.seen.shape
        pending = history.found(0, self.cfg.segment_len)
        gated = self.attention.gated(pending.reshape(-1, *pending.shape[2:]))
        steer, queries = None, None
        if cfg.sticky:
            params = jax.lax.stop_gradient(self.attention.read.params())
            wide = q.astype(jnp.promote_types(q.dtype, jnp.float32))
            queries = jax.tree.map(lambda x: x.reshape(*rows, *x.shape[1:]), (wide, segment.where))

            def steer(memory, queries):
                q, where = queries
                coeffs = memory.coeffs
                p = attention_density(cfg, q, coeffs, params.key, params.mu, params.sigma)
                return long_term.remember(memory, p, where)

        each, last = all_segments.write_all(
            cfg,
            after.long_term,
            gated.reshape(pending.shape),
            history.course,
            operators=segment.operators,
            steer=steer,
            queries=queries,
            keys=segment.location_key,
        )
        return found._replace(long_term=each), after._replace(long_term=last)
