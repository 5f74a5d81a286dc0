"""W segments of B documents at once, layer by layer instead of segment by segment.

The memory is a constant to autodiff. So once layer l-1 has run on all segments, the inputs X_w of
layer l are known for all of them, and so is what each of them finds in its FIFO (here of 2T rows,
mem_len = T):

    rows of a layer   [ FIFO before | X_0 | X_1 | X_2 | … ]
    segment 0         [ due |window ] own
    segment 1               [ due |window ] own                 T rows on
    segment 2                     [ due |window ] own

Everything is one batch of B·W rows then, except for a short recurrence over coefficients. With the
vectors X that are due at segment w,

    C_w = sg(A_k C_{w-1}) + G_kᵀ X,    k = the row's writes since its last reset.

The products with G are one einsum for all segments, and the scan over w sees constants only. The
recurrence of a sticky memory also carries the salience: the write before segment w reads the old
signal where the queries of segment w-1 looked in C_{w-1}. Queries come from a layer's inputs, so
they are known before anything is read.

Outputs, gradients and the memory after all segments are those of W calls of the decoder, one after
the other. For that, a segment's own keys and values are functions of its inputs x, `W·x`, but later
segments see constants of them, `W·sg(x)`: the gradient reaches W from both, and x from the first
only. `Decoder.all_segments` runs a model in this way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory, Operators
from inf_former_jax.memory.state import Memory, MemoryConfig
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.require import require

Leaf = TypeVar("Leaf")

#: Steps of a loop over counters that an accelerator runs as one kernel.
UNROLLED = 16


def check(cfg: ModelConfig) -> None:
    """Refuse models whose segments depend on each other by more than a detached memory.

    Raises:
        ValueError: the memory is differentiated, or it is a compressed one.
    """
    found = f"{cfg.memory_gradient} with parallel segments"
    require(cfg.memory_gradient == 0, "memory_gradient", found, "0 there")
    accepted = "sequential for a model with a compressed memory"
    require(cfg.compressed is None, "schedule", "parallel", accepted)


class Course(NamedTuple):
    """How the counters of B rows run through W segments. It depends on resets and padding only."""

    seen: Int[Array, "B W"]  # tokens of the row's document before the segment
    clears: Bool[Array, "B W"]  # the long-term memory is emptied before the segment
    due: Bool[Array, "B W"]  # the pending segment is written before this one reads
    writes: Int[Array, "B W"]  # the row's writes before that one
    after: Int[AnyArray, " B"]  # `Memory.seen` after the last segment
    runs: Bool[Array, " W"] | None  # False: padding in every row, it only resets; None: all run

    def by_row(self, x: Leaf) -> Leaf:
        """[B·W, …] as [B, W, …]; None stays."""
        return jax.tree.map(lambda x: x.reshape(*self.seen.shape, *x.shape[1:]), x)

    def fifos(
        self, fifo: Float[AnyArray, "B F E"], x: Float[AnyArray, "B W T E"]
    ) -> tuple[Float[Array, "BW F E"], Float[Array, "B F E"]]:
        """(the FIFO that each segment finds, the FIFO after all segments).

        Rows from before a document are 0, as `reset` leaves them. Attention gives them the weight
        0, but 0 times the NaN of an earlier document would be NaN.
        """
        (_, count, length, _), size, runs = x.shape, fifo.shape[1], self.runs

        def filled(rows, seen):
            place = jax.lax.broadcasted_iota(seen.dtype, rows.shape, rows.ndim - 2)
            return jnp.where(place >= size - seen[..., None, None], rows, 0.0)

        if runs is not None:  # the rows of segments that do not run go to the end
            x = jnp.take(x, jnp.argsort(~runs, stable=True), axis=1)
        rows = jnp.asarray(x, fifo.dtype).reshape(len(fifo), count * length, -1)
        rows = jnp.concatenate([fifo, rows], axis=1)

        def after(number):
            return jax.lax.dynamic_slice_in_dim(rows, number * length, size, axis=1)

        if runs is None:
            starts = range(0, count * length, length)
            found = jnp.stack([rows[:, start : start + size] for start in starts], axis=1)
        else:
            found = jax.vmap(after, out_axes=1)(jnp.cumsum(runs) - runs)
        last = after(count if runs is None else runs.sum())
        return flat(filled(found, self.seen)), filled(last, self.after)

    def sinks(
        self, sinks: Float[AnyArray, "B K E"], x: Float[AnyArray, "B W T E"]
    ) -> tuple[Float[Array, "BW K E"], Float[Array, "B K E"]]:
        """(the sinks that each segment finds, the sinks after all segments), as of `fifos`."""
        begins = self.seen == 0 if self.runs is None else (self.seen == 0) & self.runs[None]
        numbers = jnp.arange(1, begins.shape[1] + 1)[None]
        # The segment with which the document of each place began; 0 = before the first one.
        latest = jax.lax.cummax(jnp.where(begins, numbers, 0), axis=1)
        latest = jnp.pad(latest, ((0, 0), (1, 0)))
        first = jnp.asarray(x[:, :, : sinks.shape[1]], sinks.dtype)
        first = jnp.concatenate([jnp.asarray(sinks)[:, None], first], axis=1)
        found = jnp.take_along_axis(first, latest[..., None, None], axis=1)
        # As `reset` leaves them where a document begins.
        seen = jnp.concatenate([self.seen, jnp.asarray(self.after)[:, None]], axis=1)
        found = jnp.where(seen[..., None, None] == 0, 0.0, found)
        return flat(found[:, :-1]), found[:, -1]


def follow_counters(
    cfg: MemoryConfig,
    memory: Memory,
    resets: Bool[AnyArray, "B W"],
    *,
    reads: Bool[AnyArray, "B W"] | None = None,
    runs: Bool[AnyArray, " W"] | None = None,
    empty: bool = False,
) -> Course:
    """Follow a memory's counters through W segments of `cfg.segment_len` tokens.

    Args:
        resets: rows in which a document begins with the segment.
        reads: False where a row's whole segment is padding: nothing is written before it.
        runs: False where that holds for every row: the segment resets, but does not advance.
        empty: the long-term memory is emptied before every segment.
    """
    long_term_memory = state.long_term_of(memory)
    writes = jnp.zeros_like(memory.seen) if long_term_memory is None else long_term_memory.writes
    resets = jnp.asarray(resets)
    reads = jnp.ones_like(resets) if reads is None else jnp.asarray(reads)
    run = jnp.ones(resets.shape[1], bool) if runs is None else jnp.asarray(runs)

    def step(carry, segment):
        seen, writes = carry
        resets, reads, run = segment
        clears = resets | empty
        seen, writes = jnp.where(resets, 0, seen), jnp.where(clears, 0, writes)
        if empty:
            seen = state.seen_when_emptied(cfg, seen)
        due = state.has_pending(cfg, seen) & reads & run
        advanced = jnp.where(run, state.advance(seen, cfg.segment_len), seen)
        return (advanced, writes + due), (seen, clears, due, writes)

    by_segment = resets.T, reads.T, run
    carry, counters = jax.lax.scan(step, (memory.seen, writes), by_segment, unroll=UNROLLED)
    seen, clears, due, writes = (leaf.T for leaf in counters)
    return Course(seen, clears, due, writes, carry[0], None if runs is None else run)


def write_all(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    x: Float[AnyArray, "B W L E"],
    course: Course,
    *,
    operators: Operators,
    steer: Callable[[LongTermMemory, Any], LongTermMemory] | None = None,
    queries: Any = None,
    keys: Array | None = None,
) -> tuple[LongTermMemory, LongTermMemory]:
    """`long_term.write` of W segments, one after the other.

    The coefficients that a segment reads are differentiable in its own x. What was stored before
    it, and the memory after all segments, are constants.

    Args:
        steer: of a sticky memory, (memory, queries of a segment) -> memory that remembers where
            they looked.
        queries: pytree of leaves [B, W, …].
        keys: one for each segment and row [W, B], if locations are drawn.

    Returns:
        The memory as each segment reads it, rows [B·W] and no salience; the memory after all.
    """
    batch, count, *shape = x.shape
    ops = long_term.checked_operators(cfg, memory, operators, x[:, 0])
    # Rows in which nothing is written count as further writes: they need no first fit.
    writes = jnp.where(course.due, course.writes, 1)
    new = long_term.fit_new(cfg, ops, writes.reshape(-1), x.reshape(-1, *shape))
    new = new.reshape(batch, count, *new.shape[1:])
    new = jnp.where(course.due[..., None, None], new, 0.0)
    runs = jnp.ones(count, bool) if course.runs is None else course.runs
    by_row = course.clears, course.due, course.writes, new, queries
    by_segment = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_row)

    def step(carry, segment):
        # The fewer operations the better: each of them is a kernel in every turn of the loop.
        coeffs, salience, ages = carry
        (clears, due, writes, new, queries), run, key = segment
        if steer is not None:
            salience = jnp.where(clears[:, None], 0.0, salience)
        # `contracted` is 0 in rows without a write, so also in those that have just been cleared.
        memory = LongTermMemory(coeffs, salience, writes, ages)
        locations = long_term.sticky_locations(cfg, memory, key) if cfg.sticky else None
        contracted = long_term.contract_past(cfg, memory, ops, locations)
        if ages is not None:
            aged: Any = long_term.written_ages(cfg, memory, ops, locations)
            ages = jnp.where(due[:, None], aged, jnp.where(clears[:, None], 0.0, ages))
        past = jnp.where(clears[:, None, None], 0.0, coeffs)
        past = jnp.where(due[:, None, None], contracted, past)
        if steer is not None:
            written = LongTermMemory(past + new, salience, writes + due, ages)
            salience = jnp.where(run, steer(written, queries).salience, salience)
        return (past + new, salience, ages), (past, ages)

    carried = memory.coeffs, memory.salience, memory.ages
    constants = jax.lax.stop_gradient((carried, (by_segment, runs, keys)))
    (coeffs, salience, ages), (past, aged) = jax.lax.scan(step, *constants)
    if steer is None:
        salience = jnp.where(course.clears.any(axis=1)[:, None], 0.0, salience)
    writes = course.writes + course.due
    found = LongTermMemory(
        coeffs=flat(jnp.swapaxes(past, 0, 1) + new),
        salience=jnp.zeros((batch * count, cfg.salience_bins), new.dtype),
        writes=flat(writes),
        ages=None if aged is None else flat(jnp.swapaxes(aged, 0, 1)),
    )
    return found, LongTermMemory(coeffs, salience, writes[:, -1], ages)


def flat(x: Leaf) -> Leaf:
    """[B, W, …] as one batch [B·W, …]; None stays."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x)
