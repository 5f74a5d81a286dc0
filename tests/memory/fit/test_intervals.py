"""Vectors as intervals, in closed form: against quadrature, and what a projection conserves."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import gaussian_basis, rectangular_basis
from inf_former_jax.memory.fit import intervals
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.operator_tables import dense
from inf_former_jax.memory.write_operators import interval_decay, write_operator

POINTS = 200_000
GAUSSIAN = gaussian_basis(6, (0.1, 0.3))
CELLS = rectangular_basis(5)
TAU = 0.7


def middles(low=0.0, high=1.0):
    """Midpoints of [low, high] and the step between them."""
    step = (high - low) / POINTS
    return low + (np.arange(POINTS) + 0.5) * step, step


@pytest.mark.parametrize("basis", [GAUSSIAN, CELLS], ids=["gaussian", "cells"])
@pytest.mark.parametrize("tau", [1.0, TAU])
def test_products_are_the_integrals(basis, tau):
    t, step = middles(0, tau)
    expected = basis.evaluate(t).T @ basis.evaluate(t / tau) * step
    np.testing.assert_allclose(basis.products(tau), expected, atol=1e-4, rtol=0)
    if basis is GAUSSIAN:
        np.testing.assert_allclose(basis.products(tau), expected, rtol=1e-8)


def test_products_over_the_whole_line():
    t, step = middles(-3, 4)
    expected = GAUSSIAN.evaluate(t).T @ GAUSSIAN.evaluate(t) * step
    np.testing.assert_allclose(GAUSSIAN.products(1.0, whole_line=True), expected, rtol=1e-8)


@pytest.mark.parametrize("basis", [GAUSSIAN, CELLS], ids=["gaussian", "cells"])
def test_integrals_between_edges(basis):
    edges = np.array([0.0, 0.13, 0.2, 0.77, 1.0])
    t, step = middles()
    inside = (t[None] >= edges[:-1, None]) & (t[None] < edges[1:, None])
    expected = inside @ basis.evaluate(t) * step
    np.testing.assert_allclose(basis.integral(edges), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("basis", "ridge", "padding"),
    [(GAUSSIAN, 1e-2, False), (GAUSSIAN, 1e-2, True), (CELLS, 0.0, False)],
    ids=["gaussian", "padded", "cells"],
)
def test_the_nearest_signal(basis, ridge, padding):
    """A least-squares fit to the contracted signal and the steps behind it, on a fine grid."""
    rng = np.random.default_rng(0)
    size, length, count = 4000, 3, len(basis.evaluate(np.zeros(1))[0])
    old, x = rng.normal(size=(count, 2)), rng.normal(size=(length, 2))
    low, high = (-1.5, 2.5) if padding else (0.0, 1.0)
    step = (high - low) / (size * 20)
    t = low + (np.arange(size * 20) + 0.5) * step
    target = np.zeros((len(t), 2))
    past, new = (t >= 0) & (t < TAU), (t >= TAU) & (t < 1)
    target[past] = basis.evaluate(t[past] / TAU) @ old
    target[new] = x[np.minimum(((t[new] - TAU) / (1 - TAU) * length).astype(int), length - 1)]
    psi = basis.evaluate(t)
    expected = np.linalg.solve(psi.T @ psi * step + ridge * np.eye(count), psi.T @ target * step)
    options = {"ridge": ridge, "whole_line": padding}
    g = intervals.projection(basis, intervals.interval_edges(TAU, length), **options)
    found = intervals.decay(basis, TAU, **options) @ old + g.T @ x
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max(), rtol=0)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 0.99))
def test_cells_conserve_the_mean(count, length, tau):
    """Every vector's shares sum to the length it covers, and every old cell's to τ of its own."""
    basis = rectangular_basis(count)
    g = intervals.projection(basis, intervals.interval_edges(tau, length))
    np.testing.assert_allclose(g.sum(axis=1) / count, (1 - tau) / length, rtol=1e-10)
    a = intervals.decay(basis, tau)
    np.testing.assert_allclose(a.sum(axis=0), tau, rtol=1e-10)
    # Constants: whatever a cell is put together from, its shares sum to 1.
    np.testing.assert_allclose(a.sum(axis=1) + g.sum(axis=0), 1, rtol=1e-10)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 0.95))
def test_shares_are_sparse(count, length, tau):
    """A row has at most ⌈ratio⌉ + 1 parts."""
    basis = rectangular_basis(count)
    g = intervals.projection(basis, intervals.interval_edges(tau, length))
    most = np.ceil(length / (count * (1 - tau)) - 1e-9) + 1
    assert ((g > 1e-12).sum(axis=0) <= most).all()
    assert ((intervals.decay(basis, tau) > 1e-12).sum(axis=1) <= np.ceil(1 / tau - 1e-9) + 1).all()


@pytest.mark.parametrize("basis", [GAUSSIAN, CELLS], ids=["gaussian", "cells"])
def test_what_is_not_contracted_stays(basis):
    """τ = 1 without a ridge: the nearest signal to a signal is itself."""
    found = intervals.decay(basis, 1.0)
    np.testing.assert_allclose(found, np.eye(len(found)), atol=1e-9)


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("padding", [True, False])
def test_tables_of_a_gaussian_basis(sticky, padding):
    """A, G_new and G_past of each number of writes; a memory reads Gᵀ X and no regression.

    ρ = λ/N, the ridge of N points on [0, 1].
    """
    cfg = LongTermConfig(
        num_basis=6, widths=(0.1, 0.3), fit="intervals", padding=padding, ridge=0.3,
        contraction="power", horizon=3, sticky=sticky, **({"num_samples": 8} if sticky else {}),
    )  # fmt: skip
    ops = long_term.operators(cfg, 4, np.float64)
    options = {"ridge": 0.3 / 6, "whole_line": padding}
    assert ops.new is not None and len(dense(ops.new)) == 3
    for k in (1, 2, 3):
        edges = intervals.interval_edges(k / (k + 1), 4)
        new = intervals.projection(cfg.basis, edges, **options)
        np.testing.assert_allclose(dense(ops.new)[k - 1], new, rtol=1e-10)
        if sticky:
            edges = k / (k + 1) * np.linspace(0, 1, 9)
            past = intervals.projection(cfg.basis, edges, **options)
            np.testing.assert_allclose(ops.past[k - 1], past, rtol=1e-10)
        else:
            decay = intervals.decay(cfg.basis, k / (k + 1), **options)
            np.testing.assert_allclose(ops.decay[k - 1].T, decay, rtol=1e-10)
            np.testing.assert_allclose(interval_decay(cfg, k), decay, rtol=1e-12)
    points = dataclasses.replace(cfg, fit="points", num_samples=8)
    assert np.abs(write_operator(points, 4, 2)[1] - write_operator(cfg, 4, 2)[1]).max() > 0.01
