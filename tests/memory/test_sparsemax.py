"""Continuous sparsemax against quadrature of the truncated parabola, in float64 and float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from inf_former_jax.memory.basis import GaussianBasis, gaussian_basis, rectangular_basis
from inf_former_jax.memory.density import SparsemaxDensity, bin_mass, interval_sum
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.read import expected_value
from inf_former_jax.memory.reading_basis import reading_basis, to_reading_basis
from tests import oracle

# Densities that lie wholly in [0, 1] and beyond its ends, from narrow to wide.
MEAN = np.array([0.5, 0.0, 1.0, 0.31, 0.7])
VAR = np.array([1e-2, 1e-6, 0.7, 1e-9, 1e-4])


def test_distribution_function_is_the_integral():
    """0 before the support, 1 behind it, and quadrature between; also at infinite edges."""
    density, edges = SparsemaxDensity(MEAN, VAR), np.linspace(-0.2, 1.2, 29)
    below = density.below(np.concatenate([[-np.inf], edges, [np.inf]]))
    np.testing.assert_array_equal(below[:, [0, -1]], np.tile([0.0, 1.0], (5, 1)))
    for one, mean, var in zip(below[:, 1:-1], MEAN, VAR, strict=True):
        step = oracle.sparsemax_integral(lambda t: t[:, None] <= edges, mean, var, 20_000)
        np.testing.assert_allclose(one, step, atol=2e-4)
    np.testing.assert_allclose(np.diag(density.below(MEAN)), 0.5, rtol=1e-12)


def test_derivative_of_the_distribution_function_is_the_density():
    """In float64, at times in and outside of the support."""
    t = np.linspace(-0.4, 1.4, 37)
    with jax.enable_x64(True):
        density = SparsemaxDensity(jnp.asarray(0.4), jnp.asarray(0.05))
        slope = jax.vmap(jax.grad(lambda t: density.below(t[None])[0]))(jnp.asarray(t))
    np.testing.assert_allclose(slope, oracle.sparsemax(t, 0.4, 0.05), atol=1e-12)


def test_expectations_on_both_bases_are_integrals():
    """In float64, by functions narrower and wider than the density."""
    density = SparsemaxDensity(MEAN, VAR)
    gaussian, cells = gaussian_basis(12, (0.01, 0.1, 2.0)), rectangular_basis(7)
    for b, (mean, var) in enumerate(zip(MEAN, VAR, strict=True)):
        expected = oracle.sparsemax_integral(gaussian.evaluate, mean, var, 2_000)
        actual = gaussian.expectation(density)[b]
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
        mass = oracle.sparsemax_integral(cells.evaluate, mean, var, 20_000)
        np.testing.assert_allclose(cells.expectation(density)[b], mass, atol=2e-4)
    inside = density.below(np.array([1.0]))[:, 0] - density.below(np.array([0.0]))[:, 0]
    np.testing.assert_allclose(cells.expectation(density).sum(-1), inside, rtol=1e-12)


def test_waves_are_integrals():
    """From a frequency that no density resolves to one with 100 periods in the support."""
    frequency = np.concatenate([[0.0], 2 * np.pi * np.geomspace(1e-3, 100, 41)])
    cosine, sine = SparsemaxDensity(MEAN, VAR).waves(frequency)
    for b, (mean, var) in enumerate(zip(MEAN, VAR, strict=True)):
        for actual, wave in ((cosine, np.cos), (sine, np.sin)):
            expected = oracle.sparsemax_integral(
                lambda t, wave=wave: wave(t[:, None] * frequency), mean, var, 2_000
            )
            np.testing.assert_allclose(actual[b], expected, atol=1e-11)


@pytest.mark.parametrize("ratio", np.geomspace(1e-3, 1e3, 13))
def test_float32_keeps_its_digits_whatever_the_widths(ratio):
    """Of a density `ratio` times as wide as the function, at every distance: value and gradient.

    Errors are shares of the largest value at any distance. Float64 by the same function has a
    border of its own between closed form and quadrature, and is held against the integrals above.
    """
    scale = 0.01
    half_width = ratio * scale
    ends = np.linspace(-8, 8, 161) * scale
    away = np.concatenate([half_width + ends, -half_width + ends, ends]).astype(np.float32)
    var = float(np.float32(half_width**3 / 1.5))
    basis = GaussianBasis(np.zeros(1), np.full(1, scale))

    def moments(mean):
        density = SparsemaxDensity(mean, jnp.full_like(mean, var))
        value, pull = jax.vjp(lambda p: basis.expectation(p)[:, 0], density)
        return value, *pull(jnp.ones_like(value))[0]

    single = jax.jit(moments)(jnp.asarray(away))
    with jax.enable_x64(True):
        double = map(np.asarray, jax.jit(moments)(jnp.asarray(away, jnp.float64)))
    assert {leaf.dtype for leaf in single} == {jnp.dtype(jnp.float32)}
    errors = [
        np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        for a, b in zip(single, double, strict=True)
    ]
    # What is read of a density much narrower than the function hardly depends on its width. Where
    # one much wider ends is known to a rounding of its own width, and not of the function's.
    ends = 5e-8 * ratio
    assert (np.array(errors) < [1e-6, max(2e-6, ends), max(2e-5, 2e-7 / ratio, ends)]).all()


@pytest.mark.parametrize("var", [1e-7, 1e-4, 1e-3, 0.1])
def test_gradients_are_those_of_finite_differences(var):
    """In float64: by quadrature, by the closed form, and of waves and masses.

    Differences are taken in units of the density's own width.
    """
    width = np.cbrt(1.5 * var)
    edges = 0.3 + width * np.array([-2.0, -0.5, 0.3, 0.9])
    functions, frequency = gaussian_basis(6, (0.05, 0.3)), 2 * np.pi * np.arange(1.0, 4.0)

    def check(of):
        def in_widths(shift, factor):
            return of(SparsemaxDensity(0.3 + width * shift, var * factor))

        check_grads(in_widths, (jnp.zeros(2), jnp.array([1.0, 1.2])), 1, eps=1e-5)

    with jax.enable_x64(True):
        check(functions.expectation)
        check(lambda p: p.waves(frequency))
        check(lambda p: p.below(edges))


def test_sums_masses_and_parts():
    """Sums over heads and queries that count, bins, and the densities of some heads."""
    rng = np.random.default_rng(0)
    mean, var = rng.random((2, 3, 4)), np.exp(rng.uniform(-9, -2, (2, 3, 4)))
    density = SparsemaxDensity(*(jnp.asarray(field, jnp.float32) for field in (mean, var)))
    where = np.array([[1, 1, 0, 1], [0, 0, 0, 1]], bool)
    edges = np.linspace(0, 1, 9)
    expected = np.where(where[:, None, :, None], SparsemaxDensity(mean, var).below(edges), 0)
    found = density.sums_below(edges, where)
    np.testing.assert_allclose(found, expected.sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        interval_sum(density, edges, where), np.diff(expected).sum((1, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(bin_mass(density, 8, where).sum(-1), 1, rtol=1e-6)
    part = density.part(slice(1, 3), slice(2))
    np.testing.assert_array_equal(part.mean, np.asarray(density.mean)[:, 1:3, :2])
    np.testing.assert_array_equal(part.var, np.asarray(density.var)[:, 1:3, :2])


def test_fewer_functions_read_as_all_of_them():
    """What a wide function is a sum of does not depend on the density that reads it."""
    cfg = LongTermConfig(num_basis=186, widths=(0.05, 0.4), density="sparsemax")
    fewer = reading_basis(cfg, np.float32)
    assert fewer.size < 0.75 * cfg.num_basis
    rng = np.random.default_rng(0)
    density = SparsemaxDensity(rng.uniform(size=200), np.exp(rng.uniform(-14, 0, 200)))
    with jax.enable_x64(True):
        weights = np.asarray(to_reading_basis(fewer, np.eye(cfg.num_basis)[None])[0])
    found = fewer.functions.expectation(density) @ weights
    expected = cfg.basis.expectation(density)
    error = np.abs(found - expected).max(0) / np.abs(expected).max(0)
    assert error.max() < np.finfo(np.float32).eps / 8


@pytest.mark.parametrize(
    "functions", [gaussian_basis(8, (0.02, 0.2)), rectangular_basis(8)], ids=["gaussian", "cells"]
)
def test_a_read_in_chunks_is_plain_autodiff(functions):
    """In float64, with chunks that do not divide the queries."""
    rng = np.random.default_rng(0)
    shape = (2, 2, 7)
    with jax.enable_x64(True):
        mean, var = jnp.asarray(rng.random(shape)), jnp.asarray(np.exp(rng.uniform(-9, 0, shape)))
        values = jnp.asarray(rng.normal(size=(2, 2, 8, 3)))
        cotangent = rng.normal(size=(2, 2, 7, 3))

        def plain(density, values):
            return jnp.einsum("bhtn,bhnk->bhtk", functions.expectation(density), values)

        def run(read):
            z, pull = jax.vjp(read, SparsemaxDensity(mean, var), values)
            return z, pull(jnp.asarray(cotangent))

        in_chunks = jax.jit(partial(run, partial(expected_value, functions, chunk=3)))()
        at_once = jax.jit(partial(run, plain))()
        for a, b in zip(*map(jax.tree.leaves, (in_chunks, at_once)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
