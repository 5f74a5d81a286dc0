"""Layers that are run again on the way back: the same update, in less room. In float64."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import step
from inf_former_jax.training.state import TrainState
from tests.golden import relative_error

ROWS, SEGMENTS, LENGTH, VOCAB = 2, 3, 8, 12
DROPPING = {"dropout": 0.2, "attention_dropout": 0.3}
SCHEDULES = {"sequential": ("sequential", 0), "back": ("sequential", 1), "parallel": ("parallel", 0)}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@cache
def params_of(cfg):
    """Float64 parameters, of the configuration without rematerialisation."""
    rngs = dict.fromkeys(("params", "locations"), jax.random.key(0))
    init, memory = Decoder(cfg).init, memories.init(cfg, ROWS)
    ops = jax.eval_shape(lambda: operators(cfg))
    tokens = jnp.zeros((ROWS, LENGTH), int)
    shapes = jax.eval_shape(
        lambda rngs, memory, ops: init(rngs, tokens, memory, operators=ops), rngs, memory, ops
    )["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, shapes)


def prepared(cfg, schedule, rows=ROWS):
    """The update of three segments under a schedule, compiled: (of its arguments, arguments)."""
    way, back = SCHEDULES[schedule]
    plain = dataclasses.replace(cfg, remat=False)
    rng = np.random.default_rng(0)
    shape = (rows, SEGMENTS, cfg.segment_len)
    tokens, targets = rng.integers(0, VOCAB, (2, *shape)).astype(np.int32)
    batch = Batch(tokens, targets, rng.random(shape), np.zeros((rows, SEGMENTS), bool))
    tx = optax.sgd(1.0)
    params = jax.tree.map(jnp.asarray, params_of(plain))
    state = TrainState(
        jnp.zeros((), jnp.int32), params, tx.init(params), memories.init(cfg, rows, jnp.float64),
        jax.random.key(7),
    )  # fmt: skip
    objective = step.Objective(kl_weight=0.1, schedule=way)
    update = step.make_train_step(dataclasses.replace(cfg, memory_gradient=back), tx, objective)
    ops = operators(cfg)
    return update.lower(state, batch, ops).compile(), (state, batch, ops)


def updated(cfg, schedule):
    """(new state without its key, metrics): plain descent at rate 1."""
    update, arguments = prepared(cfg, schedule)
    state, metrics = update(*arguments)
    return jax.device_get((state._replace(key=None), metrics))


def check_same(cfg, schedule):
    """The update is the same, and moves every parameter."""
    expected = updated(cfg, schedule)
    found = updated(dataclasses.replace(cfg, remat=True), schedule)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        same = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        assert relative_error(same, leaf) < 1e-12, jax.tree_util.keystr(path)
    moved = jax.tree.map(lambda old, new: (old != new).any(), params_of(cfg), found[0].params)
    assert all(jax.tree.leaves(moved))


def test_the_update_is_the_same(tiny_model):
    """With dropout, segment by segment."""
    check_same(dataclasses.replace(tiny_model, **DROPPING), "sequential")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["back", "parallel"])
@pytest.mark.parametrize("kind", ["uniform", "drawn, pre-norm"])
def test_the_update_is_the_same_in_other_schedules(tiny_model, schedule, kind):
    """With dropout; with drawn sticky locations the second run draws what the first one drew."""
    cfg = dataclasses.replace(tiny_model, **DROPPING)
    if kind != "uniform":
        sticky = dataclasses.replace(cfg.long_term, sticky=True, locations="draw")
        cfg = dataclasses.replace(cfg, norm="pre", long_term=sticky)
    check_same(cfg, schedule)


@pytest.mark.slow
def test_the_update_of_a_compressive_one_is_the_same(tiny_model):
    compressed = CompressedConfig(rate=2, length=4)
    check_same(
        dataclasses.replace(tiny_model, long_term=None, compressed=compressed), "sequential"
    )


def room(cfg, schedule):
    """Bytes of temporaries of the compiled update."""
    return prepared(cfg, schedule)[0].memory_analysis().temp_size_in_bytes
