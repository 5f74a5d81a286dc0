"""Gibbs and mixed densities: what they say of themselves, against their weights by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory.density import (
    Density,
    GaussianDensity,
    GibbsDensity,
    MixedDensity,
    bin_mass,
    bin_sum,
    interval_sum,
)

B, H, T, R, K = 2, 3, 4, 5, 2
EDGES = np.array([-np.inf, -0.5, 0.0, 0.07, 0.2, 0.5, 0.93, 1.0, 1.5, np.inf])


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def gibbs(seed=0, heads=H):
    rng = np.random.default_rng(seed)
    shapes = (B, heads, T, K), (B, heads, R, K), (B, heads, R)
    return GibbsDensity(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


def mixed():
    rng = np.random.default_rng(2)
    located = rng.uniform(size=(B, 2, T)), np.exp(rng.uniform(-6, -1, size=(B, 2, T)))
    return MixedDensity(gibbs(1, 1), GaussianDensity(*map(jnp.asarray, located)))


def weights_of(density):
    """The softmax over cells, one query after the other."""
    queries, keys, bias = map(np.asarray, density[:3])
    found = np.empty((B, queries.shape[1], T, R))
    for b, h, t in np.ndindex(found.shape[:3]):
        scores = np.exp(keys[b, h] @ queries[b, h, t] + bias[b, h])
        found[b, h, t] = scores / scores.sum()
    return found


def step_cdf(weights, edge):
    """∫ below the edge of a density that is constant on each cell."""
    share = np.clip(edge * R - np.arange(R), 0, 1) if np.isfinite(edge) else float(edge > 0)
    return (weights * share).sum(-1)


def test_weights():
    np.testing.assert_allclose(gibbs().weights(), weights_of(gibbs()), rtol=1e-12)


def test_mean_and_variance_are_those_of_the_steps():
    """By a fine grid on each cell."""
    fine = 400
    times = (np.arange(R * fine) + 0.5) / (R * fine)
    mass = np.repeat(weights_of(gibbs()) / fine, fine, axis=-1)
    mean = (mass * times).sum(-1)
    var = (mass * (times - mean[..., None]) ** 2).sum(-1)
    np.testing.assert_allclose(gibbs().mean, mean, rtol=1e-10)
    np.testing.assert_allclose(gibbs().var, var, rtol=1e-4)


def test_distribution_function():
    density = gibbs()
    expected = np.stack([step_cdf(weights_of(density), edge) for edge in EDGES], axis=-1)
    np.testing.assert_allclose(density.below(EDGES), expected, atol=1e-12)
    where = np.random.default_rng(3).random((B, T)) < 0.6
    counted = (expected * where[:, None, :, None]).sum(axis=(1, 2))
    np.testing.assert_allclose(density.sums_below(EDGES, where), counted, atol=1e-12)
    every = expected.sum(axis=(1, 2))
    np.testing.assert_allclose(density.sums_below(EDGES), every, atol=1e-12)


def test_salience_of_bins_that_are_the_cells_is_the_mass_of_each():
    mass = weights_of(gibbs()).sum(axis=(1, 2)) / (H * T)
    np.testing.assert_allclose(bin_mass(gibbs(), R), mass, rtol=1e-10)
    edges = np.linspace(0, 1, R + 1)
    np.testing.assert_allclose(interval_sum(gibbs(), edges), mass * H * T, rtol=1e-10)


def test_of_a_mixture_each_head_is_one_of_its_parts():
    density = mixed()
    for name in ("mean", "var"):
        parts = getattr(density.content, name), getattr(density.located, name)
        expected = np.concatenate(list(map(np.asarray, parts)), axis=1)
        np.testing.assert_array_equal(getattr(density, name), expected)
    below = [np.asarray(part.below(EDGES)) for part in (density.content, density.located)]
    np.testing.assert_array_equal(density.below(EDGES), np.concatenate(below, axis=1))
    where = np.random.default_rng(3).random((B, T)) < 0.6
    sums = np.diff(density.sums_below(EDGES, where))
    np.testing.assert_allclose(sums, interval_sum(density, EDGES, where), atol=1e-12)


@pytest.mark.parametrize("heads", [slice(0, 1), slice(1, 3), slice(0, 2), slice(None)], ids=str)
@pytest.mark.parametrize("density", [gibbs, mixed])
def test_parts(density, heads):
    """Heads of one kind or both; queries by a slice, places or a mask."""
    whole = density()
    for queries in (slice(1, 3), np.array([2, 0]), np.array([True, False, True, True])):
        part = whole.part(heads, queries)
        assert isinstance(part, Density)
        for name in ("mean", "var"):
            expected = np.asarray(getattr(whole, name))[:, heads][:, :, queries]
            np.testing.assert_allclose(getattr(part, name), expected, rtol=1e-12)
    if density is mixed:
        kinds = {"0:1": GibbsDensity, "1:3": GaussianDensity}
        assert type(whole.part(heads)) is kinds.get(f"{heads.start}:{heads.stop}", MixedDensity)


def test_other_keys_take_their_part():
    """The mass is that of the cells in a softmax over them and further keys."""
    density, rng = gibbs(), np.random.default_rng(7)
    batch, heads, queries, _ = density.queries.shape
    cells = density.keys.shape[2]
    scores = np.asarray(jnp.einsum("bhtk,bhrk->bhtr", density.queries, density.keys))
    scores = scores + np.asarray(density.bias)[:, :, None]
    others = rng.normal(size=(batch, heads, queries, 3))
    whole = np.exp(np.concatenate([scores, others], axis=-1))
    expected = whole[..., :cells] / whole.sum(-1, keepdims=True)
    found = density._replace(others=jnp.asarray(np.log(np.exp(others).sum(-1))))
    np.testing.assert_allclose(found.weights(), expected, rtol=1e-10)
    sums = bin_sum(found, cells)
    np.testing.assert_allclose(sums, expected.sum((1, 2)), rtol=1e-4)
    part = found.part(slice(1, 2), slice(0, 2))
    np.testing.assert_allclose(part.weights(), expected[:, 1:2, :2], rtol=1e-5)
