"""Large temporaries in a CPU's cache: a computation over groups of an axis, one after the other."""

from collections.abc import Callable
from typing import Any

import jax

#: Numbers of a temporary that stay in a core's cache, as float32.
CACHED = 2**17


def by_groups(of_group: Callable[..., Any], numbers: int, *given: Any) -> Any:
    """`of_group(*given)`, whose leaves are independent of each other along their first axis.

    On a CPU they are taken by groups whose temporaries stay in its cache, one after the other;
    elsewhere, and where all of them fit, at once.

    Args:
        numbers: size of the largest temporary for each place along the axis.
    """
    length = jax.tree.leaves(given)[0].shape[0]
    most = min(length, max(1, CACHED // max(1, numbers)))
    size = max(size for size in range(1, most + 1) if length % size == 0)
    if size == length:
        return of_group(*given)

    def grouped(*given):
        split = jax.tree.map(lambda x: x.reshape(length // size, size, *x.shape[1:]), given)
        found = jax.lax.map(lambda group: of_group(*group), split)
        return jax.tree.map(lambda x: x.reshape(length, *x.shape[2:]), found)

    return jax.lax.platform_dependent(*given, cpu=grouped, default=of_group)
