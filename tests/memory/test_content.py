"""Reading by content, recomputed in the backward pass: against plain autodiff of a softmax.

In float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import cpu_cache, long_term
from inf_former_jax.memory.content import ContentRead, cell_signal, content_read, join
from inf_former_jax.memory.density import GibbsDensity, bin_sum, bins_of_cells
from inf_former_jax.memory.long_term import LongTermConfig
from tests.golden import jit, relative_error

B, H, T, R, K = 2, 3, 7, 5, 4


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def inputs(cells=R, seed=0):
    """Queries, keys, bias and values."""
    rng = np.random.default_rng(seed)
    shapes = (B, H, T, K), (B, H, cells, K), (B, H, cells), (B, H, cells, K)
    return [jnp.asarray(2 * rng.normal(size=shape)) for shape in shapes]


def naive(queries, keys, bias, values):
    """z and Z by a softmax over all cells at once, for autodiff."""
    scores = jnp.einsum("bhtk,bhrk->bhtr", queries, keys) + bias[:, :, None]
    z = jnp.einsum("bhtr,bhrk->bhtk", jax.nn.softmax(scores), values)
    return z, jax.nn.logsumexp(scores, axis=-1)


def with_gradients(function, *arguments):
    """(values, gradients of a random functional of z and Z)."""
    rng = np.random.default_rng(5)
    by_z, by_logsum = rng.normal(size=(B, H, T, K)), rng.normal(size=(B, H, T))

    def both(*arguments):
        found, pull_back = jax.vjp(function, *arguments)
        return found, pull_back((jnp.asarray(by_z), jnp.asarray(by_logsum)))

    return jit(both)(*arguments)


@pytest.mark.parametrize(("chunk", "heads"), [(256, 6), (7, 6), (3, 6), (3, 2), (1, 1)])
def test_custom_vjp_is_autodiff(monkeypatch, chunk, heads):
    """Chunks that do and do not divide T, so many heads in a piece; cotangents of both results."""
    monkeypatch.setattr(cpu_cache, "CACHE_NUMBERS", heads * min(chunk, T) * R)

    def chunked(queries, keys, bias, values):
        return tuple(content_read(GibbsDensity(queries, keys, bias), values, chunk)[:2])

    found, expected = (with_gradients(function, *inputs()) for function in (chunked, naive))
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_scores_of_any_size():
    """Beyond what exp can hold, on either side; a cell's weight may be 0, no result is NaN."""
    queries, keys, bias, values = inputs()
    for size in (1e4, -1e4):
        arguments = size * queries, keys, bias + size, values
        read = content_read(GibbsDensity(*arguments[:3]), values)
        for ours, theirs in zip(read[:2], naive(*arguments), strict=True):
            assert np.isfinite(ours).all()
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_the_weights_of_all_queries_are_not_kept():
    """What the backward pass needs is by query or by cell, never by both."""
    queries, keys, bias, values = inputs(cells=9)

    def read(queries, keys, bias, values):
        return content_read(GibbsDensity(queries, keys, bias), values, 2).value

    _, kept = jax.vjp(read, queries, keys, bias, values)
    sizes = {leaf.shape for leaf in jax.tree.leaves(kept)}
    assert sizes and not any({T, 9} <= set(shape) for shape in sizes)


def test_join_is_one_softmax_over_the_keys_of_both():
    """Values and gradients; heads come first in local attention."""
    cells, window = inputs(R), inputs(3, seed=1)
    arguments = cells[0], *cells[1:], *window[1:]

    def joined(queries, keys, bias, values, *others):
        z, logsum = naive(queries, *others)
        read = content_read(GibbsDensity(queries, keys, bias), values)
        heads_first = jnp.swapaxes(z, 0, 1), jnp.swapaxes(logsum, 0, 1)
        return jnp.swapaxes(join(*heads_first, read), 0, 1), jnp.zeros((B, H, T))

    def concatenated(queries, *rest):
        one = (jnp.concatenate(pair, axis=-2) for pair in zip(rest[:3:2], rest[3::2], strict=True))
        keys, values = one
        bias = jnp.concatenate([rest[1], rest[4]], axis=2)
        return naive(queries, keys, bias, values)[0], jnp.zeros((B, H, T))

    found, expected = (with_gradients(one, *arguments) for one in (joined, concatenated))
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_nothing_is_joined_without_a_key():
    """Z' = -∞: what was there stays to the bit, and no gradient is NaN."""
    queries, keys, bias, values = inputs()
    z, logsum = (jnp.swapaxes(x, 0, 1) for x in naive(queries, keys, bias, values))

    def joined(z, logsum, value):
        return join(z, logsum, ContentRead(value, jnp.full((B, H, T), -jnp.inf)))

    found, pull_back = jax.vjp(joined, z, logsum, values[:, :, :1].repeat(T, axis=2))
    np.testing.assert_array_equal(found, z)
    by_z, *rest = pull_back(jnp.ones_like(z))
    assert (by_z == 1).all() and not any(np.any(leaf) for leaf in rest)


