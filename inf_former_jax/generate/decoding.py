"""The state that decoding carries, and how a row reads further tokens."""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Int, PRNGKeyArray

from inf_former_jax.memory import state as memory_state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import Operators
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import open_segment
from inf_former_jax.models.decoder import Decoder, Distances
from inf_former_jax.models.open_segment import Cache


class NonFiniteState(ValueError):
    """A NaN or an infinity appeared in the logits or in another part of a state."""


class DecodeState(NamedTuple):
    """All that a conversation carries, of constant size; rows lead in every leaf.

    Between segments, at position 0, a row's memory is the one that `Decoder` returns. Inside a
    segment it is the one that this segment reads: what was pending has been written to it.
    """

    memory: Memory
    cache: Cache  # the open segments, and the logits of the next token
    position: Int[AnyArray, " B"]  # tokens of the row's open segment, below segment_len


class Piece(NamedTuple):
    """Tokens that the rows read next; each must fit into its row's open segment."""

    tokens: Int[AnyArray, "B C"]  # right-padded
    counts: Int[AnyArray, " B"]  # how many of a row's tokens count
    types: Int[AnyArray, "B C"] | None = None  # see `Decoder`


class Constants(NamedTuple):
    """What all pieces of a call share."""

    operators: Operators | None
    distances: Distances  # `distances(decoder, params)`
    key: PRNGKeyArray  # of sticky locations that are drawn


def start(decoder: Decoder, batch: int, dtype=jnp.float32) -> DecodeState:
    """The state of `batch` rows that have read nothing.

    Args:
        dtype: of memory and cache; float64 for parameters of float64.
    """
    cfg = decoder.cfg
    return DecodeState(
        memory=memory_state.init(cfg, batch, dtype),
        cache=open_segment.init(cfg, batch, dtype),
        position=jnp.zeros((batch,), jnp.int32),
    )


@partial(jax.jit, static_argnums=0)
def distances(decoder: Decoder, params: Any) -> Distances:
    """The projected position tables (`Decoder.distances`), which depend on parameters alone."""
    return cast(Distances, decoder.apply({"params": params}, method="distances"))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def extend(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    piece: Piece,
    constants: Constants,
    number: Int[AnyArray, ""] | int,
) -> DecodeState:
    """The state after each row has read its tokens of the piece.

    It is compiled once for each length of a piece, and the given state is donated.

    Args:
        number: of the piece in its call, folded into the key.
    """
    (memory, cache, position), (tokens, counts, types) = state, piece
    apply: Any = partial(decoder.apply, {"params": params})
    opening = (position == 0) & (counts > 0)

    def open_segments(memory, cache):
        rngs = {"locations": jax.random.fold_in(constants.key, number)}
        options = {"operators": constants.operators, "rngs": rngs, "method": "open"}
        return apply(memory, cache, opening, **options)

    memory, cache = jax.lax.cond(
        opening.any(), open_segments, lambda *unchanged: unchanged, memory, cache
    )
    given = tokens, counts, position, memory, cache, constants.distances, types
    cache = apply(*given, method="extend")
    position = position + counts
    full = position == decoder.cfg.segment_len
    memory = jax.lax.cond(
        full.any(),
        lambda memory: apply(memory, cache, full, method="commit"),
        lambda memory: memory,
        memory,
    )
    return DecodeState(memory, cache, jnp.where(full, 0, position))
