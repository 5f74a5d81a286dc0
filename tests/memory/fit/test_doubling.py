"""Contraction by pairs of cells: against lists of segments by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.fit import doubling
from inf_former_jax.memory.long_term import LongTermConfig

E = 3


def config(cells):
    return LongTermConfig(
        num_basis=cells, functions="rectangular", fit="intervals", contraction="doubling"
    )


def written(cells, segments):
    """The memory after each of the segments [W, B, L, E]."""
    cfg = config(cells)
    memory = long_term.init(cfg, segments.shape[1], E)
    write = jax.jit(lambda memory, x: long_term.write(cfg, memory, x))
    for x in segments:
        memory = write(memory, jnp.asarray(x))
        yield memory


def room(count):
    return 1 << (count - 1).bit_length()


def test_capacity():
    segments = np.arange(1, 1026)
    np.testing.assert_array_equal(doubling.capacity(segments), [room(int(n)) for n in segments])


@pytest.mark.parametrize("length", [16, 5])
def test_segments_keep_cells_of_their_own(length):
    """16 cells, 1 to 16 segments: each of them is on 16/c cells, as a first fit would be."""
    segments = np.random.default_rng(0).normal(size=(16, 2, length, E)).astype("f4")
    for count, memory in enumerate(written(16, segments), 1):
        size = 16 // room(count)
        np.testing.assert_array_equal(
            doubling.filled(config(16), memory.writes), 2 * [count * size]
        )
        coeffs = np.asarray(memory.coeffs)
        assert not coeffs[:, : 16 - count * size].any()
        for age, x in enumerate(segments[:count][::-1]):
            found = coeffs[:, 16 - (age + 1) * size : 16 - age * size]
            fine = np.repeat(x, 16, axis=1).reshape(2, 16, length, E).mean(2)  # on 16 cells
            expected = fine.reshape(2, size, 16 // size, E).mean(2)
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_segments_that_share_cells():
    """4 cells, 40 segments: cells hold 1, 2, 4, 8 and 16 of them, the newest cell what there is."""
    segments = np.random.default_rng(1).normal(size=(40, 2, 6, E)).astype("f4")
    means = segments.mean(2)
    for count, memory in enumerate(written(4, segments), 1):
        if count < 4:
            continue
        shared = room(count) // 4
        newest = (count - 1) % shared + 1
        expected, stop = [], count
        for size in [newest] + [shared] * 3:
            start = max(stop - size, 0)
            expected.append(means[start:stop].sum(0) / shared)
            stop = start
        np.testing.assert_allclose(memory.coeffs, np.stack(expected[::-1], axis=1), atol=2e-6)
        held = -(-(count - newest) // shared) + 1
        np.testing.assert_array_equal(doubling.filled(config(4), memory.writes), [held, held])


def test_rows_of_different_age():
    """A row with a late reset is what it would be alone."""
    segments = np.random.default_rng(2).normal(size=(7, 2, 4, E)).astype("f4")
    cfg, alone = config(8), list(written(8, segments[3:]))[-1]
    memory = long_term.init(cfg, 2, E)
    for number, x in enumerate(segments):
        memory = long_term.reset(memory, jnp.array([False, number == 3]))
        memory = long_term.write(cfg, memory, jnp.asarray(x))
    assert memory.writes.tolist() == [7, 4]
    np.testing.assert_array_equal(memory.coeffs[1], alone.coeffs[1])


def test_the_gradient_is_the_transpose():
    """Through three further writes, two of which merge: of a linear map, by its values."""
    cfg, rng = config(8), np.random.default_rng(3)
    segments = jnp.asarray(rng.normal(size=(4, 1, 4, E)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(1, 8, E)), jnp.float32)

    @jax.jit
    def functional(segments):
        memory = long_term.init(cfg, 1, E)
        for x in segments:
            memory = long_term.write(cfg, memory, x, detach=False)
        return (memory.coeffs * weights).sum()

    gradient = jax.grad(functional)(segments)
    for direction in np.asarray(rng.normal(size=(3, *segments.shape)), "f4"):
        np.testing.assert_allclose(
            (gradient * direction).sum(), functional(direction), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("cells", [4, 16])
def test_edges_are_where_segments_lie(cells):
    """A cell's mean is that of the segments over it, by the length that each has in common."""
    segments = np.random.default_rng(4).normal(size=(11, 1, cells, E)).astype("f4")
    for count, memory in enumerate(written(cells, segments), 1):
        borders = segment_edges(config(cells), count)
        assert borders.shape == (count + 1,) and borders[-1] == 1 and (np.diff(borders) > 0).all()
        grid = np.arange(cells + 1) / cells
        below = np.clip(grid[:, None] - borders[None, :-1], 0, np.diff(borders))
        share = np.diff(below, axis=0) * cells  # of each segment in each cell
        shared = max(room(count) // cells, 1)
        newest = (count - 1) % shared + 1
        share[-1] *= newest / shared  # the newest cell is not full
        means = segments[:count, 0].mean(1)
        found = np.asarray(memory.coeffs[0])
        if room(count) >= cells:  # a segment has one cell at most
            np.testing.assert_allclose(found, share @ means, atol=1e-5)
        assert share.sum() == pytest.approx(count * cells / room(count))
