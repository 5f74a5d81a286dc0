"""The Fourier basis against quadrature, and what a memory on it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import Basis, FourierBasis, expectation, fourier_basis
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import GaussianDensity, SparsemaxDensity
from tests import golden, oracle

N, L = 9, 32
WAVES = {"num_basis": N, "functions": "fourier", "padding": False}


def trapezoid(values, step):
    """∫ over equal steps of the first axis."""
    return (values[:-1] + values[1:]).sum(0) * step / 2


def test_functions_by_hand():
    """1, cos and sin of the periods 1 and ½, at an eighth; a period later they are the same."""
    basis, root = fourier_basis(5), np.sqrt(0.5)
    assert isinstance(basis, Basis)
    np.testing.assert_allclose(basis.evaluate(0.125), [1, root, 0, root, 1], atol=1e-15)
    np.testing.assert_allclose(basis.evaluate(1.125), [1, root, 0, root, 1], atol=1e-14)
    np.testing.assert_array_equal(fourier_basis(1).evaluate(np.array([0.3, 2.0])), [[1], [1]])
    single = basis.evaluate(jnp.linspace(0, 1, 7, dtype=jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, basis.evaluate(np.linspace(0, 1, 7)), atol=3e-6)


def test_waves_are_those_of_the_published_basis():
    """Values and integrals over [a, b] of sines and cosines of any frequency."""
    arrays = golden.load("a_basis")
    basis, t = FourierBasis(arrays["omega"]), arrays["t"][:, 0]
    _, cosine, sine = np.split(basis.evaluate(t), [1, 1 + len(arrays["omega"])], axis=1)
    np.testing.assert_allclose(cosine, arrays["cosine_evaluate"], atol=1e-12)
    np.testing.assert_allclose(sine, arrays["sine_evaluate"], atol=1e-12)
    for row, edges in enumerate(np.concatenate([arrays["a"], arrays["b"]], axis=1)):
        whole, cosine, sine = np.split(basis.integral(edges)[0], [1, 1 + len(arrays["omega"])])
        assert whole[0] == edges[1] - edges[0]
        np.testing.assert_allclose(cosine, arrays["cosine_integrate_psi"][row], atol=1e-12)
        np.testing.assert_allclose(sine, arrays["sine_integrate_psi"][row], atol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.75, 1.0])
def test_products_are_integrals(tau):
    """Also where a squeezed wave has the frequency of another one. τ = 1: orthogonal."""
    basis, t = fourier_basis(N), np.linspace(0, tau, 20_001)
    values = basis.evaluate(t)[:, :, None] * basis.evaluate(t / tau)[:, None, :]
    np.testing.assert_allclose(basis.products(tau), trapezoid(values, t[1]), atol=1e-6)
    if tau == 1:
        expected = np.diag([1.0] + [0.5] * (N - 1))
        np.testing.assert_allclose(basis.products(tau), expected, atol=1e-15)


def test_expectations_are_integrals():
    """Under Gaussian densities and under those that end, narrow and wide ones."""
    basis = fourier_basis(N)
    for mean, var in [(0.3, 1e-6), (0.0, 0.01), (0.8, 0.5)]:
        t, step = np.linspace(-10, 11, 2_100_001, retstep=True)
        t = t if var > 1e-3 else mean + (t - 0.5) * 1e-3
        step = step if var > 1e-3 else step * 1e-3
        expected = trapezoid(oracle.normal(t, mean, var)[:, None] * basis.evaluate(t), step)
        at = np.float64(mean), np.float64(var)
        np.testing.assert_allclose(expectation(basis, *at), expected, atol=1e-9)
        np.testing.assert_allclose(
            basis.expectation(SparsemaxDensity(*at)),
            oracle.sparsemax_integral(basis.evaluate, mean, var, 2_000),
            atol=1e-11,
        )


def test_expectations_on_the_device_keep_their_dtype():
    """Float32 beside float64, for as many functions as a memory may have."""
    basis, rng = fourier_basis(513), np.random.default_rng(0)
    mean, var = rng.random((2, 3)), np.exp(rng.uniform(-14, 0, (2, 3)))
    for kind in (GaussianDensity, SparsemaxDensity):
        single = basis.expectation(kind(*(jnp.asarray(x, jnp.float32) for x in (mean, var))))
        assert single.dtype == jnp.float32
        # The phase 2π·256·μ is known to a rounding of μ: 1e-4.
        np.testing.assert_allclose(single, basis.expectation(kind(mean, var)), atol=2e-4)


def written(cfg, *segments):
    """The memory of one row after these segments [L, E], in float64."""
    with jax.enable_x64(True):
        memory = long_term.init(cfg, 1, segments[0].shape[1], jnp.float64)
        for x in segments:
            memory = long_term.write(cfg, memory, jnp.asarray(x)[None])
        return jax.tree.map(np.asarray, memory)


def times(length=L):
    return (np.arange(length) + 0.5) / length


def test_a_ridge_of_points_shrinks_each_wave_by_hand():
    """F Fᵀ is L, or L/2 of each wave: a coefficient is `n/(n + λ)` of what was written."""
    wave = np.sin(2 * np.pi * 3 * times())
    memory = written(LongTermConfig(**WAVES, ridge=0.5), np.stack([np.ones(L), wave], 1))
    expected = np.zeros((N, 2))
    expected[0, 0], expected[1 + N // 2 + 2, 1] = L / (L + 0.5), L / (L + 1)
    np.testing.assert_allclose(memory.coeffs[0], expected, atol=1e-14)


def test_intervals_keep_a_wave_and_shrink_it_by_nothing_but_the_steps():
    """L vectors of a wave are a step function: its projection is `sinc(k/L)` of the wave."""
    wave = np.cos(2 * np.pi * 3 * times())
    memory = written(LongTermConfig(**WAVES, fit="intervals"), wave[:, None])
    expected = np.zeros((N, 1))
    expected[3, 0] = np.sinc(3 / L)
    np.testing.assert_allclose(memory.coeffs[0], expected, atol=1e-14)


@pytest.mark.parametrize("contraction", [{"tau": 0.6}, {"contraction": "power"}])
def test_intervals_reproduce_constants_and_conserve_the_mean(contraction):
    """For ever: the constant's coefficient is the mean, each part by its share of the time."""
    cfg = LongTermConfig(**WAVES, fit="intervals", **contraction)
    rng = np.random.default_rng(0)
    segments = [np.stack([np.ones(L), rng.normal(size=L)], 1) for _ in range(6)]
    memory, mean = written(cfg, *segments), segments[0][:, 1].mean()
    for k, x in enumerate(segments[1:], 1):
        mean = cfg.tau_of(k) * mean + (1 - cfg.tau_of(k)) * x[:, 1].mean()
    np.testing.assert_allclose(memory.coeffs[0, :, 0], np.eye(N)[0], atol=1e-13)
    np.testing.assert_allclose(memory.coeffs[0, 0, 1], mean, rtol=1e-12)


