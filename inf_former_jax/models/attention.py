"""Attention over the unbounded past (paper §3.1): the ∞-former's memory as a layer.

Each head and query has a density over the continuous signal of the long-term memory: one that two
numbers locate (`memory_read.located`), or a softmax over the signal's cells by what they hold
(`memory_read.content`). The context is *added* to the local attention's, without a gate, or its
cells are joined to the keys of local attention.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory import density as densities
from inf_former_jax.memory import long_term
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.content import unit
from inf_former_jax.memory.density import Density
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory
from inf_former_jax.models.gate import Gate
from inf_former_jax.models.memory_read.layer import Found as Found
from inf_former_jax.models.memory_read.layer import LayerProjections as LayerProjections
from inf_former_jax.models.memory_read.layer import LongTermRead, Projected, Steering, by_kind
from inf_former_jax.require import require


class LongTermAttention(nn.Module):
    """The ∞-former's memory as a layer that any attention block can call with its own queries.

    `write` what leaves the window, then call it with the block's projected queries and add the
    context to the block's attention output. The memory is explicit: it goes in and comes out.
    """

    cfg: LongTermConfig

    def setup(self):
        self.read = LongTermRead(self.cfg)
        if self.cfg.gate:
            self.gate = Gate()

    def write(
        self,
        memory: LongTermMemory,
        x: Float[AnyArray, "B L E"],
        *,
        rows: Bool[AnyArray, " B"] | None = None,
        **options: Any,
    ) -> LongTermMemory:
        """Gate x, then append it to the memory.

        Args:
            rows: which rows write; None = all. Not even a NaN in the x of others counts.
            options: keywords of `memory.long_term.write`, whose errors these are.
        """
        if rows is not None:
            x = long_term.select_rows(rows, x, jnp.zeros_like(x))
        return long_term.write(self.cfg, memory, self.gated(x), rows=rows, **options)

    def __call__(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        *,
        where: Bool[AnyArray, "B T"] | None = None,
        layer: LayerProjections | None = None,
    ) -> tuple[Float[Array, "B T E"], LongTermMemory, dict[str, Any]]:
        """Read: (context, memory with this attention remembered if sticky, info).

        Args:
            q: projected queries, before any 1/√K and without position biases.
            where: queries that count for the salience; padding does not.
            layer: the layer's own attention, for `cfg.projections = attention`.

        Returns:
            Context and info as `attend` gives them.

        Raises:
            ValueError: a memory whose cells are joined to local attention, for which the block
                calls `attend`.
        """
        accepted = "False; a block joins what `attend` finds to its own attention"
        require(not self.cfg.joined, "joined", True, accepted)
        steering = Steering(where) if self.cfg.sticky else None
        found, info = self.attend(q, memory, layer=layer, steering=steering)
        assert found.context is not None
        if found.mass is not None:
            memory = long_term.remember_mass(memory, found.mass)
        return found.context, memory, info

    def attend(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        projected: Projected | None = None,
        layer: LayerProjections | None = None,
        steering: Steering | None = None,
    ) -> tuple[Found, dict[str, Any]]:
        """Read without remembering: (what is found, info).

        Args:
            projected: `LongTermRead.project` of the memory, made once for a segment that is read in
                pieces.
            layer: the layer's own attention, for `cfg.projections = attention`.
            steering: the mass that steers the next write is wanted, too.

        Returns:
            The context is 0 in rows whose memory is empty, and nothing of such a row is joined.
            info["density"] holds the densities of [B, H, T]; info["kl"] [B, H, T] is each one's KL
            from the prior, 0 in empty rows and of heads that read by content.
        """
        if self.is_initializing():
            self.gated(memory.coeffs[:, :1])  # so that init by this call alone makes all parameters
        found = self.read(q, memory, projected, layer, steering)
        holds = (jnp.asarray(memory.writes) > 0)[:, None, None]
        kl = self._kl(found.density, q.shape[:3])
        info = {"density": found.density, "kl": jnp.where(holds, kl, 0.0)}
        if found.joined is not None:
            logsum = jnp.where(holds, found.joined.logsum, -jnp.inf)
            return found._replace(joined=found.joined._replace(logsum=logsum)), info
        assert found.context is not None
        return found._replace(context=jnp.where(holds, found.context, 0.0)), info

    def _kl(self, density: Density, shape: tuple[int, ...]) -> Float[Array, "B H T"]:
        """Only a located density has a prior."""
        count = self.cfg.num_content_heads(shape[1])
        zeros = jnp.zeros((shape[0], count, shape[2]))
        if count == shape[1]:
            return zeros
        _, by_place = by_kind(density)
        kl = densities.kl(by_place, self.cfg.prior_scale, self.cfg.prior_mean)
        return jnp.concatenate([zeros.astype(kl.dtype), kl], axis=1) if count else kl

    def gated(self, x: Float[AnyArray, "B L E"]) -> Float[AnyArray, "B L E"]:
        """What is written of x: scaled if so configured, then smoothed by the gate (SPEC §3)."""
        x = unit(x) if self.cfg.unit_writes else x
        return self.gate(x) if self.cfg.gate else x
