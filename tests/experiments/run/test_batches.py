"""What a run places on its devices."""

import jax
import numpy as np

from experiments.run import batches
from inf_former_jax.memory import state
from inf_former_jax.training import sharding


def test_a_fresh_memory_is_what_init_makes(tiny_model):
    """Leaf by leaf, split over 2 devices."""
    placed = batches.fresh_memory(tiny_model, 4, sharding.make_mesh(devices=2))
    jax.tree.map(np.testing.assert_array_equal, placed, state.init(tiny_model, 4))
    assert len(placed.seen.sharding.device_set) == 2
    assert placed.seen.dtype == np.int32
