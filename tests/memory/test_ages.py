"""Ages of cells are those of the written vectors that lie at their middles."""

import dataclasses

import jax
import numpy as np
import pytest

from inf_former_jax.memory.ages import cell_ages
from inf_former_jax.memory.coverage import token_edges
from inf_former_jax.memory.long_term import LongTermConfig, init, write
from inf_former_jax.memory.write_operators import operators

CELLS = {"functions": "rectangular", "fit": "intervals", "gate": False}
KINDS = {
    "fixed": {"tau": 0.6},
    "halves": {"tau": 0.5},
    "power": {"contraction": "power"},
    "recent": {"contraction": "power", "power": 2.5},
    "doubling": {"contraction": "doubling"},
}


def cells(kind, count):
    return LongTermConfig(num_basis=count, **CELLS, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_vector_at_the_middle(kind):
    """By the borders of the written vectors, which the host follows write by write."""
    writes, length, count = [1, 2, 3, 7, 8, 21], 5, 8
    cfg = cells(kind, count)
    with jax.enable_x64(True):
        found = cell_ages(cfg, np.array(writes), length)
    middles = (np.arange(count) + 0.5) / count
    for k, ages in zip(writes, found, strict=True):
        edges = token_edges(cfg, k, length)
        held = middles > edges[0]  # by doubling there are empty cells before
        expected = k * length - np.interp(middles, edges, np.arange(k * length + 1))
        np.testing.assert_allclose(ages[held], expected[held], rtol=1e-10, atol=1e-10)
        assert (np.diff(ages) < 0).all()
    np.testing.assert_array_equal(cell_ages(cfg, np.zeros(1, int), length), found[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_writes_is_finite(kind):
    ages = np.asarray(cell_ages(cells(kind, 8), np.array([10**5, 2 * 10**7, 2**30]), 5))
    assert np.isfinite(ages).all() and (np.diff(ages) <= 0).all() and (ages >= 0).all()


def test_a_memory_of_numbers_knows_its_ages():
    """By doubling a cell holds whole vectors. Where each is its number, the cell is their mean.

    A second channel of ones is the part of the cell that is full.
    """
    length, cfg = 4, cells("doubling", 4)
    memory = init(cfg, 1, 2)
    for k in range(11):
        numbers = np.arange(k * length, (k + 1) * length, dtype=np.float32)
        vectors = np.stack([numbers, np.ones(length, np.float32)], axis=-1)[None]
        memory = write(cfg, memory, vectors, operators=operators(cfg, length))
        sums, full = np.asarray(memory.coeffs[0].T)
        held = full > 0
        expected = (k + 1) * length - 0.5 - sums / np.where(held, full, 1)
        found = cell_ages(cfg, memory.writes, length)[0]
        np.testing.assert_allclose(found[held], expected[held], rtol=1e-5)
        assert held[-1]


def test_a_sticky_memory_has_none():
    """The number of writes does not say what it keeps."""
    cfg = dataclasses.replace(cells("halves", 8), sticky=True, num_samples=8)
    with pytest.raises(ValueError, match=r"^cell_ages: found .* sticky = True, accepted: .*kept$"):
        cell_ages(cfg, np.ones(1, int), 5)
    kept = dataclasses.replace(cells("halves", 8), sticky=True, contraction="kept")
    with pytest.raises(ValueError, match=r"^cell_ages: found a sticky memory, accepted"):
        cell_ages(kept, np.ones(1, int), 5)
