"""The schedule against a table by hand, the optimiser against Adam in NumPy."""

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
        ({"steps": 0}, "warmup_steps: found 0 with steps 0, accepted: .*"),
    ],
)
def test_impossible_optimisers_are_refused(change, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        OptimConfig(**change)
