"""The densities of a layer in which some heads read by content and others at a place."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.density.gibbs import GibbsDensity
from inf_former_jax.memory.density.kind import Density


class MixedDensity(NamedTuple):
    """Densities [B, H, T]: those of the first heads by content, those of the others located."""

    content: GibbsDensity
    located: Any  # a Density that a μ and a σ² locate

    @property
    def mean(self) -> Float[Array, "B H T"]:
        """The expected time of each."""
        return jnp.concatenate([self.content.mean, jnp.asarray(self.located.mean)], axis=1)

    @property
    def var(self) -> Float[Array, "B H T"]:
        """σ² of each."""
        return jnp.concatenate([self.content.var, jnp.asarray(self.located.var)], axis=1)

    def below(self, edges: Float[Any, " J"]) -> Float[Array, "B H T J"]:
        """The mass below each edge."""
        return jnp.concatenate([self.content.below(edges), self.located.below(edges)], axis=1)

    def sums_below(
        self, edges: Float[Any, " J"], where: Bool[AnyArray, "B T"] | None = None
    ) -> Float[Array, "B J"]:
        """The mass of all queries and heads below each edge, up to one constant."""
        return self.content.sums_below(edges, where) + self.located.sums_below(edges, where)

    def part(self, heads: slice, queries: Any = slice(None)) -> Density:
        """The densities of these heads and queries; of one kind if the heads are."""
        first = self.content.keys.shape[1]
        start, stop, _ = heads.indices(first + self.located.mean.shape[1])
        content = self.content.part(slice(min(start, first), min(stop, first)), queries)
        rest = slice(max(start - first, 0), max(stop - first, 0))
        if stop <= first:
            return content
        located = self.located.part(rest, queries)
        return located if start >= first else MixedDensity(content, located)
