"""Vectors as intervals on N equal cells, inside the traced program (SPEC §9).

A coefficient is the mean of the signal in its cell, and a write is a comparison of edges: a new
cell takes from each old cell, and from each new vector, the length that they have in common. In
units of cells,

    the past:   cell j covers [j, j+1) · S/(Nτ) of S old cells that are squeezed into [0, τ]
    the new:    cell j covers the vectors behind τ; the last one ends at 1

So there are no tables of operators, τ may be any number of each row, and no number of writes is
too large. Two things are kept to float32's rounding for ever: the parts of a cell sum to 1, so that
constants are reproduced, and the parts that an old cell is cut into sum to it, so that the mean is
conserved.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.config import LongTermConfig


class Squeeze(NamedTuple):
    """How far each row's past is squeezed: into [0, τ]."""

    tau: Float[AnyArray, " B"]
    rest: Float[AnyArray, " B"]  # 1 - τ, which is exact where τ is near 1


def squeeze_of(cfg: LongTermConfig, writes: Int[AnyArray, " B"], dtype: Any) -> Squeeze:
    """τ_k of rows that have been written k = `writes` ≥ 1 times."""
    if cfg.contraction == "fixed":
        tau, rest = (jnp.full(jnp.shape(writes), x, dtype) for x in (cfg.tau, 1 - cfg.tau))
        return Squeeze(tau, rest)
    # k/(k+1) = 1 - 1/(k+1), each half of it rounded once.
    k = jnp.asarray(writes, dtype)
    if cfg.power == 1:
        return Squeeze(k / (k + 1), 1 / (k + 1))
    log = cfg.power * jnp.log1p(-1 / (k + 1))
    return Squeeze(jnp.exp(log), -jnp.expm1(log))


def squeeze(count: int, samples: Float[AnyArray, "B S E"], by: Squeeze, least: float) -> Array:
    """The means of `count` (N) cells of [0, 1] after S equal cells are squeezed into [0, τ].

    Cells behind τ are 0, and the cell with τ in it holds its part of the past.

    Args:
        least: the smallest τ of any row, which bounds how many old cells a new one meets.

    Returns:
        [B, N, E].
    """
    cells = jnp.asarray(samples)
    parts = _parts(count, cells.shape[1], by, least)
    return _gather(parts, cells)


class _Parts(NamedTuple):
    """Cell j takes `share[:, j, r]` of old cell `first[:, j] + r`."""

    first: Int[Array, "B N"]
    share: Float[Array, "B N r"]
    start: Int[Array, "B S"]  # the first new cell that an old cell may be a part of


def _parts(count: int, old: int, by: Squeeze, least: float) -> _Parts:
    widest = old / (count * least)  # old cells that a new one covers, at most
    ratio = old / count / jnp.asarray(by.tau)
    first, fraction = _multiples(count, ratio, widest)
    terms = int(widest) + 2
    offset = jnp.arange(terms, dtype=ratio.dtype)
    # What the cell [fraction, fraction + ratio) has in common with [r, r + 1).
    upper = jnp.minimum((fraction + ratio[:, None])[..., None], offset + 1)
    common = jnp.maximum(upper - jnp.maximum(fraction[..., None], offset), 0.0)
    inside = first[..., None] + jnp.arange(terms) < old
    share = jnp.where(inside, common, 0.0) / ratio[:, None, None]
    start, _ = _multiples(old, 1 / ratio, 1 / (old / count))
    return _Parts(first, share, start)


def _multiples(
    count: int, ratio: Float[Array, " B"], most: float
) -> tuple[Int[Array, "B J"], Float[Array, "B J"]]:
    """Whole part and fraction of `j · ratio`, j = 0 … count-1, the fraction to rounding.

    The product of a large j with a float32 would leave a fraction of few digits. The ratio is cut
    into a part of few binary digits, whose multiples are exact, and a small rest.
    """
    digits = 22 - max(int(count * max(most, 1.0)), 1).bit_length()
    step = 2.0**-digits
    coarse = jnp.floor(ratio / step) * step
    places = jnp.arange(count, dtype=ratio.dtype)[None]
    exact = places * coarse[:, None]
    whole = jnp.floor(exact)
    fraction = (exact - whole) + places * (ratio - coarse)[:, None]
    carried = jnp.floor(fraction)
    return (whole + carried).astype(jnp.int32), fraction - carried


@jax.custom_vjp
def _gather(parts: _Parts, cells: Float[Array, "B S E"]) -> Float[Array, "B N E"]:
    total = 0.0
    for r in range(parts.share.shape[-1]):
        rows = jnp.minimum(parts.first + r, cells.shape[1] - 1)
        total = total + parts.share[..., r, None] * jnp.take_along_axis(cells, rows[..., None], 1)
    return jnp.asarray(total)


def _gather_transposed(parts: _Parts, cotangent: Float[Array, "B N E"]) -> tuple[None, Array]:
    """An old cell's cotangent is gathered, too: it is a part of a few new cells at most.

    XLA would scatter, one row after the other.
    """
    count, old = parts.first.shape[1], parts.start.shape[1]
    terms, total = count // old + 4, 0.0
    for r in range(-1, terms - 1):
        row = parts.start + r
        inside = (row >= 0) & (row < count)
        row = jnp.clip(row, 0, count - 1)
        which = jnp.arange(old)[None] - jnp.take_along_axis(parts.first, row, 1)
        inside &= (which >= 0) & (which < parts.share.shape[-1])
        which = jnp.clip(which, 0, parts.share.shape[-1] - 1)
        share = jax.vmap(lambda share, row, which: share[row, which])(parts.share, row, which)
        share = jnp.where(inside, share, 0.0)
        total = total + share[..., None] * jnp.take_along_axis(cotangent, row[..., None], 1)
    return None, jnp.asarray(total)


_gather.defvjp(lambda parts, cells: (_gather(parts, cells), parts), _gather_transposed)


def append(
    count: int, x: Float[AnyArray, "B L E"], by: Squeeze, least: float
) -> Float[Array, "B N E"]:
    """What L new vectors on (τ, 1] add to the means of `count` (N) cells.

    Args:
        least: the smallest τ of any row: no cell that lies wholly before it is touched.
    """
    x = jnp.asarray(x)
    length, touched = x.shape[1], min(count, int((1 - least) * count) + 1)
    width = count * by.rest[:, None]  # of the written part, in cells
    # Places are counted from the end, in vectors: near the end they are small and exact.
    ends = jnp.arange(touched, -1, -1, dtype=x.dtype)[None] * (length / width)
    ends = jnp.minimum(ends, length)
    place = jnp.arange(length, 0, -1, dtype=x.dtype)[None, None]  # where each vector begins
    common = jnp.minimum(ends[:, :-1, None], place) - jnp.maximum(ends[:, 1:, None], place - 1)
    share = jnp.maximum(common, 0.0) * (width / length)[..., None]
    new = jnp.einsum("bnl,ble->bne", jax.lax.stop_gradient(share), x, precision=HIGHEST)
    return jnp.pad(new, ((0, 0), (count - touched, 0), (0, 0)))
