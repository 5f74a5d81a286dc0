"""Layers that are run again on the way back: same updates, less is kept. In float64."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training.objective import Objective
from inf_former_jax.training.state import TrainState
from inf_former_jax.training.step import make_train_step
from tests.golden import relative_error

ROWS, SEGMENTS, LENGTH, VOCAB = 2, 3, 8, 12
DROPPING = {"dropout": 0.2, "attention_dropout": 0.3}
SCHEDULES = {
    "sequential": ("sequential", 0),
    "back": ("sequential", 1),
    "parallel": ("parallel", 0),
}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@cache
def params_of(cfg):
    """Float64 parameters, of the configuration without rematerialisation."""
    rngs = dict.fromkeys(("params", "locations"), jax.random.key(0))
    init, memory = Decoder(cfg).init, init_memory(cfg, ROWS)
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
        jnp.zeros((), jnp.int32),
        params,
        tx.init(params),
        init_memory(cfg, rows, jnp.float64),
        jax.random.key(7),
    )
    objective = Objective(kl_weight=0.1, schedule=way)
    update = make_train_step(dataclasses.replace(cfg, memory_gradient=back), tx, objective)
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


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_update_is_the_same(tiny_model, schedule):
    """With dropout, in each schedule; drawn sticky locations are drawn once."""
    cfg = dataclasses.replace(tiny_model, num_layers=1, **DROPPING)
    if schedule == "parallel":
        sticky = dataclasses.replace(cfg.long_term, sticky=True, locations="draw")
        cfg = dataclasses.replace(cfg, norm="pre", long_term=sticky)
    check_same(cfg, schedule)


def loss_of(cfg):
    """A number of one segment's logits, and the memory after it, with dropout."""

    def loss(params, tokens, memory, ops, key):
        out = Decoder(cfg).apply(
            {"params": params}, tokens, memory, operators=ops, train=True, rngs={"dropout": key}
        )
        return (out.logits**2).sum(), out.memory

    return loss


def arguments_of(cfg):
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, cfg.segment_len))
    params = params_of(dataclasses.replace(cfg, remat=False))
    memory = init_memory(cfg, ROWS, jnp.float64)
    return params, tokens, memory, operators(cfg), jax.random.key(3)


def kinds(cfg):
    """Without and with remat; no long-term memory, so that they compile quickly."""
    cfg = dataclasses.replace(cfg, long_term=None, **DROPPING)
    return [dataclasses.replace(cfg, remat=remat) for remat in (False, True)]


@pytest.mark.slow
def test_gradients_are_the_same(tiny_model):
    """Of one segment, with dropout; the parameters have the same names."""
    found = []
    for cfg in kinds(tiny_model):
        step = jax.jit(jax.value_and_grad(loss_of(cfg), has_aux=True))
        found.append(step(*arguments_of(cfg)))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        assert relative_error(ours, theirs) < 1e-12
    made = [
        jax.eval_shape(Decoder(cfg).init, jax.random.key(0), *arguments_of(cfg)[1:3])
        for cfg in kinds(tiny_model)
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("long_term", [pytest.param(False, marks=pytest.mark.slow), True])
def test_little_is_kept_for_the_way_back(tiny_model, long_term):
    """Bytes that the backward pass is given, layer by layer; nothing is compiled."""

    def kept(layers, remat):
        cfg = dataclasses.replace(
            tiny_model,
            **DROPPING,
            num_layers=layers,
            remat=remat,
            d_inner=32,
            segment_len=16,
            mem_len=16,
            long_term=tiny_model.long_term if long_term else None,
        )
        arguments = arguments_of(cfg)

        def residuals(params, *others):
            return jax.vjp(lambda params: loss_of(cfg)(params, *others)[0], params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(residuals, *arguments))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def of_layer(remat):
        return kept(2, remat) - kept(1, remat)

    assert of_layer(True) < 0.5 * of_layer(False)
