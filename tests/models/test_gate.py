"""The gate is the convolution that it says, at any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import gate
from inf_former_jax.models.attention import LongTermAttention


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_the_gate_is_a_convolution(length):
    """Of three neighbours, zeros at the ends, on any device; its gradients, too."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        kernel, bias, x = (rng.normal(size=size) for size in ((3, 4, 4), 4, (2, length, 4)))

        def by_hand(kernel, bias, x):
            padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
            mixed = sum(padded[:, i : i + length] @ kernel[i] for i in range(3))
            return jax.nn.sigmoid(mixed + bias[None, None])

        def on_a_gpu(kernel, bias, x):
            return jax.nn.sigmoid(gate.convolution(kernel, x) + bias[None, None])

        def run(function):
            values, pull = jax.vjp(function, kernel, bias, x)
            return values, pull(jnp.cos(values))

        expected, ours, theirs = (
            jax.jit(run, static_argnums=0)(of) for of in (by_hand, gate.gate_values, on_a_gpu)
        )
        for found in (ours, theirs):
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_how_far_a_bad_number_spreads(bad):
    """Winograd's filter: to the neighbours and to the four that are computed together."""
    rng = np.random.default_rng(1)
    kernel, x = rng.normal(size=(3, 2, 2)).astype("f"), rng.normal(size=(2, 11, 2)).astype("f")
    run, place = jax.jit(gate.winograd), np.arange(11)
    clean = run(kernel, x)
    for at in place:
        spoilt = x.copy()
        spoilt[0, at, 0] = bad
        found = run(kernel, spoilt)
        reached = (abs(place - at) <= 1) | (place // 4 == at // 4)
        assert not np.isfinite(found[0, reached]).any()
        np.testing.assert_array_equal(found[0, ~reached], clean[0, ~reached])
        np.testing.assert_array_equal(found[1], clean[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_is_in_all_of_its_write_and_nowhere_else(bad):
    """And in nothing at all, gradients included, where the row does not write."""
    cfg = LongTermConfig(num_basis=4, widths=(0.2,), num_samples=4, bins=4)
    module, memory = LongTermAttention(cfg), long_term.init(cfg, 2, 2)
    x = np.random.default_rng(2).normal(size=(2, 5, 2)).astype("f")
    spoilt = x.copy()
    spoilt[0, 2, 1] = bad
    kernel = np.ones((3, 2, 2), np.float32)

    @jax.jit
    def run(x, rows):
        def coeffs(kernel):
            params = {"params": {"gate": {"kernel": kernel, "bias": jnp.zeros(2)}}}
            return module.apply(params, memory, x, rows=rows, method="write").coeffs

        found, pull = jax.vjp(coeffs, kernel)
        return found, pull(jnp.where(rows[:, None, None], 1.0, 0.0) * jnp.ones_like(found))[0]

    alone = np.array([False, True])
    jax.tree.map(np.testing.assert_array_equal, run(spoilt, alone), run(x, alone))
    written, clean = (run(x, np.ones(2, bool))[0] for x in (spoilt, x))
    assert not np.isfinite(written[0]).any()
    np.testing.assert_array_equal(written[1], clean[1])
