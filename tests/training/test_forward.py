"""Segments of a batch: what a group of padding resets, and the keys of each segment."""

import jax
import jax.numpy as jnp
import numpy as np

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.training.forward import PADDING, ForwardPass, by_segment


def test_a_group_of_padding_resets_every_row_that_any_segment_does(tiny_model):
    """Rows that the first, the second, both and none of two segments of padding reset."""
    resets = np.array([[True, False], [False, True], [True, True], [False, False]])
    none = np.zeros((4, 2, tiny_model.segment_len), bool)
    batch = Batch(none.astype(int), none.astype(int), none.astype(float), resets, none)
    group = by_segment(batch)
    assert (group.kind == PADDING).all()
    memory = jax.tree.map(lambda leaf: leaf + 1, state.init(tiny_model, 4))
    after = ForwardPass(tiny_model, None, jax.random.key(0)).skip(memory, group)
    for leaf in jax.tree.leaves(after):
        expected = np.array([0, 0, 0, 1]).reshape(4, *[1] * (leaf.ndim - 1))
        np.testing.assert_array_equal(leaf, np.broadcast_to(expected, leaf.shape))


def test_every_segment_and_purpose_has_a_key_of_its_own(tiny_model):
    run = ForwardPass(tiny_model, None, jax.random.key(0))
    keys = [key for number in jnp.arange(3) for key in run._rngs(number).values()]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 6
