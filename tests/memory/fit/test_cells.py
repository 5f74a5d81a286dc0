"""Writes as intervals on cells, in the graph: the operators in closed form, and what is conserved.

In float64 unless rounding is what is tested.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory.fit import cells
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.write_operators import interval_decay, write_operator
from tests.golden import jit, precision, relative_error

E = 2
#: Numbers of writes of a batch's rows: none, few, as many as no table has.
WRITES = np.array([0, 1, 2, 3, 5, 100, 50_000])


def cells_of(count, **changes) -> LongTermConfig:
    return LongTermConfig(num_basis=count, functions="rectangular", fit="intervals", **changes)


def memory_of(cfg, writes, seed=0):
    """Random coefficients and salience in rows that have been written so often."""
    rng = np.random.default_rng(seed)
    coeffs = rng.normal(size=(len(writes), cfg.num_basis, E))
    salience = rng.uniform(size=(len(writes), cfg.bins)) ** 4
    return long_term.LongTermMemory(jnp.asarray(coeffs), jnp.asarray(salience), jnp.asarray(writes))


def closed_form(cfg, memory, x, locations=None):
    """`A C + G_newᵀ X` of each row by its own operators, from the host."""
    rows = []
    for b, k in enumerate(np.asarray(memory.writes)):
        g_past, g_new = write_operator(cfg, x.shape[1], int(k))
        row, coeffs = g_new.T @ x[b], np.asarray(memory.coeffs[b])
        if k and locations is None:
            row = row + interval_decay(cfg, int(k)) @ coeffs
        elif k:
            row = row + g_past.T @ cfg.basis.evaluate(np.asarray(locations[b])) @ coeffs
        rows.append(row)
    return np.stack(rows)


#: name → cells, vectors, changes. Few parts are gathered, many are a product with all shares.
WAYS = {
    "as many cells as vectors": (12, 12, {"tau": 0.75}),
    "cells do not divide vectors": (7, 10, {"tau": 0.7}),
    "vectors do not divide cells": (10, 7, {"tau": 0.7}),
    "past all but gone": (12, 5, {"tau": 0.01}),
    "nothing but past": (12, 5, {"tau": 0.999}),
    "power 1": (12, 5, {"contraction": "power"}),
    "power 2": (9, 9, {"contraction": "power", "power": 2.0}),
    "power 9": (40, 4, {"contraction": "power", "power": 9.0}),
    "sticky": (12, 5, {"tau": 0.7, "sticky": True, "num_samples": 10, "bins": 6}),
    "sticky, power, few samples": (
        20,
        5,
        {"contraction": "power", "sticky": True, "num_samples": 3, "bins": 6},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_write_is_the_closed_form(way):
    """Rows of one batch at different numbers of writes, beyond any horizon; gradients, too.

    A write is linear, so gradients are the transposed operators.
    """
    count, length, changes = WAYS[way]
    cfg, rng = cells_of(count, **changes), np.random.default_rng(1)
    with jax.enable_x64(True):
        memory, x = memory_of(cfg, WRITES), rng.normal(size=(len(WRITES), length, E))
        locations = long_term.sticky_locations(cfg, memory, None) if cfg.sticky else None
        cotangent, ops = rng.normal(size=memory.coeffs.shape), long_term.operators(cfg, length)

        def written(coeffs, x):
            given = memory._replace(coeffs=coeffs)
            return long_term.write(cfg, given, x, operators=ops, detach=False).coeffs

        def both(coeffs, x):
            y, pull_back = jax.vjp(written, coeffs, x)
            return y, pull_back(jnp.asarray(cotangent))

        y, grads = jit(both)(memory.coeffs, x)
        assert relative_error(y, closed_form(cfg, memory, x, locations)) < 1e-12
        for one, which in zip(grads, (0, 1), strict=True):
            way = rng.normal(size=one.shape)
            zeros = memory._replace(coeffs=jnp.zeros_like(memory.coeffs)), np.zeros_like(x)
            moved = (memory._replace(coeffs=jnp.asarray(way)), zeros[1]), (zeros[0], way)
            by = closed_form(cfg, *moved[which], locations)
            np.testing.assert_allclose((one * way).sum(), (cotangent * by).sum(), rtol=1e-11)


@pytest.mark.parametrize("changes", [{"tau": 0.7}, {"contraction": "power"}], ids=str)
def test_float32_is_off_by_rounding(changes):
    """N = 256 cells: an edge is off by at most N roundings of τ."""
    cfg = cells_of(256, **changes)
    memory, x = memory_of(cfg, WRITES), np.random.default_rng(1).normal(size=(7, 200, E))
    given = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), memory[:2])
    memory = long_term.LongTermMemory(*given, jnp.asarray(WRITES))
    y = jit(lambda *of: long_term.write(cfg, *of).coeffs)(memory, x)
    assert y.dtype == jnp.float32
    assert relative_error(y, closed_form(cfg, memory, x)) < 256 * 6e-8


def many_writes(cfg, x):
    """The memory after all of x [segments, L, E] has been written to one row, in float32."""
    ops = long_term.operators(cfg, x.shape[1])

    def step(memory, x):
        return long_term.write(cfg, memory, x[None], operators=ops), None

    empty = long_term.init(cfg, 1, E)
    return jit(lambda x: jax.lax.scan(step, empty, x)[0])(jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize(("count", "length"), [(24, 16), (512, 8)], ids=str)
def test_the_mean_of_a_thousand_segments_is_the_mean_of_all(count, length):
    """τ_k = k/(k+1): a flat density reads the mean of everything that was ever written."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, length, E)) + np.linspace(2, 0, 1000)[:, None, None]
    memory = many_writes(cells_of(count, contraction="power"), x)
    assert memory.writes[0] == 1000
    mean = np.asarray(memory.coeffs[0], np.float64).mean(axis=0)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1)), atol=1e-5, rtol=0)
    # A flat density over [0, 1] weighs every cell alike, whatever is in it.
    assert np.asarray(memory.coeffs[0]).std() > 0.1


