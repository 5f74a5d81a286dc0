"""What a layer is told of the segment that it is run on, beside the segment's vectors."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import Operators
from inf_former_jax.models.dropout import RowKeys
from inf_former_jax.models.memory_read.layer import Projected

#: Each layer's projected position table; P = S + T + 1 distances, the farthest first.
Distances = tuple[Float[Array, "H P K"] | None, ...]


class Noise(NamedTuple):
    """The random keys of one segment."""

    dropout: RowKeys | None  # None: nothing is dropped
    locations: tuple[Key[Array, " B"] | None, ...]  # of each layer, where sticky ones are drawn


class Segment(NamedTuple):
    """One segment of B rows, as a layer sees it.

    Where W segments are run at once they are a batch of B·W rows, and `location_key` is
    [W, B].
    """

    due: Bool[AnyArray, " B"]  # the row's pending segment is written before this one reads
    seen: Int[AnyArray, " B"]  # tokens of the row's document before it
    where: Bool[AnyArray, "B T"] | None  # False at right padding; None: there is none
    operators: Operators | None = None  # of the long-term memory's writes
    dropout: RowKeys | None = None  # None: nothing is dropped
    biases: tuple[Float[Array, "H K"], Float[Array, "H K"]] | None = None  # u, w; relative only
    distances: Float[Array, "H P K"] | None = None  # the layer's; relative only
    location_key: Key[Array, "*W B"] | None = None  # of the layer, if sticky locations are drawn
    projected: Projected | None = None  # the layer's, of a segment that is read in pieces
    places: Int[AnyArray, "B C"] | None = None  # of a piece's tokens in the segment; None: 0, 1, …
