"""The gradient of a batch's objective, by one of three schedules.

A batch has W segments in reading order. Some have loss (●), others are context (○), which is run
forward only, or padding in every row (·), which only resets. A schedule takes them in groups,
counted from the end. Brackets hold what is differentiated together:

    chain of 1     ○   ○    ○   [●]  [●]  ·      each segment by itself
    chain of 2     ○   ○   [○ → ●]   [● → ·]     memory_gradient + 1 segments, one after the other;
                                                 the memory between them is differentiated (→)
    together       ○   ○    ○   [●    ●   ·]     many segments at once, layer by layer

The memory that a group starts with is a constant (SPEC §4), and the objective is linear in the sums
(`training/objective.py`). So the gradient of the whole is the sum of the brackets' gradients, and
each is taken as soon as the memory before it is known. Each segment belongs to one group: the cost
is linear in W.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.data.batches import Batch
from inf_former_jax.training.forward import LOSS, PADDING, ForwardPass, Segments
from inf_former_jax.training.objective import Objective, Sums, zero_sums

Carried = TypeVar("Carried")
#: (params, memory, group) -> (SUMS of the group, memory after it)
Run = Callable[[Any, Any, Segments], tuple[Sums, Any]]
#: SUMS of a group -> its share of the objective
Share = Callable[[Sums], Float[Array, ""]]

#: About as many tokens as have activations that stay in a CPU's cache.
CACHED_TOKENS = 1024


class Schedule(NamedTuple):
    """How large a group is, how it is run, and where its gradient can begin."""

    size: int
    run: Run
    forward: Run  # the same if nothing is differentiated
    skip: Callable[[Any, Segments], Any]  # (memory, group of padding) -> memory
    starts: Callable[[int], list[int]]  # size of the group -> first segments, as of `all_or_none`

    def of_parameters(self, whole: Callable[[Any], Any]) -> "Schedule":
        """The schedule as a function of those parameters from which `whole` makes all of them."""

        def after(run: Run) -> Run:
            return lambda params, *arguments: run(whole(params), *arguments)

        return self._replace(run=after(self.run), forward=after(self.forward))


class Total(NamedTuple):
    """What the groups so far have added up to."""

    grads: Any  # of the objective, like the parameters; None in an evaluation
    sums: Sums  # of the segments with loss
    memory: Any  # after the last group


def schedule_of(objective: Objective, run: ForwardPass, params: Any, batch: Batch) -> Schedule:
    """The schedule that an objective asks for."""
    forward = run.with_distances(params, batch)
    if objective.schedule == "parallel":
        size = objective.segments_at_once or segments_at_once(batch)
        return Schedule(size, run.together, forward.together, run.skip, first_middle_last)
    size = run.cfg.memory_gradient + 1
    return Schedule(size, run.chain, forward.chain, run.skip, all_or_none)


def segments_at_once(batch: Batch) -> int:
    """How many of a batch's segments are best run together, from 1 to W.

    An accelerator runs all of them, a CPU as many as stay in its cache.
    """
    rows, count, length = batch.tokens.shape
    if jax.default_backend() != "cpu":
        return count
    return min(count, max(1, CACHED_TOKENS // (rows * length)))


def batch_gradient(
    schedule: Schedule, share: Share, params: Any, memory: Any, segments: Segments
) -> Total:
    """The gradient of a batch's objective, its sums, and the memory after it.

    Args:
        share: from a group's sums to its share of the objective (`objective.objective_share`).
        memory: what the first segment starts with.
    """

    def objective(params, memory, group):
        sums, memory = schedule.run(params, memory, group)
        return share(sums), (sums, memory)

    def with_gradient(total: Total, group: Segments) -> Total:
        take = jax.grad(objective, has_aux=True)
        grads, (sums, memory) = take(params, total.memory, group)
        return Total(_add(total.grads, grads), _add(total.sums, sums), memory)

    total = Total(jax.tree.map(jnp.zeros_like, params), zero_sums(), memory)
    return _scan(schedule, params, total, segments, with_gradient)


def batch_sums(schedule: Schedule, params: Any, memory: Any, segments: Segments) -> Total:
    """The sums of a batch, and the memory after it; arguments as of `batch_gradient`."""

    def without_gradient(total: Total, group: Segments) -> Total:
        sums, memory = schedule.forward(params, total.memory, group)
        return Total(None, _add(total.sums, sums), memory)

    schedule, total = schedule._replace(starts=all_or_none), Total(None, zero_sums(), memory)
    return _scan(schedule, params, total, segments, without_gradient)


def _scan(
    schedule: Schedule,
    params: Any,
    total: Total,
    segments: Segments,
    with_loss: Callable[[Total, Segments], Total],
) -> Total:
    """Add up a batch group by group; `with_loss` adds segments that have loss to the total."""

    def context(total: Total, group: Segments) -> Total:
        # Without loss every sum is 0. XLA then drops all that only the sums would need.
        _, memory = schedule.forward(params, total.memory, group)
        return total._replace(memory=memory)

    def from_start(start: int, total: Total, group: Segments) -> Total:
        if start > 0:
            total = context(total, jax.tree.map(lambda leaf: leaf[:start], group))
        if start < group.kind.shape[0]:
            total = with_loss(total, jax.tree.map(lambda leaf: leaf[start:], group))
        return total

    def padding(total: Total, group: Segments) -> Total:
        return total._replace(memory=schedule.skip(total.memory, group))

    def body(total: Total, group: Segments):
        starts = schedule.starts(group.kind.shape[0])
        branches = [*(partial(from_start, start) for start in starts), padding]
        return jax.lax.switch(branch_taken(group.kind, starts), branches, total, group), None

    return scan_groups(body, total, segments, schedule.size)


def all_or_none(count: int) -> list[int]:
    """The gradient of a group begins at its first segment, or behind the last one: nowhere."""
    return [0, count]


def first_middle_last(count: int) -> list[int]:
    """The gradient of a group begins at its first, middle or last segment, or nowhere.

    Shapes are fixed when a step is compiled, but where loss begins is known only when it runs. So
    a branch is compiled for each of these places.
    """
    return sorted({0, count // 2, count - 1, count})


def branch_taken(kinds: Int[Array, " W"], starts: list[int]) -> Int[Array, ""]:
    """Number of the branch that a group takes: the last start that has no loss before it.

    If all segments are padding, it is len(starts): one more branch, behind those of the starts.

    Args:
        kinds: of the group's segments.
        starts: where the gradient can begin, as of `first_middle_last`.
    """
    without_loss = jnp.cumprod(kinds != LOSS).sum()  # segments before the first loss
    last = (without_loss >= jnp.array(starts[1:], int)).sum()
    return jnp.where((kinds == PADDING).all(), len(starts), last)


def scan_groups(
    body: Callable[[Carried, Any], tuple[Carried, None]], carry: Carried, xs: Any, size: int
) -> Carried:
    """`lax.scan` over groups of `size` along the first axis of xs, counted from the end.

    The first group holds what remains. A single group is run without a loop.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    if rest := min(count, count % size):
        carry, _ = body(carry, jax.tree.map(lambda leaf: leaf[:rest], xs))
    if count == size:
        return body(carry, xs)[0]
    if count > size:
        groups = jax.tree.map(lambda leaf: leaf[rest:].reshape(-1, size, *leaf.shape[1:]), xs)
        carry, _ = jax.lax.scan(body, carry, groups)
    return carry


def _add(tree, other):
    return jax.tree.map(jnp.add, tree, other)
