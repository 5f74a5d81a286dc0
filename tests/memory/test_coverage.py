"""What densities cover of the written tokens: quadrature, hand-written tables, the memory."""

import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.coverage import coverage, segment_edges, token_edges
from inf_former_jax.memory.density import GaussianDensity, bin_mass
from inf_former_jax.memory.long_term import LongTermConfig
from tests import oracle

SIZES = {"num_basis": 64, "widths": (0.01, 0.02), "num_samples": 256}
FIXED = LongTermConfig(**SIZES, ridge=0.1, tau=0.75)
POWER = LongTermConfig(**SIZES, ridge=0.1, contraction="power", horizon=3)
LENGTHS, SEGMENT = (4, 4, 2, 4, 0), 4


def random_density(shape=(2, 3, 5)):
    rng = np.random.default_rng(0)
    mean, var = rng.uniform(-0.1, 1.1, size=shape), np.exp(rng.uniform(-9, 0, size=shape))
    return GaussianDensity(mean.astype(np.float32), var.astype(np.float32))


def naive_cells(cfg, writes, length):
    """Every write in turn: the old cells are contracted, the new ones put behind them."""
    cells = [(i / length, (i + 1) / length) for i in range(length)] if writes else []
    for k in range(1, writes):
        tau = cfg.tau_of(k)
        borders = [tau + (1 - tau) * i / length for i in range(length + 1)]
        cells = [(tau * a, tau * b) for a, b in cells] + list(itertools.pairwise(borders))
    return cells


def naive_mass(density, row, where, start, end, points=4001):
    """The mean over heads and queries of the density's integral, by the trapezoidal rule."""
    t = np.linspace(start, end, points)
    densities = (field[row][:, where].ravel() for field in density)
    masses = [
        np.trapezoid(oracle.normal(t, mean, var), t) for mean, var in zip(*densities, strict=True)
    ]
    return np.mean(masses)


@pytest.mark.parametrize("cfg", [FIXED, POWER], ids=["fixed", "power"])
def test_mass_of_each_token_is_the_integral_over_its_cell(cfg):
    """Cells by a loop over the writes, mass by quadrature; padded cells apart; the rest outside."""
    density, where = random_density(), np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]], bool)
    found = coverage(cfg, density, LENGTHS, segment_len=SEGMENT, where=where)
    cells = naive_cells(cfg, len(LENGTHS), SEGMENT)
    valid = [i < length for length in LENGTHS for i in range(SEGMENT)]
    for row in range(2):
        mass = np.array([naive_mass(density, row, where[row], *cell) for cell in cells])
        np.testing.assert_allclose(found.tokens[row], mass[valid], atol=2e-6)
        padding = mass[np.logical_not(valid)].sum()
        assert found.padding[row] == pytest.approx(padding, abs=5e-6) and padding > 1e-2
        assert found.outside[row] == pytest.approx(1 - mass.sum(), abs=2e-5)


@pytest.mark.parametrize("cfg", [FIXED, POWER], ids=["fixed", "power"])
@pytest.mark.parametrize("lengths", [(), (3,), LENGTHS], ids=["none", "one", "five"])
def test_all_the_mass_is_somewhere(cfg, lengths):
    """Tokens, padding and outside sum to 1; before the first write all of it is outside."""
    found = coverage(cfg, random_density(), lengths, segment_len=SEGMENT)
    assert found.tokens.shape == (2, sum(lengths))
    np.testing.assert_allclose(found.tokens.sum(1) + found.padding + found.outside, 1, atol=1e-5)
    if not lengths:
        np.testing.assert_allclose(found.outside, 1, atol=1e-6)


def test_without_a_query_there_is_nothing():
    """A row of which no query counts gets zeros and no NaN; the other one is not touched by it."""
    where = np.array([[0] * 5, [1] * 5], bool)
    found = coverage(FIXED, random_density(), (4, 4), segment_len=4, where=where)
    all_queries = coverage(FIXED, random_density(), (4, 4), segment_len=4)
    for some, every in zip(found, all_queries, strict=True):
        np.testing.assert_array_equal(some[0], np.zeros_like(some[0]))
        np.testing.assert_array_equal(some[1], every[1])


def test_one_write_of_as_many_tokens_as_bins_is_the_bin_mass():
    """The other path: densities well inside [0, 1], cells that are the salience's bins."""
    density = GaussianDensity(jnp.full((1, 1, 2), 0.4), jnp.full((1, 1, 2), 1e-3))
    found = coverage(FIXED, density, (8,), segment_len=8)
    np.testing.assert_allclose(found.tokens, bin_mass(density, 8), atol=1e-6)


def test_edges_by_hand():
    """Two tokens a write: thirds halved for k/(k+1); τ^k of the width for τ = ¾; none, no cell."""
    np.testing.assert_allclose(token_edges(POWER, 3, 2), np.arange(7) / 6)
    found = [0, 9 / 32, 9 / 16, 21 / 32, 3 / 4, 7 / 8, 1]
    np.testing.assert_allclose(token_edges(FIXED, 3, 2), found)
    np.testing.assert_array_equal(token_edges(FIXED, 0, 2), [0])


@pytest.mark.parametrize("cfg", [FIXED, POWER], ids=["fixed", "power"])
def test_the_memory_holds_tokens_in_their_cells(cfg):
    """Channel j marks the j-th half segment: the largest signal at t is of the half that has t."""
    length, writes = 64, 4
    marks = np.repeat(np.eye(2 * writes, dtype=np.float32), length // 2, axis=0)
    memory, ops = long_term.init(cfg, 1, 2 * writes), long_term.operators(cfg, length)
    for x in marks.reshape(writes, 1, length, 2 * writes):
        memory = long_term.write(cfg, memory, x, operators=ops)
    times = (np.arange(1000) + 0.5) / 1000
    signal = evaluate(cfg.basis, times) @ np.asarray(memory.coeffs[0], np.float64)
    expected = np.searchsorted(token_edges(cfg, writes, length)[:: length // 2], times) - 1
    assert (signal.argmax(1) == expected).mean() > 0.98


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": (4, 5)}, "lengths: found 5, accepted: each 0 to segment_len = 4"),
        ({"lengths": (-1,)}, "lengths: found -1, accepted: each 0 to segment_len = 4"),
        ({"segment_len": 0, "lengths": ()}, "segment_len: found 0, accepted: 1 or more"),
        ({"cfg": LongTermConfig(sticky=True)}, "sticky: found True, accepted: False"),
    ],
    ids=["too many", "negative", "no segment", "sticky"],
)
def test_what_cannot_be_is_refused(changed, message):
    """One line that says what was found and what is accepted."""
    given = {"cfg": FIXED, "lengths": (4,), "segment_len": 4} | changed
    cfg, lengths = given.pop("cfg"), given.pop("lengths")
    with pytest.raises(ValueError, match=re.escape(message)):
        coverage(cfg, random_density(), lengths, **given)


def test_edges_are_where_segments_lie():
    """Hand-written: halves and thirds for p = 1; τ^k of its width for fixed contraction."""
    uniform = LongTermConfig(contraction="power")
    np.testing.assert_allclose(segment_edges(uniform, 3), [0, 1 / 3, 2 / 3, 1])
    fixed = LongTermConfig(tau=0.75)
    np.testing.assert_allclose(segment_edges(fixed, 3), [0, 0.5625, 0.75, 1])
    assert list(segment_edges(fixed, 1)) == [0, 1] and list(segment_edges(fixed, 0)) == [0]