def test_a_squeezed_signal_is_the_nearest_one():
    """A further write is the least-squares fit of the old signal squeezed and the new steps."""
    cfg, rng = LongTermConfig(**WAVES, fit="intervals", tau=0.6), np.random.default_rng(0)
    first, second = rng.normal(size=(2, L, 1))
    before, after = written(cfg, first), written(cfg, first, second)
    t = times(40_000)
    steps = second[np.clip((t - 0.6) / 0.4 * L, 0, L - 1).astype(int)]
    old = cfg.basis.evaluate(t / 0.6) @ before.coeffs[0]
    target = np.where(t[:, None] < 0.6, old, steps)
    expected = np.linalg.lstsq(cfg.basis.evaluate(t), target, rcond=None)[0]
    np.testing.assert_allclose(after.coeffs[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("num_basis", {"num_basis": 8}),
        ("padding", {"padding": True}),
        ("widths", {"widths": (0.1,)}),
        ("ridge", {"fit": "intervals", "ridge": 0.5}),
    ],
)
def test_what_waves_cannot_be_is_refused(name, change):
    """One line: option, found, accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: ") as caught:
        LongTermConfig(**WAVES | change)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="whole_line: found True, accepted: False"):
        fourier_basis(N).products(1.0, whole_line=True)
