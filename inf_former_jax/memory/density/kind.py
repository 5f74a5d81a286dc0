"""The protocol that every density of attention over time answers."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float

from inf_former_jax.memory.arrays import AnyArray


@runtime_checkable
class Density(Protocol):
    """Densities `p(t)`, one for each head and query. It is a pytree."""

    @property
    def mean(self) -> Any:
        """μ [*batch]: where it is."""
        ...

    @property
    def var(self) -> Any:
        """σ² [*batch]: how wide it is."""
        ...

    def below(self, edges: Float[Any, " J"]) -> Float[Any, "*batch J"]:
        """`∫_{-∞}^e p(t) dt` at each edge e: the distribution function."""
        ...

    def sums_below(
        self, edges: Float[Any, " J"], where: Bool[AnyArray, "B T"] | None = None
    ) -> Float[Any, "B J"]:
        """`Σ_heads Σ_queries ∫_{-∞}^e p(t) dt`, up to a constant that all edges share.

        Args:
            where: queries that count; None = all. The densities are [B, H, T].
        """
        ...

    def part(self, heads: slice, queries: Any = slice(None)) -> "Density":
        """The densities of these heads and queries.

        Args:
            queries: an index of T: a slice, places, or a mask.
        """
        ...


@runtime_checkable
class LocatedDensity(Density, Protocol):
    """Densities that are located by the numbers μ and σ², which are the fields of the pytree.

    A basis takes what its expectations need of `below`, `smoothed` and `waves`; NumPy in, NumPy
    out.
    """

    def smoothed(self, loc: Float[Any, " N"], scale: Float[Any, " N"]) -> Float[Any, "*batch N"]:
        """`∫ p(t) N(t; loc_j, scale_j²) dt`."""
        ...

    def waves(self, frequency: Float[Any, " F"]) -> tuple[Any, Any]:
        """`E_p[cos ωt]` and `E_p[sin ωt]` [*batch, F] of each angular frequency ω."""
        ...