def test_the_signal_on_cells():
    """The coefficients themselves, or the signal at R midpoints."""
    coeffs = np.random.default_rng(0).normal(size=(B, 4, 3))
    rectangular = LongTermConfig(num_basis=4, functions="rectangular", density="gibbs")
    np.testing.assert_array_equal(cell_signal(rectangular, coeffs), coeffs)
    cfg = LongTermConfig(num_basis=4, widths=(0.2, 0.4), density="gibbs", cells=6)
    memory = long_term.init(cfg, B, 3, jnp.float64)._replace(coeffs=jnp.asarray(coeffs))
    expected = long_term.signal(cfg, memory, (jnp.arange(6) + 0.5) / 6)
    np.testing.assert_allclose(cell_signal(cfg, coeffs), expected, rtol=1e-12)


def test_unit_cells():
    """Scaled to a root mean square of 1, whatever the vectors' length; empty cells stay 0."""
    coeffs = np.random.default_rng(0).normal(size=(B, 4, 3))
    coeffs[0, 1] = 0
    cfg = LongTermConfig(num_basis=4, functions="rectangular", density="gibbs", unit_cells=True)
    found = np.asarray(cell_signal(cfg, coeffs))
    squares = (found**2).mean(axis=-1)
    assert squares[0, 1] == 0
    np.testing.assert_allclose(squares[1:], 1, rtol=1e-6)
    np.testing.assert_allclose(
        found[1:], coeffs[1:] / np.sqrt((coeffs[1:] ** 2).mean(-1))[..., None], rtol=1e-6
    )
    np.testing.assert_allclose(cell_signal(cfg, coeffs / 50)[1:], found[1:], rtol=1e-4)
    gradient = jax.grad(lambda coeffs: cell_signal(cfg, coeffs).sum())(jnp.asarray(coeffs))
    assert np.isfinite(gradient).all()


def test_the_mass_of_cells_is_summed_on_the_way():
    """That of the weights, formed whole: of queries that count, beside other keys, in chunks."""
    rng = np.random.default_rng(5)
    q, keys, values = (jnp.asarray(rng.normal(size=(2, 3, n, 4))) for n in (7, 5, 5))
    bias, others = (jnp.asarray(rng.normal(size=(2, 3, n))) for n in (5, 7))
    counted = jnp.asarray(rng.random((2, 7)) < 0.6)
    for beside in (None, others):
        density = GibbsDensity(q, keys, bias, beside)
        read = content_read(density, values, 3, counted)
        expected = jnp.where(counted[:, None, :, None], density.weights(), 0).sum((1, 2))
        np.testing.assert_allclose(read.mass, expected, rtol=1e-5)
        plain = content_read(density, values, 3)
        assert plain.mass is None
        np.testing.assert_array_equal(read.value, plain.value)
        np.testing.assert_allclose(bin_sum(density, 5, counted), read.mass, atol=1e-5)
        np.testing.assert_allclose(
            bin_sum(density, 10, counted), bins_of_cells(read.mass, 10), atol=1e-5
        )

    def loss(values, counted=None):
        read = content_read(GibbsDensity(q, keys, bias, others), values, 3, counted)
        return (read.value**2).sum() + (read.logsum**2).sum()

    np.testing.assert_array_equal(jax.grad(loss)(values), jax.grad(loss)(values, counted))
