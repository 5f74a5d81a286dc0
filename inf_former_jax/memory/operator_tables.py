"""Tables of linear operators, one for each number of writes, and how they are applied.

The operator of a further write's new vectors is far from full rank: by the paper's constants it
puts 1,024 of them into the last quarter of the signal, where smooth functions tell some 65 apart.
Such a table is kept as a product of two thin ones, to float32's own rounding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.basis import HIGHEST, AnyArray

# Two products instead of one have to save half of the work.
_WORTH = 0.5


class LowRank(NamedTuple):
    """K operators `left_k right_k` of rank r."""

    left: Float[AnyArray, "K R r"]  # orthonormal columns
    right: Float[AnyArray, "K r N"]


#: K operators [R, N] that act on a signal from the left, as `gᵀ x`.
Table = Float[AnyArray, "K R N"] | LowRank


def compact(table: Float[np.ndarray, "K R N"], dtype: np.dtype) -> Table:
    """A float64 table cast to a dtype; to float32 as `LowRank` where that is half of the work.

    `G ≈ Q (Qᵀ G)`, Q an orthonormal basis of the images of random vectors, the same each time
    (Halko, Martinsson & Tropp, 2011, "Finding structure with randomness", §4): by a rank r with
    `r (R + N) ≤ ½ R N` at which all K operators differ from theirs by less than `ε/16` of
    themselves, by Frobenius' norm. Rounding their numbers to float32 changes some `ε/4`.
    """
    if dtype != np.float32:
        return table.astype(dtype)
    _, rows, columns = table.shape
    most = int(_WORTH * rows * columns / (rows + columns))
    probe = np.random.default_rng(0).normal(size=(columns, most))
    # Quarters: few decompositions, since on a busy machine the threads of BLAS wait in each.
    for rank in sorted({most // 4, most // 2, 3 * most // 4, most} - {0}):
        if factors := _factors(table, probe[:, :rank]):
            return LowRank(*(np.stack(of).astype(dtype) for of in zip(*factors, strict=True)))
    return table.astype(dtype)


def _factors(table, probe):
    """(Q, Qᵀ G) of each operator; None if that leaves out too much of one."""
    found = []
    for g in table:
        left, _ = np.linalg.qr(g @ probe)
        right = left.T @ g
        left_out = np.linalg.norm(g - left @ right)
        if not left_out <= np.finfo(np.float32).eps / 16 * np.linalg.norm(g):
            return None
        found.append((left, right))
    return found


def dense(table: Table) -> Float[AnyArray, "K R N"]:
    """The operators as matrices, to look at."""
    if not isinstance(table, LowRank):
        return table
    if isinstance(table.left, jax.Array):
        return jnp.matmul(table.left, table.right, precision=HIGHEST)
    return table.left @ table.right


def shape(table: Table) -> tuple[int, int, int]:
    """(K, R, N)."""
    if isinstance(table, LowRank):
        return *table.left.shape[:2], table.right.shape[-1]
    return table.shape


def by_writes(
    table: Table, index: Int[Array, " B"], x: Float[Array, "B R E"]
) -> Float[Array, "B N E"]:
    """`table[index_b]ᵀ x_b` of each row b; table and index are constants to autodiff.

    Where all rows ask for the same operator it is taken once and nothing is gathered by row.
    """
    return _by_writes(jax.tree.map(jnp.asarray, table), index, x)


@partial(jax.jit, static_argnums=3)  # else every eager call would compile the branches anew
def _apply(table, index, x, transposed):
    """The products with one operator for all rows, or with each row's own."""

    def shared(table, index, x):
        return _product("", jax.tree.map(lambda of: of[index[0]], table), x, transposed)

    def each(table, index, x):
        return _product("b", jax.tree.map(lambda of: of[index], table), x, transposed)

    if shape(table)[0] == 1:
        return shared(table, index, x)
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
