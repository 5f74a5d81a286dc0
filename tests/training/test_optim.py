"""The schedule against a table by hand, the optimiser against Adam in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inf_former_jax.training.optim import OptimConfig, optimizer, schedule


def test_schedule_with_warm_up():
    cfg = OptimConfig(learning_rate=2.0, steps=6, warmup_steps=2)
    half = np.sqrt(0.5)  # cos(π/4): the cosine has 4 steps
    expected = [0, 1, 2, 1 + half, 1, 1 - half, 0, 0]
    np.testing.assert_allclose([schedule(cfg)(s) for s in range(8)], expected, atol=1e-6)


def test_schedule_without_warm_up_begins_at_the_peak():
    rates = [schedule(OptimConfig(learning_rate=2.0, steps=4))(s) for s in range(5)]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rates, [2, 1 + half, 1, 1 - half, 0], atol=1e-6)


def test_paper_defaults():
    """SPEC §5."""
    cfg = OptimConfig()
    assert (cfg.learning_rate, cfg.steps, cfg.warmup_steps, cfg.clip) == (2e-4, 20_000, 0, 0.25)


def test_optimizer_is_clipped_adam():
    """Three updates; the first gradient is clipped (norm 5), the others are left alone."""
    cfg = OptimConfig(learning_rate=0.1, steps=5, clip=0.25, b1=0.8, b2=0.95)
    gradients = np.array([[3.0, 4.0], [0.1, -0.2], [0.0, 0.24]])
    p, m, v = np.array([1.0, -1.0]), np.zeros(2), np.zeros(2)
    with jax.enable_x64(True):
        tx = optimizer(cfg)
        params = jnp.asarray(p)
        state = tx.init(params)
        for t, gradient in enumerate(gradients):
            updates, state = tx.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            g = gradient * min(1, 0.25 / np.linalg.norm(gradient))
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            rate = 0.1 * 0.5 * (1 + np.cos(np.pi * t / 5))
            step = (m / (1 - 0.8 ** (t + 1))) / (np.sqrt(v / (1 - 0.95 ** (t + 1))) + 1e-8)
            p = p - rate * step
            np.testing.assert_allclose(params, p, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"learning_rate": 0.0}, "learning_rate: found 0.0, accepted: a number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan, accepted: a number > 0"),
        ({"clip": -1.0}, "clip: found -1.0, accepted: a number > 0"),
        ({"steps": 5, "warmup_steps": 5}, "warmup_steps: found 5 with steps 5, accepted: .*"),
        ({"weight_decay": -1.0}, "weight_decay: found -1.0, accepted: a number ≥ 0"),
        ({"learning_rate": float("inf")}, r"learning_rate: found inf, accepted: a number ≤ 3.4.*"),
        ({"learning_rate": 1e39}, r"learning_rate: found 1e\+39, accepted: a number ≤ 3.4.*"),
        ({"b1": 1.5}, r"b1: found 1.5, accepted: a number in \[0, 1\)"),
        ({"b1": -1.0}, r"b1: found -1.0, accepted: a number in \[0, 1\)"),
        ({"b1": float("nan")}, r"b1: found nan, accepted: a number in \[0, 1\)"),
        ({"b2": 2.0}, r"b2: found 2.0, accepted: a number in \[0, 1\)"),
        ({"b2": 1 - 1e-12}, r"b2: found 0.9+\d*, accepted: a number in \[0, 1\) in float32"),
        ({"memory_learning_rate": -1.0}, "memory_learning_rate: found -1.0, accepted: .*"),
        ({"steps": 5, "accumulate": 2}, "accumulate: found 2, accepted: a divisor of steps 5"),
        ({"accumulate": 0}, "accumulate: found 0, accepted: a whole number ≥ 1"),
        ({"steps": 0}, "steps: found 0, accepted: a whole number ≥ 1"),
    ],
)
def test_impossible_optimisers_are_refused(change, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        OptimConfig(**change)


def test_schedules():
    linear = OptimConfig(learning_rate=2.0, steps=6, warmup_steps=2, schedule="linear")
    np.testing.assert_allclose([schedule(linear)(s) for s in range(7)], [0, 1, 2, 1.5, 1, 0.5, 0])
    constant = OptimConfig(learning_rate=2.0, steps=6, warmup_steps=2, schedule="constant")
    np.testing.assert_allclose([schedule(constant)(s) for s in range(7)], [0, 1, 2, 2, 2, 2, 2])
    # By updates, of which there is one every second step; and with another peak.
    halved = OptimConfig(steps=12, warmup_steps=4, schedule="linear", accumulate=2)
    rates = [schedule(halved, 2.0)(s) for s in range(7)]
    np.testing.assert_allclose(rates, [0, 1, 2, 1.5, 1, 0.5, 0])


PARAMS = {
    "block_0": {
        "attention": {"query": np.array([[1.0]]), "query_bias": np.array([[1.0]])},
        "long_term": {"read": {"out": np.array([[1.0]])}, "gate": {"kernel": np.array([[1.0]])}},
        "compression": {"kernel": np.array([[1.0]])},
        "inner": {"kernel": np.array([[1.0]]), "bias": np.array([1.0])},
        "norm": {"scale": np.array([1.0])},
    }
}


def test_memory_learns_at_its_own_rate_and_does_not_decay():
    """Adam's first update is the rate, whatever the gradient; decay adds rate · .5 · weight."""
    cfg = OptimConfig(
        learning_rate=0.1, memory_learning_rate=0.3, weight_decay=0.5, steps=4, clip=1e9
    )
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = optimizer(cfg)
    grads = jax.tree.map(lambda leaf: 0.01 * jnp.ones_like(leaf), params)
    updates = tx.update(grads, tx.init(params), params)[0]["block_0"]
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    expected = {
        "attention/query": -0.15,
        "attention/query_bias": -0.1,
        "long_term/read/out": -0.3,
        "long_term/gate/kernel": -0.3,
        "compression/kernel": -0.3,
        "inner/kernel": -0.15,
        "inner/bias": -0.1,
        "norm/scale": -0.1,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_memory_alone_is_trained(accumulate):
    """The rest does not move, has no statistics, and its gradient is not clipped with."""
    cfg = OptimConfig(learning_rate=0.1, weight_decay=0.5, steps=4, clip=1.0, trained="memory")
    tx = optimizer(dataclasses.replace(cfg, accumulate=accumulate))
    params = jax.tree.map(jnp.asarray, PARAMS)
    grads = jax.tree.map(lambda leaf: 1e6 * jnp.ones_like(leaf), params)
    for name in ("long_term", "compression"):
        grads["block_0"][name] = jax.tree.map(jnp.zeros_like, params["block_0"][name])
    grads["block_0"]["long_term"]["gate"] = {"kernel": jnp.array([[0.5]])}
    state = tx.init(params)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert numbers <= 3 * (1 + accumulate) + 6, "a memory of 3 numbers, and counters"
    for _ in range(accumulate):
        updates, state = tx.update(grads, state, params)
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(leaf.sum())
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
    }
    assert {name for name, value in moved.items() if value} == {"block_0/long_term/gate/kernel"}
    np.testing.assert_allclose(moved["block_0/long_term/gate/kernel"], -0.1, rtol=1e-5)
    mean = jax.tree.leaves(optax.tree.get(state, "mu"))
    np.testing.assert_allclose(max(float(leaf.max()) for leaf in mean), 0.05, rtol=1e-5)


def test_accumulated_steps_are_one_update_of_their_mean():
    many = OptimConfig(learning_rate=0.1, steps=4, clip=0.25, accumulate=2)
    one = OptimConfig(learning_rate=0.1, steps=2, clip=0.25)
    params = jnp.array([1.0, -1.0])
    gradients = jnp.array([[3.0, 4.0], [0.1, -0.2], [0.0, 0.24], [0.2, 0.0]])
    states = [optimizer(cfg).init(params) for cfg in (many, one)]
    found = expected = params
    for i, gradient in enumerate(gradients):
        updates, states[0] = optimizer(many).update(gradient, states[0], found)
        found = optax.apply_updates(found, updates)
        if i % 2 == 0:
            np.testing.assert_array_equal(found, expected)
            continue
        mean = gradients[i - 1 : i + 1].mean(axis=0)
        updates, states[1] = optimizer(one).update(mean, states[1], expected)
        expected = optax.apply_updates(expected, updates)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
