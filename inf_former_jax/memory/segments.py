"""The memory of W segments at once: what each of them finds, before any of them is run.

Memory is a constant to autodiff, so a layer's inputs of all segments can be known together. Then
everything but one short recurrence is a batch of B·W: which rows lie in whose window, what is due
when, with which operators. For coefficients C_w and the vectors X_w that leave the window at w,

    C_w = sg(A_k C_{w-1}) + G_kᵀ X_w,    k = the row's writes since its last reset,

the products with G are one einsum, and the scan over w sees constants only. For sticky memories it
also carries the salience: the write at w looks where the queries of w-1 looked in C_{w-1}.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory, Operators
from inf_former_jax.memory.state import Memory, MemoryConfig

#: Steps of a loop over counters that an accelerator takes as one kernel.
UNROLLED = 16


class Course(NamedTuple):
    """What becomes of W segments; it depends on resets and padding only."""

    seen: Int[Array, "B W"]  # tokens of the row's document before each segment
    clears: Bool[Array, "B W"]  # the long-term memory is emptied before the segment
    due: Bool[Array, "B W"]  # what leaves the window is written before the segment reads
    writes: Int[Array, "B W"]  # the row's writes before this one
    after: Int[Array, " B"]  # `Memory.seen` after the last segment
    runs: Bool[Array, " W"] | None  # False where nobody reads: nothing but resets; None = all run


def course(
    cfg: MemoryConfig,
    memory: Memory,
    resets: Bool[AnyArray, "B W"],
    length: int,
    *,
    reads: Bool[AnyArray, "B W"] | None = None,
    runs: Bool[AnyArray, " W"] | None = None,
    empty: bool = False,
) -> Course:
    """Follow the counters of a memory through W segments of `length` tokens.

    Args:
        reads: False where all of a row's segment is padding: nothing is written for it.
        runs: False where that holds of every row: the segment only resets, it does not advance.
        empty: the long-term memory is emptied before every segment.
    """
    writes = jnp.zeros_like(memory.seen)
    if cfg.long_term is not None:
        writes = memory.layers[0].long_term.writes
    resets = jnp.asarray(resets)
    reads = jnp.ones_like(resets) if reads is None else jnp.asarray(reads)
    run = jnp.ones(resets.shape[1], bool) if runs is None else jnp.asarray(runs)

    def body(carry, now):
        seen, writes = carry
        resets, reads, run = now
        clears = resets | empty
        seen, writes = jnp.where(resets, 0, seen), jnp.where(clears, 0, writes)
        if empty:
            seen = jnp.minimum(seen, state.fifo_len(cfg))
        due = state.has_pending(cfg, seen) & reads & run
        advanced = jnp.where(run, state.advance(seen, length), seen)
        return (advanced, writes + due), (seen, clears, due, writes)

    xs = resets.T, reads.T, run
    (after, _), found = jax.lax.scan(body, (memory.seen, writes), xs, unroll=UNROLLED)
    return Course(*(leaf.T for leaf in found), after, None if runs is None else run)


def history(
    first: Float[AnyArray, "B F E"], x: Float[AnyArray, "B W T E"], plan: Course
) -> Float[Array, "B R E"]:
    """[F rows from before | those of all segments that run]; what never runs comes last.

    So segment w's past ends before row `F + T · (segments before w that run)`.
    """
    if plan.runs is not None:
        x = jnp.take(x, jnp.argsort(~plan.runs, stable=True), axis=1)
    rows = jnp.asarray(x, first.dtype).reshape(x.shape[0], -1, x.shape[-1])
    return jnp.concatenate([first, rows], axis=1)


def slices(
    rows: Float[Array, "B R E"], plan: Course, length: int, first: int, size: int
) -> Float[Array, "B W {size} E"]:
    """Of each segment, `size` rows of the history from row `first` of what was before it on.

    Args:
        length: T, by which a segment that runs moves the FIFO on.
    """
    count = plan.seen.shape[1]
    if plan.runs is None:
        parts = [rows[:, first + w * length :][:, :size] for w in range(count)]
        return jnp.stack(parts, axis=1)
    before = jnp.cumsum(plan.runs) - plan.runs

    def of_segment(number):
        return jax.lax.dynamic_slice_in_dim(rows, first + number * length, size, axis=1)

    return jax.vmap(of_segment, out_axes=1)(before)


def last_fifo(rows: Float[Array, "B R E"], plan: Course, length: int, size: int) -> Array:
    """The FIFO [B, F, E] after all segments: zeros before the row's document, as `reset` leaves."""
    count = plan.seen.shape[1] if plan.runs is None else plan.runs.sum()
    fifo = jax.lax.dynamic_slice_in_dim(rows, count * length, size, axis=1)
    filled = jnp.arange(size)[None] >= size - plan.after[:, None]
    return jnp.where(filled[..., None], fifo, 0.0)


def write_all(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    x: Float[AnyArray, "B W L E"],
    plan: Course,
    *,
    operators: Operators,
    attend: Callable[[LongTermMemory, Any], LongTermMemory] | None = None,
    queries: Any = None,
    keys: Array | None = None,
) -> tuple[LongTermMemory, LongTermMemory]:
    """`long_term.write` of W segments: (memories [B·W, …] as each segment reads, the last one).

    Each segment's coefficients are differentiable in its own x; what was stored before, and the
    memory after all, are constants. The first result has no salience.

    Args:
        attend: of sticky memories, (memory, queries of a segment) -> memory that remembers them.
        queries: pytree of leaves [B, W, …].
        keys: one for each segment [W], if locations are drawn.
    """
    batch, count, *shape = x.shape
    ops = long_term.checked(cfg, memory, operators, x[:, 0])
    # What is not written needs no first fit.
    writes = jnp.where(plan.due, plan.writes, 1)
    new = long_term.fitted(ops, writes.reshape(-1), x.reshape(-1, *shape))
    new = jnp.where(plan.due[..., None, None], new.reshape(batch, count, *new.shape[1:]), 0.0)
    runs = jnp.ones(count, bool) if plan.runs is None else plan.runs
    by_row = plan.clears, plan.due, plan.writes, new, queries
    by_segment = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_row)

    def body(carry, now):
        # As little as it can be: each part of a loop is a kernel, as often as the loop runs.
        coeffs, salience = carry
        (clears, due, writes, new, queries), run, key = now
        if attend is not None:
            salience = jnp.where(clears[:, None], 0.0, salience)
        # Of rows that are cleared, whose writes are 0, it is 0.
        past = long_term.contracted(cfg, LongTermMemory(coeffs, salience, writes), ops, key=key)
        kept = jnp.where(clears[:, None, None], 0.0, coeffs)
        kept = jnp.where(due[:, None, None], past, kept)
        if attend is not None:
            written = LongTermMemory(kept + new, salience, writes + due)
            salience = jnp.where(run, attend(written, queries).salience, salience)
        return (kept + new, salience), kept

    constants = jax.lax.stop_gradient((memory[:2], (by_segment, runs, keys)))
    (coeffs, salience), kept = jax.lax.scan(body, *constants)
    if attend is None:
        salience = jnp.where(plan.clears.any(axis=1)[:, None], 0.0, salience)
    writes = plan.writes + plan.due
    each = jnp.swapaxes(kept, 0, 1) + new, jnp.zeros((batch, count, cfg.bins), new.dtype), writes
    each = LongTermMemory(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in each))
    return each, LongTermMemory(coeffs, salience, writes[:, -1])
