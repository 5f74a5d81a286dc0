"""What a cell is worth by itself: it is added to scores, and decides what a sticky memory keeps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.density import normalise
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.memory_read import content
from inf_former_jax.models.memory_read.content import ContentMemory, ContentParams
from tests.golden import jit

B, H, T, K, E, N, L = 2, 2, 3, 4, 5, 8, 2
CFG = LongTermConfig(
    num_basis=N, functions="rectangular", fit="intervals", density="gibbs", gate=False,
    contraction="kept", tau=0.75, sticky=True, learn_worth=True,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_scores_and_salience_by_hand():
    """Two rows: one with four of eight cells filled, one with all."""
    rng = np.random.default_rng(0)
    q, keys = rng.normal(size=(B, H, T, K)), rng.normal(size=(B, H, N, K))
    worth, writes = rng.normal(size=(B, N)), np.array([2, 9])
    memory = ContentMemory(keys, keys, worth)
    found = content.density(CFG, ContentParams(), q, memory, writes)
    weights, mass = np.zeros((B, H, T, N)), np.zeros((B, N))
    for row, first in enumerate((4, 0)):
        held = slice(first, N)
        scores = q[row] @ keys[row, :, held].swapaxes(-1, -2) / K**0.5 + worth[row, held]
        weights[row, ..., held] = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mass[row, held] = 1 / (1 + worth[row, held].max() - worth[row, held])
        mass[row] /= mass[row].sum()
    np.testing.assert_allclose(found.weights(), weights, atol=1e-12)
    steering = normalise(content.mass_by_worth(CFG, worth, writes))
    np.testing.assert_allclose(steering, mass, atol=1e-12)
    one = found.part(slice(0, 1), slice(1, 2))
    np.testing.assert_allclose(one.weights(), weights[:, :1, 1:2], atol=1e-12)


def test_what_is_worth_most_stays_whatever_is_looked_for():
    """Marked vectors are never asked for, and never dropped, by however little they are ahead."""
    layer, rng = LongTermAttention(CFG), np.random.default_rng(1)
    segments = rng.normal(size=(15, B, L, E))
    segments[..., 0] = 0.0
    marked = [(1, 0, 1), (3, 0, 0), (4, 0, 1), (9, 0, 0), (0, 1, 0), (2, 1, 1)]
    for place in marked:
        segments[(*place, 0)] = 1.0
    memory = long_term.init(CFG, B, E, jnp.float64)
    q = jnp.asarray(rng.normal(size=(B, H, T, K)))
    params = layer.init(jax.random.key(0), q, memory)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def turn(worth, q, memory, x):
        read = params["read"] | {"worth": worth}
        bound = layer.bind({"params": {**params, "read": read}})
        return bound(q, bound.write(memory, x))[1]

    turn, there = jit(turn), []
    for scale in (30.0, 1e-3, 0.0):
        now = memory
        for x in segments:
            queries = jnp.asarray(rng.normal(size=(B, H, T, K)))
            now = turn(scale * jnp.eye(E)[0], queries, now, x)
        away = [
            np.abs(np.asarray(now.coeffs)[place[1]] - segments[place]).max(-1).min()
            for place in marked
        ]
        there.append(sum(distance < 1e-9 for distance in away))
    assert there[0] == there[1] == len(marked) > there[2]


def test_it_is_learned_by_what_is_read():
    """The gradient of a read reaches w, and at first w changes nothing."""
    layer, rng = LongTermAttention(CFG), np.random.default_rng(2)
    memory = long_term.init(CFG, B, E, jnp.float64)
    q = jnp.asarray(rng.normal(size=(B, H, T, K)))
    params = layer.init(jax.random.key(0), q, memory)["params"]
    assert params["read"]["worth"].shape == (E,) and not params["read"]["worth"].any()
    memory = layer.apply({"params": params}, memory, rng.normal(size=(B, L, E)), method="write")
    without = dataclasses.replace(CFG, learn_worth=False)
    other = {**params, "read": {k: v for k, v in params["read"].items() if k != "worth"}}

    def read(cfg, params):
        return LongTermAttention(cfg).apply({"params": params}, q, memory)[0]

    found = jit(partial(read, CFG))(params)
    np.testing.assert_array_equal(found, jit(partial(read, without))(other))
    grads = jit(jax.grad(lambda params: (read(CFG, params) ** 2).sum()))(params)
    assert np.abs(grads["read"]["worth"]).max() > 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"sticky": False},
        {"contraction": "fixed", "num_samples": N},
        {"density": "gaussian", "content_heads": 1},
    ],
)
def test_refused_where_nothing_is_kept_by_it(change):
    with pytest.raises(ValueError, match=r"^learn_worth: found True with "):
        dataclasses.replace(CFG, **change)
