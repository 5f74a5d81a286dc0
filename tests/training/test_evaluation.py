"""Figures by token against the sums of the other evaluation, and against the decoder itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.memory.state import reset
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation, sharding

ROWS, SEGMENTS, LENGTH = 2, 5, 8


@pytest.fixture(scope="module", autouse=True)
def x64():
    """What is compared are two programs, whose float32 rounding differs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def given(tiny_model, x64):
    """(params, operators, batch) with a reset in the middle and padding at the end of a row."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (ROWS, SEGMENTS, LENGTH + 1)).astype(np.int32)
    resets = np.zeros((ROWS, SEGMENTS), bool)
    resets[:, 0] = resets[1, 3] = True
    valid = np.ones((ROWS, SEGMENTS, LENGTH), bool)
    valid[1, 2, 5:] = False
    batch = Batch(tokens[..., :-1], tokens[..., 1:], valid.astype(np.float32), resets, valid)
    ops = jax.device_put(operators(tiny_model))
    memory = init_memory(tiny_model, ROWS, jnp.float64)
    init, given = Decoder(tiny_model).init, (jax.random.key(0), batch.tokens[:, 0], memory)
    shapes = jax.eval_shape(lambda *given: init(*given, operators=ops), *given)["params"]
    # Of size 1, so that what is remembered matters.
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes), ops, batch


@pytest.mark.parametrize(
    "control",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"empty_memory": True}, marks=pytest.mark.slow),
        {"foreign_memory": True},
    ],
)
def test_tokens_sum_to_sums(tiny_model, given, control):
    params, ops, batch = given
    memory, key = init_memory(tiny_model, ROWS, jnp.float64), jax.random.key(1)
    makers = evaluation.make_eval_step, evaluation.make_token_step
    steps = (make(tiny_model, **control) for make in makers)
    (sums, after), (figures, same) = (step(params, memory, batch, ops, key) for step in steps)
    assert figures.nats.shape == (ROWS, SEGMENTS, LENGTH) and figures.right.dtype == bool
    weighted = np.asarray(figures.nats)[batch.valid].sum()
    np.testing.assert_allclose(weighted, sums["loss"], rtol=1e-5)
    assert np.asarray(figures.right)[batch.valid].sum() == sums["correct"]
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(same), strict=True):
        # Two programs: float32's rounding, of the largest number that was summed.
        largest = np.abs(other).max(initial=0)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * largest)


def test_each_device_draws_for_its_own_rows(tiny_model, given):
    """Sticky locations are drawn by the row's number in the whole batch, on any mesh."""
    params, _, batch = given
    batch = batch._replace(resets=batch.resets & (np.arange(SEGMENTS) == 0))  # both rows contract
    sticky = dataclasses.replace(tiny_model.long_term, sticky=True, locations="draw")
    cfg = dataclasses.replace(tiny_model, long_term=sticky)
    memory, ops = init_memory(cfg, ROWS, jnp.float64), jax.device_put(operators(cfg))
    mesh = sharding.make_mesh(devices=2)
    one, two = evaluation.make_token_step(cfg), evaluation.make_token_step(cfg, mesh=mesh)
    keys = jax.random.split(jax.random.key(2))
    (expected, after), (other, _) = (one(params, memory, batch, ops, key) for key in keys)
    found, same = two(params, memory, batch, ops, keys[0])
    assert np.abs(expected.nats - other.nats)[:, -1].max(axis=1).min() > 1e-4
    pairs = zip(jax.tree.leaves((found, same)), jax.tree.leaves((expected, after)), strict=True)
    for part, whole in pairs:
        np.testing.assert_allclose(part, whole, rtol=1e-9, atol=1e-9)


def test_tokens_are_the_decoders(tiny_model, given):
    """Row by row, segment by segment, in order: a document that is walked by hand."""
    params, ops, batch = given
    figures, _ = evaluation.make_token_step(tiny_model)(
        params, init_memory(tiny_model, ROWS, jnp.float64), batch, ops, jax.random.key(1)
    )
    run = jax.jit(Decoder(tiny_model).apply)
    memory = init_memory(tiny_model, ROWS, jnp.float64)
    for number in range(SEGMENTS):
        memory = reset(memory, jnp.asarray(batch.resets[:, number]))
        tokens, valid = batch.tokens[:, number], batch.valid[:, number]
        out = run({"params": params}, tokens, memory, operators=ops, where=valid)
        memory = out.memory
        nats = optax.softmax_cross_entropy_with_integer_labels(
            out.logits, jnp.asarray(batch.targets[:, number])
        )
        np.testing.assert_allclose(figures.nats[:, number], nats, rtol=1e-5)
        right = out.logits.argmax(-1) == batch.targets[:, number]
        np.testing.assert_array_equal(figures.right[:, number], right)
    emptied, _ = evaluation.make_token_step(tiny_model, True)(
        params, init_memory(tiny_model, ROWS, jnp.float64), batch, ops, jax.random.key(1)
    )
    assert np.abs(np.asarray(emptied.nats - figures.nats)[0, 3:]).max() > 1e-3
    np.testing.assert_allclose(emptied.nats[:, :2], figures.nats[:, :2], rtol=1e-5)
