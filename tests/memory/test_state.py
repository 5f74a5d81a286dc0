"""The whole model's memory: what is pending when, and that every vector is written exactly once."""

import types

import jax
import numpy as np
import pytest

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig

T = 4


def config(mem_len, long_term=True, sinks=0, chosen=(0, 1)):
    small = LongTermConfig(num_basis=4, widths=(0.2,), num_samples=4, bins=4)
    ltm = small if long_term else None
    sizes = {"num_layers": 2, "d_model": 1, "segment_len": T, "mem_len": mem_len, "sinks": sinks}
    remembers = {"remembers": lambda layer: long_term and layer in chosen}
    return types.SimpleNamespace(**sizes, **remembers, compressed=None, long_term=ltm)


@pytest.mark.parametrize("mem_len", [0, T, 2 * T])
def test_each_vector_is_written_exactly_once_and_is_in_one_place(mem_len):
    """Segments of numbered vectors: those written, then the window, then the segment; no gaps."""
    cfg, written = config(mem_len), []
    memory = state.init(cfg, 1)
    for s in range(8):
        segment = np.arange(s * T, (s + 1) * T, dtype=np.float32).reshape(1, T, 1)
        layer = memory.layers[0]
        if bool(state.has_pending(cfg, memory.seen)[0]):
            written += np.asarray(state.pending(cfg, layer)).ravel().tolist()
        filled = int(state.num_filled(cfg, memory.seen)[0])
        window = state.window(cfg, layer)
        window = [] if window is None else np.asarray(window).ravel()[mem_len - filled :].tolist()
        everything = written + window + segment.ravel().tolist()
        assert everything == list(range((s + 1) * T))
        assert len(written) == max(0, s - mem_len // T) * T
        layers = tuple(state.push(layer, segment, memory.seen) for layer in memory.layers)
        memory = state.Memory(state.advance(memory.seen, T), layers)


@pytest.mark.parametrize("long_term", [False, True])
def test_sinks_stay_in_the_window_when_the_fifo_has_moved_on(long_term):
    """Two documents of numbered vectors, the second of which begins in the middle."""
    cfg = config(2 * T, long_term, sinks=3)
    memory = state.init(cfg, 1)
    for s, first in enumerate([0] * 5 + [5] * 4):
        if s == 5:
            memory = state.reset(memory, np.array([True]))
        start = first * T + 1
        segment = np.arange(s * T + 1, (s + 1) * T + 1, dtype=np.float32).reshape(1, T, 1)
        layer, begin = memory.layers[0], max(start, (s - 2) * T + 1)
        expected = list(range(begin, s * T + 1))
        if begin > start:
            expected = [start, start + 1, start + 2, *expected]
        window = np.asarray(state.window(cfg, layer)).ravel()
        assert len(window) == state.window_len(cfg) == 2 * T + 3
        filled = int(state.num_filled(cfg, memory.seen)[0])
        assert window[len(window) - filled :].tolist() == expected
        layers = tuple(state.push(layer, segment, memory.seen) for layer in memory.layers)
        memory = state.Memory(state.advance(memory.seen, T), layers)


def test_sinks_of_segments_shorter_than_they_are():
    """Without a long-term memory a document may come in any pieces."""
    cfg = config(4, long_term=False, sinks=3)
    memory = state.init(cfg, 2)
    for segment in ([1, 2], [3, 4], [5, 6], [7, 8]):
        x = np.array([segment, segment], np.float32)[..., None]
        layers = tuple(state.push(layer, x, memory.seen) for layer in memory.layers)
        memory = state.Memory(state.advance(memory.seen, 2), layers)
    window = np.asarray(state.window(cfg, memory.layers[0]))[..., 0]
    assert window.tolist() == [[1, 2, 3, 5, 6, 7, 8]] * 2
    assert state.num_filled(cfg, np.array([4, 6, 7, 8])).tolist() == [4, 4, 7, 7]


def test_chosen_layers_have_the_long_term_memory():
    memory = state.init(config(T, chosen=(1,)), 2)
    assert memory.layers[0].long_term is None
    assert state.long_term_of(memory) is memory.layers[1].long_term is not None
    assert state.long_term_of(state.init(config(T, long_term=False), 2)) is None


def test_reset_clears_the_given_rows_only():
    """Row 1 equals a fresh row to the bit, though it held NaN or ∞; row 0 keeps its bits."""
    cfg = config(T)
    cfg.compressed = CompressedConfig(2, T)
    for bad in (np.nan, np.inf):
        full = jax.tree.map(lambda leaf: np.full(leaf.shape, 3, leaf.dtype), state.init(cfg, 2))
        for leaf in jax.tree.leaves(full):
            leaf[1] = 4 if leaf.dtype == np.int32 else bad
        cleared = state.reset(full, np.array([False, True]))
        for leaf, fresh in zip(*map(jax.tree.leaves, (cleared, state.init(cfg, 2))), strict=True):
            np.testing.assert_array_equal(leaf[1], fresh[1])
            np.testing.assert_array_equal(leaf[0], np.full_like(leaf[0], 3))


def test_emptying_the_long_term_memory_keeps_the_window():
    """The control forgets coefficients, salience and count; FIFO and `seen` stay."""
    cfg = config(T, sinks=2)
    full = jax.tree.map(lambda leaf: np.full(leaf.shape, 3, leaf.dtype), state.init(cfg, 2))
    emptied = state.empty_long_term(cfg, full)
    for before, after in zip(full.layers, emptied.layers, strict=True):
        np.testing.assert_array_equal(after.fifo, before.fifo)
        np.testing.assert_array_equal(after.sinks, before.sinks)
        assert not any(np.asarray(leaf).any() for leaf in after.long_term)
    np.testing.assert_array_equal(emptied.seen, full.seen)


def test_emptying_shows_the_sinks_still():
    """Also of a model without a long-term memory, whose FIFO is no longer than its window."""
    for long_term in (False, True):
        cfg = config(T, long_term, sinks=2)
        memory = state.init(cfg, 1)._replace(seen=np.array([40 * T]))
        seen = state.empty_long_term(cfg, memory).seen
        assert int(state.num_filled(cfg, seen)[0]) == T + 2
        assert bool(state.has_pending(cfg, seen)[0])


def test_another_documents_memory_leaves_window_and_sinks():
    cfg = config(T, sinks=2)
    rng = np.random.default_rng(0)
    full = jax.tree.map(lambda leaf: rng.random(leaf.shape), state.init(cfg, 2))
    foreign = state.foreign_long_term(full)
    for before, after in zip(full.layers, foreign.layers, strict=True):
        np.testing.assert_array_equal(after.fifo, before.fifo)
        np.testing.assert_array_equal(after.sinks, before.sinks)
        np.testing.assert_allclose(after.long_term.coeffs, before.long_term.coeffs[::-1], rtol=1e-6)


def test_leaves_are_buffers_of_their_own():
    """Donation refuses a buffer that stands in two places; orbax refuses arrays of no size."""
    leaves = jax.tree.leaves(state.init(config(T), 2))
    pointers = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    assert len(pointers) == len(leaves) and all(leaf.size for leaf in leaves)


def test_absent_parts_are_none():
    """A vanilla decoder carries a counter and nothing else."""
    memory = state.init(config(0, long_term=False), 2)
    assert [leaf.shape for leaf in jax.tree.leaves(memory)] == [(2,)]
    assert memory.layers[0].fifo is None and memory.layers[0].long_term is None


def test_the_count_of_an_endless_stream_does_not_overflow():
    """2³¹ tokens later the memory is still full."""
    seen = np.array([2**30 + 5], np.int32)
    for _ in range(3):
        seen = state.advance(seen, 2**20)
    assert bool(state.has_pending(config(T), seen)[0]) and int(seen[0]) > 0
