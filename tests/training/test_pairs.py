"""Memories of other bases, fits and densities train on any mesh, and on from a checkpoint.

In float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.training import sharding
from inf_former_jax.training.checkpoint import CheckpointConfig, Checkpoints
from inf_former_jax.training.objective import Objective
from inf_former_jax.training.state import TrainState
from inf_former_jax.training.step import make_train_step
from tests.pairs import PAIRS

ROWS, SEGMENTS, LENGTH, VOCAB = 8, 4, 4, 12
MODEL = ModelConfig(
    vocab_size=VOCAB, num_layers=1, num_heads=2, head_dim=2, d_model=4, d_inner=4,
    segment_len=LENGTH, mem_len=LENGTH, dropout=0.0,
)  # fmt: skip
SGD = optax.sgd(0.1)


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_batch(seed: int) -> Batch:
    """Loss in the two last segments; a row begins anew before the last one."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, SEGMENTS, LENGTH)
    weights, starts = rng.random(shape), np.zeros((ROWS, SEGMENTS), bool)
    weights[:, :2] = 0
    starts[2, 3] = True
    tokens, targets = rng.integers(0, VOCAB, (2, *shape)).astype(np.int32)
    return Batch(tokens, targets, weights, starts)


class Trainer:
    """A compiled update on a mesh of `data` by `model` devices."""

    def __init__(self, cfg, data, model):
        devices = jax.devices()[: data * model]
        kinds = (AxisType.Auto,) * 2
        self.mesh = jax.make_mesh((data, model), ("data", "model"), kinds, devices=devices)
        self.state = first_state(cfg)
        self.placed = sharding.shardings(self.state, self.mesh)
        self.ops = sharding.everywhere(operators(cfg), self.mesh)
        self.step = make_train_step(cfg, SGD, Objective(0.1), self.placed)

    def update(self, state, batch):
        def rows_of(rows):
            return jax.tree.map(lambda leaf: leaf[rows], batch)

        given = jax.device_put(jax.tree.map(jnp.copy, state), self.placed)
        placed = sharding.place_batch(rows_of, ROWS, self.mesh)
        new, row = self.step(given, placed, self.ops)
        return jax.device_get(new._replace(key=None)), jax.device_get(row)


def first_state(cfg):
    def init(rngs):
        given = jnp.zeros((ROWS, LENGTH), int), init_memory(cfg, ROWS)
        return Decoder(cfg).init(rngs, *given, operators=operators(cfg))["params"]

    shapes = jax.eval_shape(init, dict.fromkeys(("params", "locations"), jax.random.key(0)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5), shapes
    )
    memory, number = init_memory(cfg, ROWS, jnp.float64), jnp.zeros((), jnp.int32)
    return TrainState(number, params, SGD.init(params), memory, jax.random.key(7))


def check_trees(actual, expected, rtol=1e-10):
    def check(path, a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b) + 1e-13, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, actual, expected)


@pytest.mark.parametrize(
    "pair",
    [
        "joined",
        pytest.param("training-free", marks=pytest.mark.slow),
        pytest.param("mixed, gaussian", marks=pytest.mark.slow),
        pytest.param("llama", marks=pytest.mark.slow),
    ],
)
def test_a_mesh_gives_what_one_device_gives_and_training_goes_on(pair, tmp_path):
    """Rows over 4 devices, heads over 2; then on from a checkpoint, to the bit."""
    cfg = dataclasses.replace(MODEL, **PAIRS[pair])
    one, many = Trainer(cfg, 1, 1), Trainer(cfg, 4, 2)
    (first, row), (sharded, its_row) = (
        trainer.update(trainer.state, random_batch(0)) for trainer in (one, many)
    )
    check_trees((sharded, its_row), (first, row))
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), first.params, one.state.params)
    for path, any_moved in jax.tree_util.tree_leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        assert any_moved or "key_bias" in name, name  # softmax knows no key bias
    assert row["loss"] > 0

    state = jax.tree.map(jnp.asarray, first._replace(key=one.state.key))
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    on, after = (one.update(begun, random_batch(1)) for begun in (state, restored))
    jax.tree.map(np.testing.assert_array_equal, after, on)
