"""Cells that are kept as they are: what stays, by hand, and what a queue of vectors holds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.ages import cell_ages
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.coverage import token_edges
from inf_former_jax.memory.fit import kept
from inf_former_jax.memory.retained import retention

QUEUE = LongTermConfig(
    num_basis=8,
    functions="rectangular",
    fit="intervals",
    contraction="kept",
    tau=0.75,
    widths=(0.01, 0.05),
    gate=False,
)
STICKY = dataclasses.replace(QUEUE, sticky=True)


def numbers(k):
    """The vectors of segment k, which are the numbers of their cells, from 1."""
    return np.arange(2 * k + 1, 2 * k + 3, dtype=np.float32)[None, :, None]


def test_a_queue_holds_the_newest():
    """Two new cells a write; after six writes of two vectors, the last eight of the twelve."""
    memory = long_term.init(QUEUE, 1, 1)
    for k in range(6):
        memory = long_term.write(QUEUE, memory, numbers(k))
        held = np.arange(2 * k + 3)[-8:]
        held = held[held > 0]
        expected = np.concatenate([np.zeros(8 - len(held)), held])
        np.testing.assert_array_equal(memory.coeffs[0, :, 0], expected)
        assert int(kept.filled(QUEUE, memory.writes)[0]) == len(held)
        ages = cell_ages(QUEUE, memory.writes, 2)[0]
        np.testing.assert_allclose(2 * k + 2 - ages[-len(held) :] + 0.5, held)
        borders = token_edges(QUEUE, k + 1, 2)
        assert np.searchsorted(borders, 1 - 1 / 16) == 2 * k + 2


def test_a_queue_in_the_analysis():
    """What is still there has R² 1, what was dropped 0."""
    found = retention(QUEUE, 6, length=2, detail=1)
    np.testing.assert_allclose(found.linear[:4], 1.0, rtol=1e-4)
    np.testing.assert_allclose(found.linear[4:], 0.0, atol=1e-4)
    with pytest.raises(ValueError, match=r"^contraction: found kept, of a sticky memory"):
        retention(STICKY, 2, length=2)


#: Salience of the cells before each write, and what the older six cells hold after it.
WRITES = [
    ([0] * 8, [0, 0, 0, 0, 0, 0]),
    ([0] * 8, [0, 0, 0, 0, 1, 2]),
    ([0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 2, 3, 4]),  # there is room for all of them
    ([0, 0, 1, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]),
    ([9, 1, 9, 9, 9, 9, 1, 9], [1, 3, 4, 5, 6, 8]),
    ([5, 5, 0, 5, 5, 5, 0, 5], [1, 3, 5, 6, 8, 10]),
    ([5, 5, 5, 5, 5, 0, 0, 5], [1, 3, 5, 6, 8, 12]),
]


def test_a_sticky_memory_keeps_what_was_attended_to():
    memory = long_term.init(STICKY, 1, 1)
    for k, (salience, held) in enumerate(WRITES):
        memory = memory._replace(salience=jnp.asarray([salience], jnp.float32))
        memory = long_term.write(STICKY, memory, numbers(k))
        expected = np.array([*held, 2 * k + 1, 2 * k + 2])
        np.testing.assert_array_equal(memory.coeffs[0, :, 0], expected)
        ages = np.where(expected > 0, 2 * k + 2.5 - expected, 0)
        np.testing.assert_array_equal(memory.ages[0], ages)
        assert int(kept.filled(STICKY, memory.writes)[0]) == (expected > 0).sum()


def test_given_locations_are_as_many_as_stay():
    written = long_term.write(STICKY, long_term.init(STICKY, 1, 1), numbers(0))
    four = np.full((1, 4), 0.9, np.float32)
    with pytest.raises(ValueError, match=r"^locations: found 4 of them, accepted: 6, as many"):
        long_term.write(STICKY, written, numbers(1), locations=four)
    queue = written._replace(ages=None)
    with pytest.raises(ValueError, match=r"^locations: found 4 of them, accepted: none for a queu"):
        long_term.write(QUEUE, queue, numbers(1), locations=four)


def test_vectors_that_are_no_cells():
    """Means where there are more vectors than new cells, repeats where there are fewer."""
    memory = long_term.init(QUEUE, 1, 1)
    memory = long_term.write(QUEUE, memory, np.array([1.0, 3, 5, 7], np.float32)[None, :, None])
    np.testing.assert_allclose(memory.coeffs[0, :, 0], [0] * 6 + [2, 6])
    memory = long_term.write(QUEUE, memory, np.array([4.0], np.float32)[None, :, None])
    np.testing.assert_allclose(memory.coeffs[0, :, 0], [0] * 4 + [2, 6, 4, 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tau": 0.7},
            "tau: found 0.7 with num_basis 8 and cells that are kept, accepted: 1 -",
        ),
        ({"tau": 2 / 3}, "tau: found"),
        ({"bins": 64}, "bins: found 64 with contraction = kept, accepted: only its default 128"),
        ({"num_samples": 6}, "num_samples: found 6 with contraction = kept"),
        ({"locations": "draw"}, "locations: found draw with contraction = kept"),
        (
            {"fit": "points"},
            "contraction: found kept with functions = rectangular and fit =",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(STICKY, **changes)
