"""Batches on their devices: endless ones to train on, counted ones to evaluate on; of any task."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import sharding

Tree = TypeVar("Tree")


def training_batches(
    make: Callable[[np.ndarray], Batch], batch_size: int, mesh: Mesh, begin: int = 0
) -> Iterator[Batch]:
    """Batch after batch from update `begin` on: row r of update s is example s·B + r of `make`."""
    for number in itertools.count(begin):
        first = number * batch_size
        yield sharding.place_batch(lambda rows, first=first: make(first + rows), batch_size, mesh)


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
    """The empty memory of a batch, on its devices."""
    fresh = jax.device_get(state.init(model, batch_size))
    return sharding.place_batch(
        lambda rows: jax.tree.map(lambda leaf: leaf[rows], fresh), batch_size, mesh
    )
