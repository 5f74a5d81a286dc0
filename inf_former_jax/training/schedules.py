"""The gradient of a batch's objective: segments one after the other, or many of them at once.

Either way segments that carry no loss are run forward only, and their sums are left out: without
loss every sum is 0, and XLA is free of all that no memory needs. What is padding in every row is
not run, it only resets.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import gradient
from inf_former_jax.training.forward import (
    LOSS,
    PADDING,
    at_once,
    distances,
    forward,
    forward_all,
    in_time,
    segment_kinds,
    start_of_segment,
    zero_sums,
)
from inf_former_jax.training.state import TrainState

Sums = dict[str, Float[Array, ""]]
#: (sums, memory) of a part of a batch -> (its objective, (sums, memory)).
Weighed = Callable[[Sums, Memory], tuple[Float[Array, ""], tuple[Sums, Memory]]]
#: The gradient, the sums of the segments with loss, the memory after the batch.
Taken = tuple[Any, Sums, Memory]


def sequential(
    cfg: ModelConfig, weighed: Weighed, state: TrainState, batch: Batch, ops: Any, empty: bool
) -> Taken:
    """One segment after the other; groups of them if the memory is differentiated.

    Args:
        empty: clear the long-term or compressed memory before every segment.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    known = distances(cfg, state.params, batch)

    def objective(params, memory, segment, key):
        return weighed(*forward(cfg, params, memory, segment, key, ops, train=True))

    def with_gradient(grads, memory, segment, key):
        take = jax.grad(objective, has_aux=True)
        new, (sums, memory) = take(state.params, memory, segment, key)
        return jax.tree.map(jnp.add, grads, new), sums, memory

    def without_gradient(grads, memory, segment, key):
        # Without loss every sum is 0: leaving them out frees XLA from all that no memory needs.
        _, memory = forward(cfg, state.params, memory, segment, key, ops, True, known)
        return grads, zero_sums(), memory

    def nothing(grads, memory, segment, key):
        return grads, zero_sums(), memory

    def body(carry, now):
        grads, total, memory = carry
        segment, number, kind = now
        memory = start_of_segment(cfg, memory, segment.resets, empty)
        grads, sums, memory = jax.lax.switch(
            kind, (nothing, without_gradient, with_gradient),
            grads, memory, segment, jax.random.fold_in(step_key, number),
        )  # fmt: skip
        return (grads, jax.tree.map(jnp.add, total, sums), memory), None

    def of_segment(params, memory, now):
        segment, number, kind = now
        memory = start_of_segment(cfg, memory, segment.resets, empty)
        return jax.lax.cond(
            kind > PADDING,
            lambda old: objective(params, old, segment, jax.random.fold_in(step_key, number)),
            lambda old: (jnp.zeros(()), (zero_sums(), old)),
            memory,
        )

    segments = in_time(batch)
    kinds = segment_kinds(segments)
    xs = (segments, jnp.arange(segments.tokens.shape[0]), kinds)
    if cfg.memory_gradient:
        size = cfg.memory_gradient + 1
        return gradient.by_groups(
            of_segment, state.params, state.memory, zero_sums(), xs, kinds == LOSS, size
        )
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (grads, sums, memory), _ = jax.lax.scan(body, (zeros, zero_sums(), state.memory), xs)
    return grads, sums, memory


def parallel(
    cfg: ModelConfig,
    weighed: Weighed,
    state: TrainState,
    batch: Batch,
    ops: Any,
    empty: bool,
    size: int = 0,
) -> Taken:
    """Groups of segments, counted from the end, each of them layer by layer all at once.

    Where loss begins is known only when the step runs, shapes are when it is compiled: of a few
    programs (`programs`) each group takes the cheapest that leaves no loss out.

    Args:
        empty: clear the long-term memory before every segment.
        size: of a group; 0 = `forward.at_once`.
    """
    key = jax.random.fold_in(state.key, state.step)

    def objective(params, memory, group):
        return weighed(*forward_all(cfg, params, memory, *group, key, ops, True, empty))

    def differentiated(first, grads, sums, memory, group):
        """The gradient of the group's segments from the first one on."""
        leading = jax.tree.map(lambda leaf: leaf[:first], group)
        others = jax.tree.map(lambda leaf: leaf[first:], group)
        if first:
            memory = objective(state.params, memory, leading)[1][1]
        if first == group[-1].shape[0]:
            return grads, sums, memory
        take = jax.grad(objective, has_aux=True)
        new, (more, memory) = take(state.params, memory, others)
        return jax.tree.map(jnp.add, grads, new), jax.tree.map(jnp.add, sums, more), memory

    def nothing(grads, sums, memory, group):
        return grads, sums, start_of_segment(cfg, memory, group[0].resets.any(axis=0), empty)

    def of_group(carry, group):
        firsts, program = programs(group[-1])
        branches = [*(partial(differentiated, first) for first in firsts), nothing]
        return jax.lax.switch(program, branches, *carry, group), None

    segments = in_time(batch)
    xs = (segments, jnp.arange(segments.tokens.shape[0]), segment_kinds(segments))
    carry = (jax.tree.map(jnp.zeros_like, state.params), zero_sums(), state.memory)
    return gradient.scan_groups(of_group, carry, xs, size or at_once(batch))


def programs(kinds: Int[Array, " W"]) -> tuple[list[int], Int[Array, ""]]:
    """(where the gradient can begin, which of these to take): the last with no loss before it.

    Those are the first, the middle and the last segment, and behind it where none has loss. One
    more program, behind all of these, is taken where all are padding.

    Args:
        kinds: of the segments, `forward.segment_kinds`.
    """
    count = kinds.shape[0]
    firsts = sorted({0, count // 2, count - 1, count})
    silent = jnp.cumprod(kinds != LOSS).sum()
    cheapest = (silent >= jnp.array(firsts[1:], int)).sum()
    return firsts, jnp.where((kinds == PADDING).all(), len(firsts), cheapest)
