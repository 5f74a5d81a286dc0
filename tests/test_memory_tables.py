"""Operators as products of smaller ones: the same operators, to the rounding of their dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term, tables
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.operators import write_operator
from inf_former_jax.memory.tables import LowRank, by_writes, compact, dense
from tests.golden import relative_error

B, R, N, E, RANK = 3, 12, 10, 4, 2
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def low_rank(count, seed=0):
    """Operators that are products, in float64."""
    return random(count, R, RANK, seed=seed) @ random(count, RANK, N, seed=seed + 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_product_is_found(count):
    """In the order of the writes; the left factor's columns are orthonormal."""
    table = low_rank(count)
    table[0, :, :] = table[0, :, :1] * table[0, :1, :]  # of rank 1: the rank is the highest one's
    found = compact(table, F32)
    rank = RANK if count > 1 else 1
    assert isinstance(found, LowRank) and tables.shape(found) == tables.shape(table)
    assert found.left.shape == (count, R, rank) and found.right.shape == (count, rank, N)
    assert found.left.dtype == found.right.dtype == F32
    assert relative_error(dense(found), table) < 5e-7
    for left in found.left:
        np.testing.assert_allclose(left.T @ left, np.eye(rank), atol=1e-6)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_operator_of_full_rank_keeps_the_table(at):
    """To the bit, wherever it is in the table; and one whose rest is just above the rounding."""
    table = low_rank(3)
    table[at] += 1e-5 * random(R, N, seed=5)
    found = compact(table, F32)
    np.testing.assert_array_equal(found, table.astype(F32))


def test_what_rounding_loses_anyway_is_left_out():
    """Singular values 1, ½ and 1e-9: two are kept, and float64 keeps the whole matrix."""
    u, v = (np.linalg.qr(random(size, size, seed=size))[0] for size in (R, N))
    g = sum(s * np.outer(u[:, i], v[i]) for i, s in enumerate([1.0, 0.5, 1e-9]))[None]
    assert compact(g, F32).left.shape == (1, R, 2)
    g += 1e-16 * random(R, N)
    assert not isinstance(compact(g, F64), LowRank)


@pytest.mark.parametrize(("count", "index"), [(1, [0] * 3), (2, [0, 1, 1]), (5, [3] * 3),
                                              (5, [3, 0, 4])])  # fmt: skip
def test_rows_get_their_own_operator(count, index):
    """Both branches of `by_writes`, forward and backward, against a loop over rows."""
    table = low_rank(count).astype(np.float32)
    x, cotangent = random(B, R, E, seed=3), random(B, N, E, seed=4)
    for of in (table, compact(table.astype(float), F32)):

        def both(x, of=of):
            out, pull = jax.vjp(lambda x: by_writes(of, jnp.array(index), x), x)
            return out, pull(jnp.asarray(cotangent, jnp.float32))[0]

        out, grad = jax.jit(both)(jnp.asarray(x, jnp.float32))
        for b, k in enumerate(index):
            np.testing.assert_allclose(out[b], table[k].T @ x[b], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(grad[b], table[k] @ cotangent[b], rtol=1e-4, atol=1e-4)


# Wide functions, close together: all three tables of a write have a low rank in float32.
SMOOTH = LongTermConfig(num_basis=64, widths=(0.15,), num_samples=64)
LENGTH = 64


def test_the_operators_of_a_write_are_what_they_say():
    """At a small size and at the paper's: less is left out than rounding changes."""
    for cfg, length in ((SMOOTH, LENGTH), (LongTermConfig(), 1024)):
        ops = long_term.operators(cfg, length, F32)
        assert all(isinstance(of, LowRank) for of in (ops.first, ops.new, ops.decay))
        for found, k in ((ops.first, 0), (ops.new, 1)):
            exact = write_operator(cfg, length, k)[1]
            error = np.linalg.norm(dense(jax.tree.map(np.float64, found))[0] - exact, 2)
            assert error < np.finfo(np.float32).eps * np.linalg.norm(exact, 2)


def test_rows_that_begin_beside_rows_that_go_on():
    """One or both fits are computed: a row's numbers do not depend on what the others do."""
    ops = long_term.operators(SMOOTH, LENGTH, F32)
    exact = long_term.operators(SMOOTH, LENGTH, F64)
    x = random(B, LENGTH, E).astype(np.float32)
    fitted = jax.jit(long_term.fitted)
    mixed = fitted(ops, jnp.array([1, 0, 7]), x)
    going_on, beginning = fitted(ops, jnp.array([1, 2, 7]), x), fitted(ops, jnp.zeros(3, int), x)
    for b, (other, of) in enumerate(
        [(going_on, exact.new), (beginning, exact.first), (going_on, exact.new)]
    ):
        np.testing.assert_array_equal(mixed[b], other[b])
        assert relative_error(mixed[b], dense(of)[0].T @ x[b].astype(float)) < 1e-5


def test_a_long_stream_is_as_right_as_by_whole_operators():
    """40 writes in float32: the signal's error against float64 is no larger than theirs."""
    ops, exact = (long_term.operators(SMOOTH, LENGTH, of) for of in (F32, F64))
    whole = jax.tree.map(lambda leaf: leaf.astype(F32), exact)
    x = random(40, 1, LENGTH, E).astype(np.float32)

    @jax.jit
    def stream(ops):
        def write(memory, now):
            return long_term.write(SMOOTH, memory, now, operators=ops), None

        return jax.lax.scan(write, long_term.init(SMOOTH, 1, E), x)[0]

    coeffs = exact.first[0].T @ x[0, 0].astype(float)
    for now in x[1:, 0]:
        coeffs = exact.decay[0].T @ coeffs + exact.new[0].T @ now
    t = np.linspace(0, 1, 200)
    psi = long_term.evaluate(SMOOTH.basis, t)
    errors = [
        relative_error(psi @ np.asarray(stream(of).coeffs[0], float), psi @ coeffs)
        for of in (ops, whole)
    ]
    assert errors[0] < 2 * errors[1] < 1e-3
