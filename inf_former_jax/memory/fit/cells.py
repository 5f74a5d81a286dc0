"""Vectors as intervals on N equal cells, inside the traced program (SPEC §9).

A coefficient is the mean of the signal in its cell, and a write is a comparison of edges: a new
cell takes from each old cell, and from each new vector, the length that they have in common. In
units of what is squeezed into a part of [0, 1],

    the past:   cell j, counted from the start, covers [j, j+1) · S/(Nτ) of S old cells
    the new:    cell j, counted from the end, covers [j, j+1) · L/(N(1-τ)) of L vectors

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

# A sum of at most so many gathered terms is faster than a product with the matrix of all shares.
_MOST_TERMS = 8


class Squeeze(NamedTuple):
    """How far each row's past is squeezed: into [0, τ]."""

    tau: Float[Array, " B"]
    rest: Float[Array, " B"]  # 1 - τ, which is exact where τ is near 1


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


def squeeze(
    cfg: LongTermConfig, samples: Float[AnyArray, "B S E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """The means of N cells of [0, 1] after S equal cells are squeezed into [0, τ_k].

    Cells behind τ are 0, and the cell with τ in it holds its part of the past.

    Args:
        writes: k of each row; 0 counts as 1.
    """
    samples = jnp.asarray(samples)
    by = squeeze_of(cfg, jnp.maximum(writes, 1), samples.dtype)
    return _means(samples, cfg.num_basis, cfg.num_basis * by.tau, cfg.num_basis * cfg.tau_of(1))


def append(
    cfg: LongTermConfig, x: Float[AnyArray, "B L E"], writes: Int[AnyArray, " B"]
) -> Float[Array, "B N E"]:
    """What L new vectors on (τ_k, 1] add to the means of N cells.

    Args:
        writes: k of each row; 0 counts as 1.
    """
    x, count = jnp.asarray(x), cfg.num_basis
    by = squeeze_of(cfg, jnp.maximum(writes, 1), x.dtype)
    widest = count * (1 - cfg.tau_of(1))
    least = widest if cfg.contraction == "fixed" else 0.0
    return at_the_end(x, count, count * by.rest, min(count, int(widest) + 1), least)


def at_the_end(
    x: Float[Array, "B L E"],
    count: int,
    width: Float[AnyArray, " B"],
    touched: int,
    least: float = 0.0,
) -> Float[Array, "B N E"]:
    """The means of `count` (N) cells over whose last `width` L vectors are spread.

    Args:
        touched: how many cells they can meet, in any row.
        least: no width is below this one.
    """
    new = _means(x, touched, width, least, from_end=True)
    return jnp.pad(new, ((0, 0), (count - touched, 0), (0, 0)))


def _means(
    x: Float[Array, "B S E"],
    count: int,
    width: Float[AnyArray, " B"],
    least: float,
    *,
    from_end: bool = False,
) -> Float[Array, "B J E"]:
    """The means of `count` (J) cells over which S vectors are spread, from the first cell on.

    Args:
        width: how many cells the vectors cover, not above J. A cell that they cover in part holds
            its part of them.
        least: no width is below this one.
        from_end: cells and vectors are counted from the last one.
    """
    batch, number, _ = x.shape
    width = jnp.asarray(width)
    size, most = number / width, number / least if least else float("inf")
    terms = _terms(most, number), _terms(count / number, count)
    if max(terms) > _MOST_TERMS:
        which = jnp.broadcast_to(jnp.arange(number), (batch, count, number))
        first, fraction = _multiples(count, size, number)
        share = _common(which - first[..., None], fraction, size) / size[:, None, None]
        share = share[:, ::-1, ::-1] if from_end else share
        return jnp.einsum("bjs,bse->bje", jax.lax.stop_gradient(share), x, precision=HIGHEST)
    of_cells = _parts(count, size, number, terms[0], from_end)
    of_vectors = _parts(number, width / number, count, terms[1], from_end)
    of_cells = of_cells._replace(share=of_cells.share / size[:, None, None])
    return gather(of_cells, of_vectors, x)


class Parts(NamedTuple):
    """Interval j takes `share[:, j, r]` of the vector `rows[:, j, r]`."""

    rows: Int[Array, "B J r"]
    share: Float[Array, "B J r"]


def _terms(most: float, others: int) -> int:
    """How many of so many neighbours of length 1 an interval meets, not longer than `most`."""
    return int(min(most + 2, others))


def _parts(count: int, size: Float[Array, " B"], others: int, terms: int, from_end: bool) -> Parts:
    """The lengths that intervals `[j, j+1) · size` have in common with neighbours of length 1."""
    first, fraction = _multiples(count, size, others)
    place = jnp.broadcast_to(jnp.arange(terms), (*first.shape, terms))
    share, rows = _common(place, fraction, size), first[..., None] + place
    share, rows = jnp.where(rows < others, share, 0.0), jnp.minimum(rows, others - 1)
    return Parts(others - 1 - rows[:, ::-1], share[:, ::-1]) if from_end else Parts(rows, share)


def _common(
    place: Int[Array, "B J r"], fraction: Float[Array, "B J"], size: Float[Array, " B"]
) -> Float[Array, "B J r"]:
    """The length that `[fraction, fraction + size)` has in common with `[place, place + 1)`."""
    start, stop = fraction[..., None], (fraction + size[:, None])[..., None]
    return jnp.maximum(jnp.minimum(stop, place + 1.0) - jnp.maximum(start, place), 0.0)


def _multiples(
    count: int, size: Float[Array, " B"], others: int
) -> tuple[Int[Array, "B J"], Float[Array, "B J"]]:
    """Whole part and fraction of `j · size`, j = 0 … count-1, to rounding below `others`.

    The product of a large j with a float32 would leave a fraction of few digits. The size is cut
    into a part of few binary digits, whose multiples are exact, and a small rest.
    """
    size = jnp.minimum(size, others)  # a second one would begin behind them anyway
    step = 2.0 ** (others.bit_length() - 22)
    coarse = jnp.floor(size / step) * step
    places = jnp.arange(count, dtype=size.dtype)[None]
    exact = places * coarse[:, None]
    whole = jnp.floor(exact)
    fraction = (exact - whole) + places * (size - coarse)[:, None]
    carried = jnp.floor(fraction)
    return (whole + carried).astype(jnp.int32), fraction - carried


@jax.custom_vjp
def gather(forward: Parts, backward: Parts, x: Float[Array, "B S E"]) -> Float[Array, "B J E"]:
    """`Σ_r share_jr x_{rows_jr}`. XLA would scatter the gradient, one row after the other.

    Args:
        backward: the transpose of the forward parts, by which the gradient is gathered, too.
    """
    total = 0.0
    for r in range(forward.share.shape[-1]):
        found = jnp.take_along_axis(x, forward.rows[..., r, None], 1, mode="promise_in_bounds")
        total = total + forward.share[..., r, None] * found
    return jnp.asarray(total)


gather.defvjp(
    lambda forward, backward, x: (gather(forward, backward, x), (forward, backward)),
    lambda parts, cotangent: (None, None, gather(parts[1], parts[0], cotangent)),
)
