"""Long-term memory: inputs become a signal that is read by continuous attention (SPEC §2–§4)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.state import LayerMemory
from inf_former_jax.models import all_segments
from inf_former_jax.models.all_segments import Course
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.layer_memory.kind import Info, MemoryKind, Queries, Read
from inf_former_jax.models.memory_read.layer import (
    LayerProjections,
    Projected,
    Steering,
    densities_of,
    project,
    steering_mass,
)
from inf_former_jax.models.segment import Segment


@dataclasses.dataclass(frozen=True)
class LongTerm(MemoryKind):
    """The ∞-former's memory of a layer."""

    cfg: ModelConfig
    attention: LongTermAttention
    layer: LayerProjections
    """The layer's own attention, by whose matrices a memory may be read."""

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The pending segment, gated, joins the signal."""
        assert memory.long_term is not None
        written = self.attention.write(
            memory.long_term,
            state.pending(self.cfg, memory),
            operators=segment.operators,
            rows=segment.due,
            key=segment.location_key,
            detach=self.cfg.memory_gradient == 0,
        )
        return memory._replace(long_term=written), {}

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        queries: Queries,
        segment: Segment,
        course: Course,
    ) -> tuple[LayerMemory, LayerMemory]:
        """See `all_segments.write_all`; queries steer the writes of sticky memories."""
        assert after.long_term is not None and segment.operators is not None
        cfg, steer, steering = self.attention.cfg, None, None
        if cfg.sticky:
            params = jax.lax.stop_gradient(self.attention.read.params())
            q = self._queries(queries[0], segment)
            steering = course.by_row((q, self._others(queries), segment.where))

            def attend(memory, steering):
                q, others, where = steering
                projected = project(cfg, params, memory, self.layer)
                p = densities_of(cfg, params, q, projected, memory.writes)
                mass = steering_mass(cfg, p, projected, memory.writes, Steering(where, others))
                return long_term.remember_mass(memory, mass)

            steer = attend
        each, last = all_segments.write_all(
            cfg,
            after.long_term,
            course.by_row(self.attention.gated(state.pending(self.cfg, found))),
            course,
            operators=segment.operators,
            steer=steer,
            queries=steering,
            keys=segment.location_key,
        )
        return found._replace(long_term=each), after._replace(long_term=last)

    def read(self, memory: LayerMemory, queries: Queries, segment: Segment) -> Read:
        """What each head and query finds under its density, in float32 at least."""
        assert memory.long_term is not None
        q, steering = self._queries(queries[0], segment), None
        if self.attention.cfg.sticky:
            steering = Steering(segment.where, self._others(queries))
        given = memory.long_term, segment.projected, self.layer, steering
        found, info = self.attention.attend(q, *given)
        return Read(found.context, found.joined, found.mass, info)

    def project(self, memory: LayerMemory) -> Projected:
        """What all queries of a segment share, for one that is read in pieces."""
        assert memory.long_term is not None
        return self.attention.read.project(memory.long_term, self.layer)

    def remember(self, memory: LayerMemory, mass: Float[AnyArray, "B D"] | None) -> LayerMemory:
        """Where attention fell steers the next write of a sticky memory."""
        if mass is None or memory.long_term is None:
            return memory
        return memory._replace(long_term=long_term.remember_mass(memory.long_term, mass))

    def _queries(self, q: Float[Array, "B H T K"], segment: Segment) -> Float[Array, "B H T K"]:
        """The layer's queries as they look for the memory, in float32 at least."""
        q = q.astype(jnp.promote_types(q.dtype, jnp.float32))
        own = self.attention.cfg.projections == "own"
        return q if own else self.layer.queries(q, segment.places)

    def _others(self, queries: Queries) -> Float[Array, "B H T"] | None:
        """What the queries' scores in the window sum to, where the cells are joined to them."""
        _, logsum = queries
        return (
            jnp.swapaxes(logsum, 0, 1) if self.attention.cfg.joined and logsum is not None else None
        )