@pytest.mark.parametrize(
    "changes", [{"tau": 0.7}, {"contraction": "power"}, {"contraction": "power", "power": 1.7}]
)
def test_the_mean_follows_the_contraction(changes):
    """`m ← τ_k m + (1 - τ_k) · the new mean`, through 300 writes."""
    cfg = cells_of(20, **changes)
    x = np.random.default_rng(0).normal(size=(300, 7, E)) + 3
    mean = x[0].mean(axis=0)
    for k in range(1, 300):
        mean = cfg.tau_of(k) * mean + (1 - cfg.tau_of(k)) * x[k].mean(axis=0)
    found = np.asarray(many_writes(cfg, x).coeffs[0], np.float64).mean(axis=0)
    np.testing.assert_allclose(found, mean, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"tau": 0.7}, {"contraction": "power"}], ids=str)
def test_a_constant_stays_one(changes):
    """Every cell, after 300 writes, to float32's rounding."""
    x = np.broadcast_to(np.array([1.0, -3.0]), (300, 7, E))
    found = many_writes(cells_of(50, **changes), x).coeffs
    np.testing.assert_allclose(found, np.broadcast_to(x[0, :1], found.shape), rtol=1e-5)


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("least", [5.0, 0.0], ids=["gathered", "product"])
def test_any_width_of_each_row(from_end, least):
    """Means against the overlaps of edges; the total is kept, and a whole cell's shares are 1."""
    count, number, rows = 12, 9, 40
    width = np.random.default_rng(0).uniform(5, count, rows)
    width[:3] = count, 5, 6  # nothing contracted; edges on edges
    old = np.linspace(0, 1, number + 1)[None] * width[:, None]  # edges, in cells
    upper = np.minimum(old[:, None, 1:], np.arange(1, count + 1)[None, :, None])
    share = np.maximum(upper - np.maximum(old[:, None, :-1], np.arange(count)[None, :, None]), 0)
    share = share[:, ::-1, ::-1] if from_end else share
    for dtype in (np.float64, np.float32):
        with precision(dtype):
            eye = jnp.broadcast_to(jnp.eye(number, dtype=dtype), (rows, number, number))

            def means(x, width, eye=eye):
                return cells._means(x, count, width, least, from_end=from_end)

            found = jit(means)(eye, jnp.asarray(width, dtype))
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found, share, atol=count * eps, rtol=0)
        total = np.asarray(found, np.float64).sum(axis=(1, 2))
        np.testing.assert_allclose(total, width, rtol=4 * eps)


