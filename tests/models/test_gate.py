"""The gate is the convolution that it says, at any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models import gate


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
