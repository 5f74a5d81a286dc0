"""Hill climbing on a grid of constants."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

#: A point of the grid: coordinate → value.
Point = dict[str, Any]


def climb(
    axes: Mapping[str, Sequence[Any]],
    score: Callable[[Point], float],
    starts: Sequence[Point],
    *,
    restarts: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[tuple[float, Point]]:
    """Hill climbing on a grid: the points that were tried with their scores, the best first.

    It climbs from each start to better neighbours, one step along one axis, until there is none. A
    score of -inf says that a point cannot be. Each point is tried once. Without `stop` the seed
    alone decides the result.

    Args:
        axes: values of each coordinate, in an order in which neighbours are alike.
        starts: points to begin at, then `restarts` random ones.
        stop: asked before every further point.
    """
    rng = np.random.default_rng(seed)
    tried: dict[tuple[int, ...], float] = {}
    names, sizes = list(axes), [len(values) for values in axes.values()]
    moves = [(axis, way) for axis in range(len(names)) for way in (-1, 1)]

    def point(at):
        return {name: axes[name][i] for name, i in zip(names, at, strict=True)}

    def value(at):
        if at not in tried:
            tried[at] = score(point(at))
        return tried[at]

    def shuffled():
        return [moves[i] for i in rng.permutation(len(moves))]

    begin = [tuple(axes[name].index(start[name]) for name in names) for start in starts]
    begin += [tuple(int(rng.integers(size)) for size in sizes) for _ in range(restarts)]
    for at in begin:
        if tried and stop():
            break
        value(at)
        left = shuffled()
        while left and not stop():
            axis, way = left.pop()
            to = (*at[:axis], at[axis] + way, *at[axis + 1 :])
            if 0 <= to[axis] < sizes[axis] and value(to) > value(at):
                # What has helped is tried again first: the way along an axis is often long.
                at, left = to, [*shuffled(), (axis, way)]
    found = [(result, point(at)) for at, result in tried.items() if result > -math.inf]
    return sorted(found, key=lambda pair: -pair[0])
