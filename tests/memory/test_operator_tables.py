"""Operators as products of thinner ones: the same operators, to the rounding of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term
from inf_former_jax.memory import operator_tables as tables
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.operator_tables import LowRank, by_writes, compact, dense
from inf_former_jax.memory.write_operators import write_operator
from tests.golden import relative_error

B, R, N, E, RANK = 3, 24, 20, 4, 2
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
EPS = np.finfo(np.float32).eps


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def low_rank(count, seed=0):
    """Operators that are products, in float64. Those of R · N numbers may have a rank of 5."""
    return random(count, R, RANK, seed=seed) @ random(count, RANK, N, seed=seed + 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_product_is_found(count):
    """In the order of the writes; the left factor's columns are orthonormal."""
    found = compact(table := low_rank(count), F32)
    assert isinstance(found, LowRank) and tables.shape(found) == tables.shape(table)
    assert found.left.shape == (count, R, RANK) and found.right.shape == (count, RANK, N)
    assert found.left.dtype == found.right.dtype == F32
    for g, product, left in zip(table, dense(found), found.left, strict=True):
        assert np.linalg.norm(product - g) < EPS * np.linalg.norm(g)
        np.testing.assert_allclose(left.T @ left, np.eye(RANK), atol=1e-6)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(("rest", "kept"), [(EPS / 4, False), (EPS / 64, True)])
def test_what_rounding_would_lose_is_left_out_and_no_more(at, rest, kept):
    """One of three operators has a rest of full rank: above ε/16 of it the table stays, to the bit.

    `rest` is its norm, relative to the operator's.
    """
    table, noise = low_rank(3), random(R, N, seed=5)
    table[at] += rest * np.linalg.norm(table[at]) / np.linalg.norm(noise) * noise
    found = compact(table, F32)
    assert isinstance(found, LowRank) == kept
    if not kept:
        np.testing.assert_array_equal(found, table.astype(F32))


@pytest.mark.parametrize("dtype", [F64, np.dtype(jnp.bfloat16)])
def test_other_dtypes_keep_the_whole(dtype):
    """Float64 is what float32 is measured by."""
    np.testing.assert_array_equal(compact(low_rank(2), dtype), low_rank(2).astype(dtype))


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 3), (1, R, N)])
def test_operators_of_nothing(shape):
    """Vectors between basis functions that do not reach them: zeros, whatever form they take."""
    np.testing.assert_array_equal(dense(compact(np.zeros(shape), F32)), np.zeros(shape, F32))


@pytest.mark.parametrize(
    ("count", "index"), [(1, [0] * 3), (2, [0, 1, 1]), (5, [3] * 3), (5, [3, 0, 4])]
)
def test_rows_get_their_own_operator(count, index):
    """Both branches of `by_writes`, forward and backward, against a loop over rows."""
    table = low_rank(count).astype(np.float32)
    x, cotangent = random(B, R, E, seed=3), random(B, N, E, seed=4)
    for form in (table, compact(low_rank(count), F32)):

        def both(x, form=form):
            out, pull = jax.vjp(lambda x: by_writes(form, jnp.array(index), x), x)
            return out, pull(jnp.asarray(cotangent, jnp.float32))[0]

        out, grad = jax.jit(both)(jnp.asarray(x, jnp.float32))
        for b, k in enumerate(index):
            np.testing.assert_allclose(out[b], table[k].T @ x[b], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(grad[b], table[k] @ cotangent[b], rtol=1e-4, atol=1e-4)


# Wide functions, close together.
SMOOTH = LongTermConfig(num_basis=64, widths=(0.15,), num_samples=64)
LENGTH = 64


@pytest.mark.parametrize(
    ("cfg", "length", "rank"), [(SMOOTH, LENGTH, 12), (LongTermConfig(), 1024, 85)]
)
def test_the_operator_of_new_vectors(cfg, length, rank):
    """Of its rank, at a small size and at the paper's: as far off as rounded numbers of its own."""
    found = long_term.operators(cfg, length, F32).new
    exact = write_operator(cfg, length, 1)[1]
    assert found.left.shape == (1, length, rank)
    rounded = np.linalg.norm(exact.astype(F32) - exact)
    in_float64 = jax.tree.map(np.float64, found)
    assert np.linalg.norm(dense(in_float64)[0] - exact) < 2 * rounded


def test_rows_that_begin_beside_rows_that_go_on():
    """One or both fits are computed: a row's numbers do not depend on what the others do."""
    ops = long_term.operators(SMOOTH, LENGTH, F32)
    exact = long_term.operators(SMOOTH, LENGTH, F64)
    assert isinstance(ops.new, LowRank)
    x = random(B, LENGTH, E).astype(np.float32)
    mixed, going_on, beginning = (
        long_term.fit_new(SMOOTH, ops, jnp.array(writes), x)
        for writes in ([1, 0, 7], [1, 2, 7], [0, 0, 0])
    )
    for b, (alike, table) in enumerate(
        [(going_on, exact.new), (beginning, exact.first), (going_on, exact.new)]
    ):
        np.testing.assert_array_equal(mixed[b], alike[b])
        assert relative_error(mixed[b], table[0].T @ x[b].astype(float)) < 1e-5


def test_a_long_stream_is_as_right_as_by_whole_operators():
    """40 writes in float32: the signal's error against float64 is at most a tenth above theirs."""
    ops, exact = (long_term.operators(SMOOTH, LENGTH, dtype) for dtype in (F32, F64))
    whole = jax.tree.map(lambda leaf: leaf.astype(F32), exact)
    x = random(40, 1, LENGTH, E).astype(np.float32)

    @jax.jit
    def stream(ops):
        def write(memory, x):
            memory = long_term.write(SMOOTH, memory, x, operators=ops)
            return memory, memory.coeffs[0]

        return jax.lax.scan(write, long_term.init(SMOOTH, 1, E), x)[1]

    coeffs = [exact.first[0].T @ x[0, 0].astype(float)]
    for vectors in x[1:, 0]:
        coeffs.append(exact.decay[0].T @ coeffs[-1] + exact.new[0].T @ vectors)
    psi = evaluate(SMOOTH.basis, np.linspace(0, 1, 200))
    errors = [
        np.sqrt(np.mean((psi @ np.asarray(stream(form), float) - psi @ np.stack(coeffs)) ** 2))
        for form in (ops, whole)
    ]
    assert errors[0] < 1.1 * errors[1]
    assert errors[1] < 1e-4 * np.abs(psi @ np.stack(coeffs)).max()
