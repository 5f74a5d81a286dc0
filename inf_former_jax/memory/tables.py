"""Tables of linear operators, one for each number of writes, and how they are applied.

A write's operators are far from full rank: G_new of the paper's constants puts 1,024 vectors into
the last quarter of the signal, where smooth functions tell some 65 apart. Such a table is kept as
a product of two smaller ones. That is no approximation beyond the dtype's own: what is left out of
an operator is less than what rounding its numbers changes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.basis import HIGHEST, AnyArray

# Two products instead of one have to save at least a quarter of the work.
_WORTH = 0.75


class LowRank(NamedTuple):
    """K operators `left_k right_k` of rank r, both factors in one dtype."""

    left: Float[AnyArray, "K R r"]  # orthonormal columns
    right: Float[AnyArray, "K r N"]


#: K operators [R, N] that act on a signal from the left, as `gᵀ x`.
Table = Float[AnyArray, "K R N"] | LowRank


def compact(table: Float[np.ndarray, "K R N"], dtype: np.dtype) -> Table:
    """A float64 table cast to a dtype; as `LowRank` where that is less work.

    `G = U S Vᵀ` without the singular values below `ε/8` of the largest, ε the dtype's: a rank r
    with `r (R + N) ≤ ¾ R N`, the same for all K operators. The U of each is found among the images
    of random vectors, the same each time, and kept if nothing else is left of G (Halko, Martinsson
    & Tropp, 2011, "Finding structure with randomness", §4). Float64 itself has no such room.
    """
    count, rows, columns = table.shape
    most = int(_WORTH * rows * columns / (rows + columns))
    tolerance = np.finfo(dtype).eps / 8
    probe = np.random.default_rng(0).normal(size=(columns, most))
    found, rank = {}, 0
    # From both ends, one of which has the highest rank: G_new's falls with k, A's grows.
    for k in (0, *range(count - 1, 0, -1)):
        basis, _ = np.linalg.qr(table[k] @ probe)
        reduced = basis.T @ table[k]
        u, s, vt = np.linalg.svd(reduced, full_matrices=False)
        if not np.linalg.norm(table[k] - basis @ reduced) <= tolerance * s[:1].sum():
            return table.astype(dtype)
        rank = max(rank, int((s > tolerance * s[0]).sum()))
        found[k] = basis @ u, s[:, None] * vt
    left, right = map(np.stack, zip(*(found[k] for k in range(count)), strict=True))
    return LowRank(left[..., :rank].astype(dtype), right[:, :rank].astype(dtype))


def dense(table: Table) -> Float[AnyArray, "K R N"]:
    """The operators as matrices, to look at."""
    return table.left @ table.right if isinstance(table, LowRank) else table


def shape(table: Table) -> tuple[int, int, int]:
    """(K, R, N)."""
    if isinstance(table, LowRank):
        return *table.left.shape[:2], table.right.shape[-1]
    return table.shape


def by_writes(
    table: Table, index: Int[Array, " B"], x: Float[Array, "B R E"]
) -> Float[Array, "B N E"]:
    """`table[index_b]ᵀ x_b` of each row b; table and index are constants to autodiff.

    Where all rows ask for the same of many operators it is taken once and nothing is gathered by
    row. (Of two, rows take their own: the bits of a row are then independent of the other rows.)
    """
    return _by_writes(jax.tree.map(jnp.asarray, table), index, x)


@partial(jax.jit, static_argnums=3)  # else every eager call would compile the branches anew
def _apply(table, index, x, transposed):
    """The products with one operator for all rows, or with each row's own."""

    def shared(table, index, x):
        return _product("", jax.tree.map(lambda of: of[index[0]], table), x, transposed)

    def each(table, index, x):
        return _product("b", jax.tree.map(lambda of: of[index], table), x, transposed)

    count, _, _ = shape(table)
    if count <= 2:
        return (shared if count == 1 else each)(table, index, x)
    return jax.lax.cond((index == index[0]).all(), shared, each, table, index, x)


def _product(b, operator, x, transposed):
    """`gᵀ x` of operators g ("" one, "b" one a row), or of its transpose, `g x`."""
    formula = f"{b}rn,bne->bre" if transposed else f"{b}rn,bre->bne"
    factors = operator if isinstance(operator, LowRank) else (operator,)
    for factor in reversed(factors) if transposed else factors:
        x = jnp.einsum(formula, factor, x, precision=HIGHEST)
    return x


_by_writes = jax.custom_vjp(lambda table, index, x: _apply(table, index, x, False))
_by_writes.defvjp(
    lambda table, index, x: (_by_writes(table, index, x), (table, index)),
    lambda kept, cotangent: (None, None, _apply(*kept, cotangent, True)),
)
