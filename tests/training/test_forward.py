"""Segments of a batch: what a group of padding resets, and the keys of each segment."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training.forward import CONTEXT, LOSS, PADDING, ForwardPass, by_segment, kinds
from inf_former_jax.training.objective import token_sums


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


def test_a_chain_runs_what_a_segment_is_for(tiny_model):
    """Context moves the memory and adds to no sum; padding does neither.

    All segments have weights here, so that the branch taken, not the weights, makes sums 0.
    """
    rng, shape = np.random.default_rng(0), (2, 3, tiny_model.segment_len)
    tokens, targets = rng.integers(0, tiny_model.vocab_size, (2, *shape))
    batch = Batch(tokens, targets, np.ones(shape), np.zeros(shape[:2], bool))
    memory, ops = state.init(tiny_model, 2), operators(tiny_model)
    init = jax.jit(lambda: Decoder(tiny_model).init(jax.random.key(0), tokens[:, 0], memory))
    params = init()["params"]
    run = jax.jit(ForwardPass(tiny_model, ops, jax.random.key(0)).chain)

    def chained(*kinds):
        return run(params, memory, by_segment(batch, jnp.array(kinds)))

    sums, after = chained(CONTEXT, LOSS, PADDING)
    every, whole = chained(LOSS, LOSS, PADDING)
    first, _ = chained(LOSS, PADDING, PADDING)
    _, read = chained(CONTEXT, CONTEXT, CONTEXT)
    assert sums["weight"] == tokens[:, 0].size == every["weight"] / 2 and first["loss"] > 0
    for name in sums:
        np.testing.assert_allclose(every[name], sums[name] + first[name], rtol=1e-5)
    chex.assert_trees_all_close(after, whole, rtol=1e-5, atol=1e-6)
    assert (after.seen == 2 * tiny_model.segment_len).all() and (read.seen > after.seen).all()


def test_a_weight_that_is_nan_is_loss_and_no_context():
    """Taken for context, its update would have no loss, and nobody would know."""
    weights = np.zeros((2, 3, 4), np.float32)
    weights[0, 1, 2], weights[1, 2, 0] = np.nan, 1
    ids = np.zeros(weights.shape, np.int32)
    batch = Batch(ids, ids, weights, np.zeros((2, 3), bool))
    assert kinds(batch).tolist() == [CONTEXT, LOSS, LOSS]
    sums = token_sums(jnp.zeros((*weights.shape, 5)), ids, weights)
    assert jnp.isnan(sums["loss"]) and jnp.isnan(sums["weight"])
