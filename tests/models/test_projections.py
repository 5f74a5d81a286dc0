"""Products of vectors with a matrix: the values and gradients of an einsum, in any dtype."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models.projections import exact_dot, from_heads, product, to_heads


def random(*shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("width", [2, 5, 9], ids=["narrower", "as wide", "wider"])
def test_it_is_an_einsum_and_so_is_its_gradient(width, transposed):
    kernel_axes = "fe" if transposed else "ef"
    with jax.enable_x64(True):
        x, cotangent = random(3, 4, 5), random(3, 4, width)
        kernel = random(*((width, 5) if transposed else (5, width)))
        found, pull = jax.vjp(lambda *factors: product(*factors, transposed=transposed), x, kernel)
        equation = f"bte,{kernel_axes}->btf"
        expected, plain = jax.vjp(lambda *factors: jnp.einsum(equation, *factors), x, kernel)
        parts = zip((found, *pull(cotangent)), (expected, *plain(cotangent)), strict=True)
        for part, whole in parts:
            np.testing.assert_allclose(part, whole, rtol=1e-13, atol=1e-13)


def test_heads_are_einsums():
    with jax.enable_x64(True):
        x, kernel, bias, out = random(2, 3, 4), random(4, 2, 5), random(2, 5), random(2, 5, 4)
        heads = to_heads(x, kernel, bias)
        expected = jnp.einsum("bte,ehk->hbtk", x, kernel) + bias[:, None, None]
        np.testing.assert_allclose(heads, expected, rtol=1e-13, atol=1e-13)
        expected = jnp.einsum("hbtk,hke->bte", heads, out)
        np.testing.assert_allclose(from_heads(heads, out), expected, rtol=1e-13, atol=1e-13)


def test_sums_of_narrow_factors_are_wide():
    """300 × 1 + 300 × 1/256 is 301.17; bfloat16, which has 8 bits, would stay at 256."""
    x = jnp.concatenate([jnp.ones((1, 300)), jnp.full((1, 300), 1 / 256)], axis=1)
    x, kernel = x.astype(jnp.bfloat16), jnp.ones((600, 1), jnp.bfloat16)
    found, pull = jax.vjp(lambda *factors: exact_dot(*factors, None), x, kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 300 + 300 / 256, rtol=1e-6)
    by_x, by_kernel = pull(jnp.ones_like(found))
    assert by_x.dtype == by_kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(by_kernel.astype(jnp.float32), x.T.astype(jnp.float32))


@pytest.mark.parametrize("transposed", [False, True])
def test_half_precision_is_rounded_once(transposed):
    """Results and gradients of bfloat16 factors are those of float32, rounded.

    No factor is transposed before a product, and each asks for float32: else a CPU's unit for
    bfloat16 is left unused.
    """
    x, cotangent = (random(*shape, dtype=jnp.bfloat16) for shape in ((40, 300), (40, 7)))
    kernel = random(*((7, 300) if transposed else (300, 7)), dtype=jnp.bfloat16)
    whole = partial(product, transposed=transposed)

    def run(x, kernel, cotangent):
        found, pull = jax.vjp(whole, x, kernel)
        return found, *pull(cotangent)

    factors = [part.astype(jnp.float32) for part in (x, kernel, cotangent)]
    for part, exact in zip(run(x, kernel, cotangent), run(*factors), strict=True):
        assert part.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
        np.testing.assert_array_equal(part, exact.astype(jnp.bfloat16))
    equations = jax.make_jaxpr(run)(x, kernel, cotangent).jaxpr.eqns
    (forward,) = [one for one in equations if one.primitive.name == "custom_vjp_call"]
    equations = [*equations, *forward.params["call_jaxpr"].eqns]
    products = [one for one in equations if one.primitive.name == "dot_general"]
    turned = [one.outvars[0] for one in equations if one.primitive.name == "transpose"]
    assert len(products) == 3
    for one in products:
        assert one.params["preferred_element_type"] == jnp.float32
        assert not any(factor in turned for factor in one.invars)
