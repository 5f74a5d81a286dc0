"""Densities, their KL, bin masses and locations against the oracle and hand-written tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import density
from inf_former_jax.memory.density import GaussianDensity
from tests import oracle

RNG = np.random.default_rng(0)


def random_density(shape=(2, 3, 5)):
    mean, var = RNG.uniform(size=shape), np.exp(RNG.uniform(-9, 0, size=shape))
    return GaussianDensity(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))


@pytest.mark.parametrize("prior_mean", [None, 0.4])
def test_kl_is_the_integral(prior_mean):
    """∫ p log(p/q) by quadrature; without a prior mean, q is centred at μ."""
    mean, var, scale = 0.3, 0.02, 0.2
    t = np.linspace(mean - 2, mean + 2, 200_001)
    p = oracle.normal(t, mean, var)
    q = oracle.normal(t, mean if prior_mean is None else prior_mean, scale**2)
    inside = p > 1e-200
    expected = (p[inside] * np.log(p[inside] / q[inside])).sum() * (t[1] - t[0])
    actual = density.kl(GaussianDensity(jnp.float32(mean), jnp.float32(var)), scale, prior_mean)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_kl_of_the_prior_is_zero():
    """An invariant: nothing to pay at the prior itself."""
    prior = GaussianDensity(jnp.float32(0.4), jnp.float32(0.25))
    assert abs(float(density.kl(prior, 0.5, 0.4))) < 1e-6


def test_bin_mass_is_the_oracles():
    """Float32 against the naive sum; padded queries do not count; rows sum to 1."""
    p, where = random_density(), np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
    for mask in (None, where):
        actual = jax.jit(density.bin_mass, static_argnums=1)(p, 16, mask)
        for b in range(2):
            mean, var = (np.asarray(field[b], float) for field in p)
            row = oracle.bin_mass(mean, var, 16, None if mask is None else mask[b])
            np.testing.assert_allclose(actual[b], row, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(actual.sum(-1), 1, rtol=1e-6)


def test_bin_mass_without_queries_is_zero():
    """No query, no salience; and no NaN."""
    mass = density.bin_mass(random_density(), 8, np.zeros((2, 5), bool))
    np.testing.assert_array_equal(mass, np.zeros((2, 8)))


def test_all_mass_in_one_bin():
    """A narrow density inside bin 2 of 4."""
    p = GaussianDensity(jnp.full((1, 1, 1), 0.6), jnp.full((1, 1, 1), 1e-6))
    np.testing.assert_allclose(density.bin_mass(p, 4), [[0, 0, 1, 0]], atol=1e-6)


def test_quantile_locations_by_hand():
    """Mass ¼ in [0, ½] and ¾ in [½, 1]: quantiles 1/8, 3/8, 5/8, 7/8, linear inside the bins."""
    salience = jnp.asarray([[0.25, 0.75]])
    expected = [[0.25, 0.5 + 1 / 12, 0.75, 0.5 + 5 / 12]]
    np.testing.assert_allclose(density.quantile_locations(salience, 4), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("salience", "samples", "bins"),
    [
        ([8, 0, 1, 1], 2, [0, 2]),  # 0.8 of it would be 1.6 of the 2 samples
        ([8, 0, 1, 1], 3, [0, 2, 3]),
        ([1, 6, 1, 6, 1, 1], 4, [0, 1, 3, 4]),  # ½ for each of the four others
        ([1, 1, 1, 1], 2, [0, 2]),
        ([0, 0, 0, 0], 2, [0, 2]),
        ([3, 2, 5, 1], 4, [0, 1, 2, 3]),
        ([0, 0, 5, 0], 2, [1, 2]),  # one full bin, and a third of one for each other
    ],
)
def test_distinct_bins_by_hand(salience, samples, bins):
    found = density.distinct_bins(jnp.asarray([salience], jnp.float32), samples)[0]
    np.testing.assert_array_equal(found, bins)


@pytest.mark.parametrize("count", [8, 64, 4096])
def test_distinct_bins_keep_what_has_most(count):
    """No bin has two samples, and those with more than their share have one each."""
    salience = RNG.exponential(size=(40, count)) ** 4
    salience[0], salience[1, : count - 3] = 1.0, 0.0
    salience[2:20] = RNG.integers(0, 3, (18, count))  # edges of bins on quantiles
    for samples in (1, 5, count // 2, 3 * count // 4, count - 1, count):
        found = np.asarray(density.distinct_bins(jnp.asarray(salience, jnp.float32), samples))
        assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < count
        certain = salience * samples >= salience.sum(axis=1, keepdims=True) * 1.001
        rows, bins = np.nonzero(certain)
        assert all(np.isin(bins[rows == row], found[row]).all() for row in range(40))
    with pytest.raises(ValueError, match=r"^num_samples: found 65, accepted: at most the 64 bins"):
        density.distinct_bins(jnp.ones((1, 64)), 65)


def test_locations_against_the_oracle():
    """Quantiles and draws of random histograms, sorted, float32."""
    salience = RNG.uniform(size=(3, 16)) ** 4
    salience /= salience.sum(-1, keepdims=True)
    uniforms = RNG.uniform(size=(3, 20))
    quantiles = density.quantile_locations(jnp.asarray(salience, jnp.float32), 20)
    drawn = density.drawn_locations(jnp.asarray(salience, jnp.float32), jnp.asarray(uniforms))
    for b in range(3):
        expected = oracle.quantile_locations(salience[b], 20)
        np.testing.assert_allclose(quantiles[b], expected, atol=2e-6)
        np.testing.assert_array_equal(drawn[b], oracle.drawn_locations(salience[b], uniforms[b]))


def test_without_salience_the_grid_is_uniform():
    """u_m = m/M, not (m-½)/M, for quantiles and draws; other rows are untouched by it."""
    salience = jnp.asarray([[0.0, 0.0], [0.5, 0.5]])
    quantiles = density.quantile_locations(salience, 4)
    np.testing.assert_allclose(quantiles, [[0.25, 0.5, 0.75, 1.0], [0.125, 0.375, 0.625, 0.875]])
    drawn = density.drawn_locations(salience, jnp.full((2, 4), 0.9))
    np.testing.assert_allclose(drawn, [[0.25, 0.5, 0.75, 1.0], [0.5, 0.5, 0.5, 0.5]])


def test_random_locations_follow_the_salience():
    """A third of many draws fall where a third of the mass is; the largest draw is below 1."""
    salience = jnp.asarray([[1 / 3, 0.0, 2 / 3, 0.0]])
    drawn = np.asarray(density.random_locations(jax.random.key(0), salience, 4000))
    assert set(np.unique(drawn)) == {0.0, 0.5}
    assert (drawn == 0.0).mean() == pytest.approx(1 / 3, abs=0.03)
