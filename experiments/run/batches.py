"""Batches on their devices: endless ones to train on, counted ones to evaluate on; of any task."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from inf_former_jax.memory import state
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import sharding

Tree = TypeVar("Tree")


def placed(
    make: Callable[[int, np.ndarray], Tree], batch_size: int, mesh: Mesh, begin: int = 0
) -> Iterator[Tree]:
    """Global batches on their devices, without end, from number `begin` on.

    Args:
        make: (number of the batch, numbers of rows) → tree of host arrays with those rows first;
            each process asks for its own rows.
    """
    for number in itertools.count(begin):
        yield sharding.place_batch(partial(make, number), batch_size, mesh)


def counted_batches(
    make: Callable[[np.ndarray, np.ndarray], Tree], count: int, batch_size: int, mesh: Mesh
) -> Iterator[tuple[int, Tree]]:
    """(first number, batch) over the examples 0..count-1, all of one shape: for evaluations.

    Args:
        make: (numbers [B], counted [B]) → tree of host arrays with those rows first. The last
            batch is filled up with repeated examples, which are not `counted`: their weights must
            be 0.
    """
    for first in range(0, count, batch_size):

        def rows_of(rows, first=first):
            return make(np.minimum(first + rows, count - 1), first + rows < count)

        yield first, sharding.place_batch(rows_of, batch_size, mesh)


def fresh_memory(model: ModelConfig, batch_size: int, mesh: Mesh) -> Memory:
    """The empty memory of a batch, on its devices: zeros of the host, which compile nothing."""
    shapes = jax.eval_shape(partial(state.init, model, batch_size))

    def zeros(rows):
        return jax.tree.map(lambda leaf: np.zeros((len(rows), *leaf.shape[1:]), leaf.dtype), shapes)

    return sharding.place_batch(zeros, batch_size, mesh)


def on_host(array: jax.Array) -> np.ndarray:
    """The whole array, also if other processes hold some of its rows."""
    if jax.process_count() > 1:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
