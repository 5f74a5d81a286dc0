"""Tables of linear operators, one for each number of writes, and how they are applied to rows.

The operator of a further write's new vectors is far from full rank. With the paper's constants it
puts 1,024 vectors into the last quarter of the signal, where smooth functions can tell some 65
apart. Such a table is kept as the product of two thin tables, exact to float32's rounding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import HIGHEST, AnyArray

# A product of two thin operators is kept if it takes at most this share of the work of one.
_LARGEST_SHARE = 0.5


class LowRank(NamedTuple):
    """K operators `left_k right_k` of rank r."""

    left: Float[AnyArray, "K R r"]  # orthonormal columns
    right: Float[AnyArray, "K r N"]


#: K operators [R, N] that act on a signal from the left, as `gᵀ x`.
Table = Float[AnyArray, "K R N"] | LowRank


def compact(table: Float[np.ndarray, "K R N"], dtype: np.dtype) -> Table:
    """A float64 table cast to a dtype; in float32 as `LowRank` if that halves the work.

    `G ≈ Q (Qᵀ G)`, Q an orthonormal basis of the images of random vectors, the same each time
    (Halko, Martinsson & Tropp, 2011, "Finding structure with randomness", §4). The rank r must
    satisfy `r (R + N) ≤ ½ R N`, and no operator of the table may change by more than `ε/16` of its
    Frobenius norm. For comparison, rounding its numbers to float32 changes it by some `ε/4`.
    """
    if dtype != np.float32:
        return table.astype(dtype)
    _, rows, columns = table.shape
    most = int(_LARGEST_SHARE * rows * columns / (rows + columns))
    probe = np.random.default_rng(0).normal(size=(columns, most))
    # Four ranks only: on a busy machine the threads of BLAS wait in each decomposition.
    for rank in sorted({most // 4, most // 2, 3 * most // 4, most} - {0}):
        if factors := _factors(table, probe[:, :rank]):
            left, right = (np.stack(part).astype(dtype) for part in zip(*factors, strict=True))
            return LowRank(left, right)
    return table.astype(dtype)


def _factors(table: np.ndarray, probe: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """(Q, Qᵀ G) of each operator; None if that changes one of them by too much."""
    factors = []
    for g in table:
        left, _ = np.linalg.qr(g @ probe)
        right = left.T @ g
        change = np.linalg.norm(g - left @ right)
        if not change <= np.finfo(np.float32).eps / 16 * np.linalg.norm(g):
            return None
        factors.append((left, right))
    return factors


def dense(table: Table) -> Float[AnyArray, "K R N"]:
    """The operators as whole matrices, to look at."""
    if not isinstance(table, LowRank):
        return table
    if isinstance(table.left, jax.Array):
        return jnp.matmul(table.left, table.right, precision=HIGHEST)
    return table.left @ table.right


def shape(table: Table) -> tuple[int, int, int]:
    """(K, R, N)."""
    left, right = (table.left, table.right) if isinstance(table, LowRank) else (table, table)
    return left.shape[0], left.shape[1], right.shape[2]


def by_writes(
    table: Table, index: Int[Array, " B"], x: Float[AnyArray, "B R E"]
) -> Float[Array, "B N E"]:
    """`table[index_b]ᵀ x_b` for each row b; table and index are constants to autodiff.

    If all rows ask for the same operator, it is taken once and nothing is gathered by row.
    """
    return _by_writes(jax.tree.map(jnp.asarray, table), index, x)


@partial(jax.jit, static_argnums=3)  # without it every eager call would compile the branches anew
def _apply(table: Table, index: Array, x: Array, transposed: bool) -> Array:
    """`gᵀ x`, or `g x` if transposed: with one operator for all rows, or with each row's own."""

    def shared(table, index, x):
        return _product("", jax.tree.map(lambda part: part[index[0]], table), x, transposed)

    def each(table, index, x):
        return _product("b", jax.tree.map(lambda part: part[index], table), x, transposed)

    if shape(table)[0] == 1:
        return shared(table, index, x)
    return jax.lax.cond((index == index[0]).all(), shared, each, table, index, x)


def _product(b: str, operator: Array | LowRank, x: Array, transposed: bool) -> Array:
    """The product with operators g of one matrix or two; b is "b" if each row has its own."""
    formula = f"{b}rn,bne->bre" if transposed else f"{b}rn,bre->bne"
    factors = operator if isinstance(operator, LowRank) else (operator,)
    for factor in reversed(factors) if transposed else factors:
        x = jnp.einsum(formula, factor, x, precision=HIGHEST)
    return x


_by_writes = jax.custom_vjp(lambda table, index, x: _apply(table, index, x, False))
_by_writes.defvjp(
    lambda table, index, x: (_by_writes(table, index, x), (table, index)),
    lambda residuals, cotangent: (None, None, _apply(*residuals, cotangent, True)),
)
