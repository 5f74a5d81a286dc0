"""Large temporaries in pieces that fit a CPU's cache (tuning)."""

from collections.abc import Callable
from typing import Any

import jax

#: Numbers of a float32 temporary that stay in a core's cache.
CACHE_NUMBERS = 2**19


def in_cached_pieces(function: Callable[..., Any], numbers: int, *arrays: Any) -> Any:
    """`function(*arrays)`, computed piece by piece along the first axis where that is faster.

    The function must treat the places along the first axis independently. On a CPU the axis is
    cut into pieces whose temporaries stay in the cache, and the pieces follow each other. On any
    other device, and on a CPU where everything fits, the function is called once.

    Args:
        numbers: size of the largest temporary for each place along the axis.
        arrays: pytrees of arrays with the same first axis; the results have it, too.
    """
    length = jax.tree.leaves(arrays)[0].shape[0]
    most = min(length, max(1, CACHE_NUMBERS // max(1, numbers)))
    size = max(size for size in range(1, most + 1) if length % size == 0)
    if size == length:
        return function(*arrays)

    def in_pieces(*arrays):
        pieces = jax.tree.map(lambda x: x.reshape(length // size, size, *x.shape[1:]), arrays)
        results = jax.lax.map(lambda piece: function(*piece), pieces)
        return jax.tree.map(lambda x: x.reshape(length, *x.shape[2:]), results)

    return jax.lax.platform_dependent(*arrays, cpu=in_pieces, default=function)
