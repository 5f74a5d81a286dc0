"""Ridge regression against the naive oracle and the figures of SPEC, and what it must refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import basis, regression
from tests import oracle
from tests.golden import relative_error

WIDTHS = (0.02, 0.1)


def settings(**changes):
    values = {"num_basis": 8, "widths": WIDTHS, "ridge": 0.5, "tau": 0.6, "num_samples": 12}
    return oracle.MemorySettings(**(values | changes))


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("length", [1, 7, 8, 33])
def test_first_fit_operator(length, padding):
    """Odd and even lengths, with and without padding."""
    cfg = settings(padding=padding)
    zeros = regression.first_fit_padding(length) if padding else ()
    made = regression.ridge_operator(
        basis.gaussian_basis(8, WIDTHS), regression.first_fit_times(length), 0.5, zeros
    )
    assert relative_error(made, oracle.first_fit_operator(cfg, length)) < 1e-10


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("length, samples", [(8, 12), (7, 12), (7, 5)])
def test_write_operator(length, samples, padding):
    """Even and odd L + M."""
    cfg = settings(padding=padding, num_samples=samples)
    past, new = regression.write_times(cfg.tau, samples, length)
    zeros = regression.write_padding(samples, length) if padding else ()
    times = np.concatenate([past, new])
    made = regression.ridge_operator(basis.gaussian_basis(8, WIDTHS), times, 0.5, zeros)
    assert relative_error(made, oracle.write_operator(cfg, length)) < 1e-10


def test_without_ridge_the_fit_interpolates():
    """λ = 0 with as many vectors as functions: the signal passes through them."""
    made, times = basis.gaussian_basis(6, (0.2,)), regression.first_fit_times(6)
    x = np.random.default_rng(0).normal(size=(6, 2))
    coeffs = regression.ridge_operator(made, times, 0.0).T @ x
    np.testing.assert_allclose(basis.evaluate(made, times) @ coeffs, x, rtol=1e-6)


@pytest.mark.parametrize("ridge", [-1.0, float("nan")])
def test_negative_ridge_is_refused(ridge):
    """Also NaN, which no comparison catches by accident."""
    with pytest.raises(ValueError, match=r"ridge: found (-1.0|nan), accepted: a number ≥ 0"):
        regression.ridge_operator(basis.gaussian_basis(4, WIDTHS), np.arange(3) / 3, ridge)


def test_fit_equals_the_operator_and_vmaps():
    """In-graph Cholesky in float64 against the host's operator, row by row."""
    made, times = basis.gaussian_basis(8, WIDTHS), regression.first_fit_times(20)
    x = np.random.default_rng(0).normal(size=(3, 20, 2))
    expected = regression.ridge_operator(made, times, 0.5).T @ x
    with jax.enable_x64(True):
        fit = jax.jit(jax.vmap(lambda x: regression.fit(made, times, x, 0.5)))
        assert relative_error(fit(jnp.asarray(x)), expected) < 1e-12
        of_times = jax.jit(lambda t, x: regression.fit(made, t, x, 0.5))
        assert relative_error(of_times(jnp.asarray(times), jnp.asarray(x[0])), expected[0]) < 1e-12


@pytest.mark.parametrize(
    "num_basis, ridge, refused",
    [(512, 1.0, False), (512, 0.5, False), (512, 1e-2, True), (256, 1e-2, True)],
)
def test_fit_refuses_what_float32_cannot_hold(num_basis, ridge, refused):
    """λ = .01 puts G off by 25 % at N = 256 without any NaN: an estimate has to see it."""
    made, times = basis.gaussian_basis(num_basis, (0.01, 0.05)), regression.first_fit_times(1024)
    t = np.linspace(0, 1, 1024)[:, None]
    x = np.sin(6 * np.pi * t).astype(np.float32)
    if refused:
        with pytest.raises(ValueError, match=r"ridge: found 0\.01 with N="):
            regression.fit(made, times, x, ridge)
        return
    coeffs = regression.fit(made, times, x, ridge)
    expected = regression.ridge_operator(made, times, ridge).T @ x
    signals = [basis.evaluate(made, times) @ np.asarray(c, np.float64) for c in (coeffs, expected)]
    assert relative_error(*signals) < 1e-3


def test_the_paper_basis_keeps_a_sine_and_loses_noise():
    """SPEC §1: relative error .002 of three periods of a sine, .94 of white noise."""
    made, times = basis.gaussian_basis(512, (0.01, 0.05)), regression.first_fit_times(1024)
    noise = np.random.default_rng(0).normal(size=1024)
    x = np.stack([np.sin(6 * np.pi * times), noise], axis=1)
    g = regression.ridge_operator(made, times, 1.0, regression.first_fit_padding(1024))
    error = basis.evaluate(made, times) @ (g.T @ x) - x
    relative = np.linalg.norm(error, axis=0) / np.linalg.norm(x, axis=0)
    assert relative[0] == pytest.approx(0.002, abs=5e-4)
    assert relative[1] == pytest.approx(0.94, abs=0.01)


@pytest.mark.parametrize(
    "num_basis, widths, data, padded",
    [(512, (0.01, 0.05), 112, 119), (1024, (0.01, 0.05), 115, 123), (512, (0.005, 0.01), 224, 230)],
)
def test_degrees_of_freedom_are_the_figures_of_spec(num_basis, widths, data, padded):
    """SPEC §1: of 1,024 tokens, and counting the padding too."""
    made = basis.gaussian_basis(num_basis, widths)
    times, zeros = regression.first_fit_times(1024), regression.first_fit_padding(1024)
    assert round(regression.degrees_of_freedom(made, times, 1.0, zeros)) == data
    assert round(regression.degrees_of_freedom(made, np.concatenate([times, zeros]), 1.0)) == padded


def test_degrees_of_freedom_are_the_shrunk_singular_values():
    """Σ s²/(s²+λ); without λ the rank; a padding takes some away."""
    made = basis.gaussian_basis(16, (0.1,))
    times = regression.first_fit_times(40)
    s2 = np.linalg.svd(basis.evaluate(made, times), compute_uv=False) ** 2
    without = regression.degrees_of_freedom(made, times, 0.3)
    assert without == pytest.approx((s2 / (s2 + 0.3)).sum())
    assert regression.degrees_of_freedom(made, times, 0.0) == pytest.approx(16)
    zeros = regression.first_fit_padding(40)
    assert regression.degrees_of_freedom(made, times, 0.3, zeros) < without - 1