@pytest.mark.parametrize("least", [300.0, 0.0], ids=["gathered", "product"])
def test_the_parts_of_an_old_cell_sum_to_it(least):
    """In float32, of 512 cells: places as large as 512 would have errors of 3e-5."""
    width = np.array([300.1, 401.3, 511.7], np.float32)
    eye = jnp.broadcast_to(jnp.eye(512), (3, 512, 512))
    found = jit(lambda x, width: cells._means(x, 512, width, least))(eye, width)
    of_each = np.asarray(found, np.float64).sum(axis=1)
    np.testing.assert_allclose(of_each, np.tile(width[:, None] / 512, 512), rtol=1e-6)


def test_nothing_changes_where_nothing_is_contracted():
    """N vectors on N cells are their coefficients, to the bit, and so are cells written again."""
    cfg, x = cells_of(11), np.random.default_rng(0).normal(size=(2, 11, E)).astype(np.float32)
    first = long_term.write(cfg, long_term.init(cfg, 2, E), x)
    np.testing.assert_array_equal(first.coeffs, x)
    for least in (11.0, 0.0):
        again = jit(lambda x, least=least: cells._means(x, 11, jnp.full(2, 11.0), least))(x)
        np.testing.assert_array_equal(again, x)


def test_a_row_that_is_reset_is_as_a_fresh_one():
    """Not even a NaN of the old document survives; the row beside it is not touched."""
    cfg = cells_of(6, contraction="power")
    x = np.random.default_rng(0).normal(size=(2, 4, E)).astype(np.float32)
    write = jit(lambda memory: long_term.write(cfg, memory, x))
    memory = write(write(long_term.init(cfg, 2, E)))
    clean = write(long_term.reset(memory, np.array([True, False])))
    spoilt = memory._replace(coeffs=memory.coeffs.at[0].set(np.nan))
    found = write(long_term.reset(spoilt, np.array([True, False])))
    jax.tree.map(np.testing.assert_array_equal, found, clean)
    fresh = write(long_term.init(cfg, 2, E))
    np.testing.assert_array_equal(found.coeffs[0], fresh.coeffs[0])
    # Its counter says that the row is empty: what its coefficients hold does not matter.
    emptied = spoilt._replace(writes=memory.writes.at[0].set(0))
    np.testing.assert_array_equal(write(emptied).coeffs, clean.coeffs)


def test_there_are_no_tables():
    """Whatever the contraction: only the first fit is a matrix from the host."""
    ops = long_term.operators(cells_of(8, contraction="power"), 4)
    assert ops.first.shape == (1, 4, 8) and ops[1:] == (None, None, None)


@pytest.mark.parametrize("locations", ["quantile", "draw"])
def test_a_sticky_memory_without_salience_takes_all_of_the_past(locations):
    """As many samples as cells, one of each: the write is that of a memory that is not sticky."""
    sticky = cells_of(8, sticky=True, num_samples=8, bins=4, locations=locations)
    memory = memory_of(sticky, WRITES)
    memory = memory._replace(salience=jnp.zeros_like(memory.salience))
    x = np.random.default_rng(3).normal(size=(len(WRITES), 3, E)).astype(np.float32)
    written = long_term.write(sticky, memory, x, key=jax.random.key(0))
    expected = long_term.write(cells_of(8, bins=4), memory, x)
    np.testing.assert_array_equal(written.coeffs, expected.coeffs)
