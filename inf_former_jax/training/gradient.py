"""Truncated back-propagation through the memory (`ModelConfig.memory_gradient`, SPEC §4).

The W segments of a batch, counted from the end, are cut into groups; the first one holds what
remains. Inside a group the memory is differentiated, at its borders it is a constant:

    [ w_0 ] ┊ [ w_1 → w_2 ] ┊ [ w_3 → w_4 ]        W = 5, groups of 2; → gradient, ┊ none

Each segment belongs to one group, so the cost is linear in W. Were every segment to reach equally
far back, each would be run anew for every segment behind it that carries loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Tree = TypeVar("Tree")
Carried = TypeVar("Carried")  # `Memory`, or any other pytree
Sums = dict[str, Float[Array, ""]]

#: (params, memory, x) -> (objective, (sums, memory after it)) of one segment x.
Segment = Callable[[Any, Any, Any], tuple[Float[Array, ""], tuple[Sums, Any]]]


def by_groups(
    segment: Segment,
    params: Tree,
    memory: Carried,
    sums: Sums,
    xs: Any,
    carries: Bool[Array, " W"],
    size: int,
) -> tuple[Tree, Sums, Carried]:
    """`Σ_groups ∂/∂params Σ_{w in group} objective_w`, the sums, and the memory after all.

    A group's memory on entry is a constant. Its segments are run once forward and, from the
    memories kept between them, again on the way back: what lives at a time is the memories of one
    group and the activations of one segment. Groups without loss are run forward only.

    Args:
        segment: resets, then runs one segment. Its objective and sums are 0 where it has no loss.
        memory: what the first segment starts with; a constant too.
        sums: zeros, to which each segment's are added in order.
        xs: the segments, leaves [W, …].
        carries: which segments have loss.
        size: segments of a group, ≥ 1; the first one has W mod size, if that is not 0.
    """

    def objective(params, sums, memory, xs):
        # A scan's iterations are apart anyway: no barrier is needed to keep the second run.
        @partial(jax.checkpoint, prevent_cse=False)
        def body(carry, x):
            value, sums, memory = carry
            more, (new, memory) = segment(params, memory, x)
            return (value + more, jax.tree.map(jnp.add, sums, new), memory), None

        (value, sums, memory), _ = jax.lax.scan(body, (jnp.zeros(()), sums, memory), xs)
        return value, (sums, memory)

    def with_gradient(grads, sums, memory, xs):
        new, (sums, memory) = jax.grad(objective, has_aux=True)(params, sums, memory, xs)
        return jax.tree.map(jnp.add, grads, new), sums, memory

    def without_gradient(grads, sums, memory, xs):
        def body(memory, x):
            return segment(params, memory, x)[1][1], None

        return grads, sums, jax.lax.scan(body, memory, xs)[0]

    def group(carry, now):
        carries, xs = now
        return jax.lax.cond(carries.any(), with_gradient, without_gradient, *carry, xs), None

    carry = (jax.tree.map(jnp.zeros_like, params), sums, memory)
    return scan_groups(group, carry, (carries, xs), size)


def scan_groups(
    body: Callable[[Carried, Any], tuple[Carried, None]], carry: Carried, xs: Any, size: int
) -> Carried:
    """`lax.scan` over groups of `size` along the first axis of xs; the first one has what remains.

    A single group is run without a loop.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    if rest := min(count, count % size):
        carry, _ = body(carry, jax.tree.map(lambda leaf: leaf[:rest], xs))
    if count == size:
        return body(carry, xs)[0]
    if count > size:
        others = jax.tree.map(lambda leaf: leaf[rest:].reshape(-1, size, *leaf.shape[1:]), xs)
        carry, _ = jax.lax.scan(body, carry, others)
    return carry
