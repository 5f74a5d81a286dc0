"""Gibbs densities: the content of the signal decides where to look (SPEC §9; Santos et al. 2025).

`p(t) ∝ exp(q·K(t)/√K + b(t))` with the keys `K(t) = W_Kᵀ x̄(t)` of the signal. They are constant on
each of R equal cells of [0, 1]. On the rectangular basis these are the basis' own N cells and the
density is exact; on any other basis the signal is taken at R midpoints. So a density is the softmax
over R cells, divided by their width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray


class GibbsDensity(NamedTuple):
    """Gibbs densities of H heads and T queries on R cells, by what they are the softmax of."""

    queries: Float[AnyArray, "B H T K"]  # q/√K, divided by the temperature
    keys: Float[AnyArray, "B H R K"]
    bias: Float[AnyArray, "B H R"]  # b, added to the scores of each cell; -∞ where none is
    # log Σ exp of the scores of other keys in the same softmax; None = the cells are all there is
    others: Float[AnyArray, "B H T"] | None = None

    @property
    def mean(self) -> Float[Array, "B H T"]:
        """μ, the expected time, of what falls on the cells."""
        return jnp.einsum("bhtr,r->bht", self._shares(), self._middles(), precision=HIGHEST)

    @property
    def var(self) -> Float[Array, "B H T"]:
        """σ², the variance of the time: between the cells' middles, and inside of a cell."""
        away = self._middles()[None, None, None] - self.mean[..., None]
        inside = 1 / (12 * self.keys.shape[2] ** 2)
        return jnp.einsum("bhtr,bhtr->bht", self._shares(), away**2, precision=HIGHEST) + inside

    def _shares(self) -> Float[Array, "B H T R"]:
        """The weights without other keys, which sum to 1."""
        return self._replace(others=None).weights()

    def weights(self) -> Float[Array, "B H T R"]:
        """The mass of each cell. A read does not form them all: `memory.content.content_read`.

        It sums to 1, and to less if other keys have a part of it.
        """
        scores = jnp.einsum("bhtk,bhrk->bhtr", self.queries, self.keys, precision=HIGHEST)
        scores = scores + jnp.asarray(self.bias)[:, :, None]
        if self.others is None:
            return jax.nn.softmax(scores, axis=-1)
        others = jnp.asarray(self.others, scores.dtype)[..., None]
        return jax.nn.softmax(jnp.concatenate([scores, others], axis=-1), axis=-1)[..., :-1]

    def below(self, edges: Float[Any, " J"]) -> Float[Array, "B H T J"]:
        """The mass below each edge, which may be infinite."""
        return mass_below(self.weights(), edges)

    def sums_below(
        self, edges: Float[Any, " J"], where: Bool[AnyArray, "B T"] | None = None
    ) -> Float[Array, "B J"]:
        """The mass of all queries below each edge; the weights of one head exist at a time."""

        def of_head(total, head):
            weights = jax.tree.map(lambda x: x[:, None], head).weights()[:, 0]
            if where is not None:
                weights = jnp.where(jnp.asarray(where)[:, :, None], weights, 0.0)
            return total + weights.sum(axis=1), None

        batch, _, cells, _ = self.keys.shape
        zeros = jnp.zeros((batch, cells), jnp.result_type(*jax.tree.leaves(self)))
        by_head = jax.tree.map(lambda x: jnp.swapaxes(jnp.asarray(x), 0, 1), self)
        total, _ = jax.lax.scan(of_head, zeros, by_head)
        return mass_below(total, edges)

    def part(self, heads: slice, queries: Any = slice(None)) -> "GibbsDensity":
        """The densities of these heads and queries."""
        q, keys, bias, others = self
        others = None if others is None else others[:, heads][:, :, queries]
        return GibbsDensity(q[:, heads][:, :, queries], keys[:, heads], bias[:, heads], others)

    def _middles(self) -> Float[Array, " R"]:
        cells = self.keys.shape[2]
        dtype = jnp.result_type(*jax.tree.leaves(self))
        return (jnp.arange(cells, dtype=dtype) + 0.5) / cells


def mass_below(mass: Float[Array, "*batch R"], edges: Float[Any, " J"]) -> Float[Array, "*batch J"]:
    """The mass below each edge: whole cells, and the part of a cell that an edge cuts."""
    cells = mass.shape[-1]
    place = jnp.clip(jnp.asarray(edges, mass.dtype), 0.0, 1.0) * cells
    share = jnp.clip(place[None] - jnp.arange(cells, dtype=mass.dtype)[:, None], 0.0, 1.0)
    return jnp.matmul(mass, share, precision=HIGHEST)
