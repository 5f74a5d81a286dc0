"""A signal on fewer basis functions reads as the signal that it stands for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import basis, long_term
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.read import expected_value
from inf_former_jax.memory.reading_basis import reading_basis, to_reading_basis
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.memory_read import located
from tests.golden import relative_error

# Of widths .05 and .4, 93 functions each: in float64 the narrow ones stay, of the wide ones 45 do.
N, WIDTHS = 186, (0.05, 0.4)


def memory_on(num_basis, widths):
    return LongTermConfig(num_basis=num_basis, widths=widths)


def derivatives(functions, mean, var):
    """E_p[ψ] [T, N] and its derivatives by μ and by σ², in float64."""
    r = basis.expectation(functions, mean, var)
    v, delta = var[:, None] + functions.scale**2, functions.loc - mean[:, None]
    return r, r * delta / v, 0.5 * r * (delta**2 / v - 1) / v


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "widths"), [(N, WIDTHS), (512, (0.01, 0.05)), (256, (0.3,))])
def test_each_expectation_is_a_sum_of_those_that_stand_for_it(n, widths, dtype):
    """To an eighth of the dtype's rounding of the largest one; its derivatives to 3 of it.

    In and beside [0, 1], by wide and narrow densities. All in float64: what is tested is the
    formula and its step, not how float32 rounds. (Float64's own exponents, of up to 1,000, are some
    ten roundings off.)
    """
    to, own = reading_basis(memory_on(n, widths), dtype), basis.gaussian_basis(n, widths)
    rng = np.random.default_rng(0)
    mean, var = rng.uniform(-0.2, 1.2, 2000), np.exp(rng.uniform(-18, 0, 2000))
    one_signal_each = np.eye(n)[None]
    with jax.enable_x64(True):
        weights = np.asarray(to_reading_basis(to, one_signal_each)[0])  # [R, N]
    assert (weights >= 0).all() and len(to.functions.loc) <= 0.75 * n
    # The largest of each function, at its own place, by the narrowest density there.
    apart = np.linspace(-3, 3, 61)[:, None] * own.scale
    place, narrow = (own.loc + apart).ravel(), np.full(apart.size, np.exp(-18))
    columns = np.arange(apart.size), np.tile(np.arange(n), len(apart))
    largest = [
        np.abs(values[columns]).reshape(apart.shape).max(0)
        for values in derivatives(own, place, narrow)
    ]
    found, expected = (derivatives(psi, mean, var) for psi in (to.functions, own))
    for a, b, size, allowed in zip(found, expected, largest, (1 / 8, 3, 3), strict=True):
        error = (np.abs(a @ weights - b).max(0) / size).max()
        assert error < (allowed if dtype == np.float32 else 32) * np.finfo(dtype).eps


def test_how_many_stand_for_the_papers():
    """217 for the 256 narrow functions, 58 for the wide ones; as many for twice as many."""
    for n in (512, 1024):
        to = reading_basis(memory_on(n, (0.01, 0.05)), np.float32)
        assert [weights.shape for weights in to.weights] == [(n // 2, 217), (n // 2, 58)]
    in_float64 = reading_basis(memory_on(512, (0.01, 0.05)), np.float64)
    assert in_float64.weights[0] is None, "more than 256"
    assert len(in_float64.functions.loc) == 256 + 93


@pytest.mark.parametrize(
    ("n", "widths"), [(512, (0.005, 0.01)), (128, (0.01, 0.05)), (8, (0.1, 0.3)), (64, (0.0078,))]
)
def test_what_does_not_pay_stays(n, widths):
    """GPT-2's widths ask for 460 of 512; the others' functions are already far apart."""
    to = reading_basis(memory_on(n, widths), np.float32)
    assert to.weights is None
    assert to.functions.loc.shape == (n,)


def test_a_memory_is_read_as_by_its_own_basis():
    """The context, and its gradients by parameters, queries and coefficients, in float64."""
    cfg = LongTermConfig(num_basis=N, widths=WIDTHS, num_samples=8, gate=False)
    assert reading_basis(cfg, np.float64).weights is not None
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        coeffs, q = (jnp.asarray(rng.normal(size=s)) for s in ((2, N, 6), (2, 3, 5, 2)))
        layer, writes = LongTermAttention(cfg), jnp.array([1, 2])
        memory = long_term.init(cfg, 2, 6, jnp.float64)._replace(writes=writes)
        drawn = jax.jit(layer.init)(jax.random.key(0), q, memory)["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), drawn)

        def ours(params, q, coeffs):
            return layer.apply({"params": params}, q, memory._replace(coeffs=coeffs))[0]

        def by_all(params, q, coeffs):
            weights = params["read"]
            values = jnp.einsum("bne,ehk->bhnk", coeffs, weights["value"])
            projections = (weights[name] for name in ("key", "mu", "sigma"))
            density = located.density(cfg, q, located.reduced_keys(coeffs, *projections))
            z = expected_value(cfg.basis, density, values)
            return jnp.einsum("bhtk,hke->bte", z, weights["out"])

        @partial(jax.jit, static_argnums=0)
        def run(function, *arguments):
            context, pull = jax.vjp(function, *arguments)
            return context, pull(jnp.cos(context))

        results = (jax.tree.leaves(run(f, params, q, coeffs)) for f in (ours, by_all))
        for a, b in zip(*results, strict=True):
            assert relative_error(a, b) < 1e-12
