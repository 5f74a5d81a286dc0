"""Continuous Hopfield retrieval: the discrete network, its energy, and what it finds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from inf_former_jax.memory import long_term
from inf_former_jax.memory.hopfield import hopfield
from inf_former_jax.memory.long_term import LongTermConfig

B, L, E, T = 2, 12, 16, 5
CELLS = LongTermConfig(num_basis=L, functions="rectangular", fit="intervals")
GAUSSIAN = LongTermConfig(
    num_basis=6, widths=(0.1,), ridge=0.01, padding=False, density="gibbs", cells=40
)
WAVES = LongTermConfig(num_basis=7, functions="fourier", padding=False, density="gibbs", cells=40)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def patterns():
    """Of length 1, and queries near the first T of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, L, E))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x, x[:, :T] + 0.1 * rng.normal(size=(B, T, E))


def written(cfg, x):
    return long_term.write(cfg, long_term.init(cfg, B, E, jnp.float64), jnp.asarray(x))


@pytest.mark.parametrize("beta", [0.5, 30.0])
def test_one_pattern_a_cell_is_the_discrete_network(beta):
    """`ξ ← Xᵀ softmax(β X ξ)`, by loops over rows, queries and steps."""
    x, query = patterns()
    actual = hopfield(CELLS, written(CELLS, x).coeffs, query, beta=beta, steps=3)
    for b, t in np.ndindex(B, T):
        state = query[b, t]
        for _ in range(3):
            weights = np.exp(beta * x[b] @ state)
            state = weights @ x[b] / weights.sum()
        np.testing.assert_allclose(actual[b, t], state, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cfg", [GAUSSIAN, WAVES], ids=["gaussian", "waves"])
def test_a_step_is_the_expected_signal(cfg):
    """By sums over R cells of the signal at their middles."""
    x, query = patterns()
    memory = written(cfg, x)
    signal = np.asarray(long_term.signal(cfg, memory, (np.arange(40) + 0.5) / 40))
    weights = np.exp(4.0 * query @ signal.swapaxes(1, 2))
    expected = weights @ signal / weights.sum(-1, keepdims=True)
    actual = hopfield(cfg, memory.coeffs, query, beta=4.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("cfg", [CELLS, GAUSSIAN, WAVES], ids=["cells", "gaussian", "waves"])
def test_no_step_raises_the_energy_and_the_end_is_a_fixed_point(cfg):
    """From queries far from any pattern. The gradient of the energy is 0 at the end."""
    beta, memory = 5.0, written(cfg, patterns()[0])
    cells = L if cfg is CELLS else 40
    signal = long_term.signal(cfg, memory, (np.arange(cells) + 0.5) / cells)

    def energy(state):
        scores = beta * jnp.einsum("bte,bre->btr", state, signal)
        free = jax.scipy.special.logsumexp(scores, axis=-1) - np.log(cells)
        return 0.5 * (state**2).sum(-1) - free / beta

    step = jax.jit(partial(hopfield, cfg, beta=beta))
    state = 3 * np.random.default_rng(1).normal(size=(B, T, E))
    energies = [energy(state)]
    for _ in range(40):
        state = step(memory.coeffs, state)
        energies.append(energy(state))
    assert (np.diff(energies, axis=0) <= 1e-14).all()
    assert (energies[1] < energies[0]).all()
    again = hopfield(cfg, memory.coeffs, state, beta=beta, steps=300)
    np.testing.assert_allclose(step(memory.coeffs, again), again, atol=1e-9)
    slope = jax.grad(lambda state: energy(state).sum())(again)
    np.testing.assert_allclose(slope, 0, atol=1e-9)


def test_a_large_beta_finds_the_pattern_and_a_small_one_the_mean():
    """From a query beside the pattern; 0 steps return the query."""
    x, query = patterns()
    coeffs = written(CELLS, x).coeffs
    np.testing.assert_allclose(
        hopfield(CELLS, coeffs, query, beta=100.0, steps=3), x[:, :T], atol=1e-9
    )
    mean = np.broadcast_to(x.mean(1, keepdims=True), query.shape)
    np.testing.assert_allclose(hopfield(CELLS, coeffs, query, beta=1e-9), mean, atol=1e-8)
    np.testing.assert_array_equal(hopfield(CELLS, coeffs, query, beta=1.0, steps=0), query)


def test_its_gradient_is_that_of_finite_differences():
    """By the coefficients, the query and β, through two steps."""
    x, query = patterns()

    def run(coeffs, query, beta):
        return hopfield(CELLS, coeffs, query, beta=beta, steps=2)

    arguments = written(CELLS, x).coeffs, jnp.asarray(query), jnp.asarray(3.0)
    check_grads(run, arguments, order=1, modes=["rev"], eps=1e-6)


def test_what_does_not_fit_is_refused():
    x, query = patterns()
    with pytest.raises(ValueError, match=r"^coeffs: found \(2, 11, 16\), accepted: N = 12"):
        hopfield(CELLS, x[:, 1:], query, beta=1.0)
    with pytest.raises(ValueError, match=r"^steps: found -1, accepted: "):
        hopfield(CELLS, x, query, beta=1.0, steps=-1)
