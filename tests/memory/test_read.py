"""The read that is recomputed in the backward pass, against plain autodiff and against keys."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from inf_former_jax.memory import basis, cpu_cache, long_term, read
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.memory_read import located
from tests import oracle
from tests.golden import relative_error

B, H, T, N, K, E = 2, 2, 7, 8, 3, 5
BASIS = basis.gaussian_basis(N, (0.05, 0.2))


def inputs():
    rng = np.random.default_rng(0)
    mean, var = rng.uniform(size=(B, H, T)), np.exp(rng.uniform(-8, 0, size=(B, H, T)))
    return mean, var, rng.normal(size=(B, H, N, K))


def plain(mean, var, values):
    """z = Σ_n E_p[ψ_n] V_n, all expectations at once, for autodiff."""
    return jnp.einsum("bhtn,bhnk->bhtk", basis.expectation(BASIS, mean, var), values)


def chunked(chunk):
    return lambda mean, var, values: read.expected_value(
        BASIS, GaussianDensity(mean, var), values, chunk
    )


@pytest.mark.parametrize(
    ("chunk", "size", "rows"),
    [(1, 4, 1), (3, 4, 1), (7, 4, 1), (128, 4, 1), (3, 2, 1), (7, 1, 1), (2, 1, 5), (2, 4, 5)],
)
def test_custom_vjp_is_autodiff(monkeypatch, chunk, size, rows):
    """Values and gradients in float64: chunks that do and do not divide T, heads by groups.

    With products of 5 rows at least: chunks of 2 for 4 heads at once, of 5 for one alone.
    """
    monkeypatch.setattr(read, "_ROWS", rows)
    monkeypatch.setattr(cpu_cache, "CACHE_NUMBERS", size * chunk * N)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in inputs()]
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(B, H, T, K)))
        results = []
        for function in (chunked(chunk), plain):

            def objective(*a, function=function):
                return (function(*a) * weights).sum()

            results.append(jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2)))(*arguments))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_a_head_alone_is_read_in_larger_chunks(monkeypatch):
    """7 queries by 2 are 4 chunks; of a head alone, whose products have 5 rows at least, 2.

    Loops: over 4 heads one by one, the chunks of each, and those of all heads at once.
    """
    monkeypatch.setattr(cpu_cache, "CACHE_NUMBERS", 2 * N)
    for rows, fours, twos in [(1, 3, 0), (5, 2, 1)]:
        monkeypatch.setattr(read, "_ROWS", rows)
        program = str(jax.make_jaxpr(chunked(2))(*inputs()))
        assert (program.count("length=4"), program.count("length=2")) == (fours, twos)


def test_custom_vjp_is_the_derivative(monkeypatch):
    """Finite differences, in reverse mode."""
    monkeypatch.setattr(read, "_ROWS", 1)
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(a) for a in inputs())
        check_grads(jax.jit(chunked(3)), arguments, order=1, modes=["rev"], rtol=1e-5, eps=1e-7)


def test_gradient_of_the_density_is_the_papers_covariance():
    """SPEC §2: dr/dθ = Cov_p(φ, ψ) with φ = (t, t²), θ = (μ/σ², -1/2σ²), by quadrature."""
    mean, var = 0.4, 0.03
    t = np.linspace(-2, 3, 100_001)
    p = oracle.normal(t, mean, var) * (t[1] - t[0])
    psi = basis.evaluate(BASIS, t)
    expected = [(p * phi) @ psi - (p @ phi) * (p @ psi) for phi in (t, t**2)]
    with jax.enable_x64(True):

        def of_theta(theta):
            var = -0.5 / theta[1]
            density = GaussianDensity(*(x.reshape(1, 1, 1) for x in (theta[0] * var, var)))
            return read.expected_value(BASIS, density, jnp.eye(N)[None, None])[0, 0, 0]

        theta = jnp.asarray([mean / var, -0.5 / var])
        actual = jax.jit(jax.jacrev(of_theta))(theta)
    np.testing.assert_allclose(actual.T, expected, rtol=1e-7, atol=1e-10)


def test_no_keys_is_keys():
    """w·(C W_K q) = q·(W_Kᵀ Cᵀ w): the densities equal those from N scores a query."""
    rng = np.random.default_rng(2)
    coeffs, key = rng.normal(size=(B, N, E)), rng.normal(size=(E, H, K))
    mu, sigma, q = rng.normal(size=N), rng.normal(size=N), rng.normal(size=(B, H, T, K))
    cfg = long_term.LongTermConfig(num_basis=N, widths=(0.05, 0.2), min_var=0.1)
    weights = {
        "proj_key.weight": key.reshape(E, H * K).T,
        "mu.weight": mu[None],
        "sigma.weight": sigma[None],
    }
    with jax.enable_x64(True):
        queries, *arguments = map(jnp.asarray, (q, coeffs, key, mu, sigma))
        keys = jax.jit(located.reduced_keys)(*arguments)
        actual = jax.jit(located.density, static_argnums=0)(cfg, queries, keys)
    settings = oracle.MemorySettings(N, (0.05, 0.2), 1.0, 0.75, 8, min_var=0.1)
    for b in range(B):
        mean, var = oracle.densities(settings, weights, coeffs[b], q[b])
        assert relative_error(actual.mean[b], mean) < 1e-12
        assert relative_error(actual.var[b], var) < 1e-12
    assert (np.asarray(actual.var) == 0.1).any(), "the smallest variance was never reached"


def test_read_and_write_at_paper_size_need_little_memory():
    """Compiled memory analysis, forward and backward: the literal form takes 1.2 GB."""
    cfg = long_term.LongTermConfig()
    module = LongTermAttention(cfg)
    memory = jax.eval_shape(lambda: long_term.init(cfg, 8, 300))
    x = jax.ShapeDtypeStruct((8, 1024, 300), jnp.float32)
    q = jax.ShapeDtypeStruct((8, 6, 1024, 50), jnp.float32)
    operators = jax.eval_shape(lambda: long_term.operators(cfg, 1024))

    def write_and_read(module, q, memory, x, operators):
        return module(q, module.write(memory, x, operators=operators))

    init = partial(module.init, method=write_and_read)
    params = jax.eval_shape(init, jax.random.key(0), q, memory, x, operators)

    def objective(params, q, memory, x, operators):
        context, _, info = module.apply(params, q, memory, x, operators, method=write_and_read)
        return (context**2).sum() + info["kl"].mean()

    step = jax.jit(jax.grad(objective, argnums=(0, 1)))
    analysis = step.lower(params, q, memory, x, operators).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 150e6
