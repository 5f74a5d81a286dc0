"""Examples that are generated, each from a random stream of its own."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from inf_former_jax.data.text import SPLITS
from inf_former_jax.require import require, require_at_least


def generators(
    seed: int, split: str, indices: Sequence[int] | Integer[np.ndarray, " B"]
) -> list[np.random.Generator]:
    """A random generator for each of the examples `indices` of a split.

    It depends on (seed, split, index) only, so that any host makes any example.

    Raises:
        ValueError: an unknown split, a negative seed or index.
    """
    require(split in SPLITS, "split", repr(split), ", ".join(SPLITS))
    require_at_least("seed", seed, 0)
    require_at_least("index", min(map(int, indices), default=0), 0)
    place = SPLITS.index(split)
    # `spawn_key` pads the seed, so that no two places share a stream; a flat list would not.
    streams = [np.random.SeedSequence(seed, spawn_key=(place, int(i))) for i in indices]
    return [np.random.Generator(np.random.PCG64(stream)) for stream in streams]
