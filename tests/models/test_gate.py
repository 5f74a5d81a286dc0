"""The gate is the convolution that it says, at any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models.gate import gate_values


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_the_gate_is_a_convolution(length):
    """Of three neighbours, zeros at the ends; its gradients by kernel, bias and vectors too."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        kernel, bias, x = (
            rng.normal(size=size) for size in ((3, 4, 4), 4, (2, length, 4))
        )  # fmt: skip

        def convolution(kernel, bias, x):
            mixed = jax.lax.conv_general_dilated(
                x, kernel, (1,), [(1, 1)], dimension_numbers=("NHC", "HIO", "NHC")
            )
            return jax.nn.sigmoid(mixed + bias[None, None])

        def run(of):
            found, pull = jax.vjp(of, kernel, bias, x)
            return found, pull(jnp.cos(found))

        actual, expected = (jax.jit(run, static_argnums=0)(of) for of in (gate_values, convolution))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
