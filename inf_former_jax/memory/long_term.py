"""The unbounded long-term memory: coefficients of a continuous signal, written for ever.

Paper §3.2 (contraction) and §3.3 (sticky memories); SPEC §3. A row's first write is a plain fit,
`C = G_firstᵀ X`. Each further write reads the old signal at M locations u, contracts it to
[0, τ_k], puts the L new vectors behind it, on (τ_k, 1], and fits both again: by ridge regression
(`fit.ridge`), or as intervals (`fit.intervals`; SPEC §9). That is linear in the old coefficients C
and in the new vectors X,

    C ← sg(A_k C) + G_kᵀ X,    A_k = G_pastᵀ Ψ(u)    (sg: stop_gradient),

with operators that depend on the configuration and on the row's number of writes k only;
`memory.write_operators` builds them. Intervals on equal cells need none: `fit.cells`. They can also
be contracted in pairs instead of by τ_k: `fit.doubling`, or be kept and dropped: `fit.kept`.

* `write`, before a segment reads: `contract_past` computes A_k C, `fit_new` computes G_kᵀ X.
* `remember`, after a segment has read: it stores where the queries attended, which steers the next
  write of a sticky memory.
* `reset`, at the start of a document: the row's coefficients, salience and number of writes become
  0. Its next write therefore contracts nothing and is a plain fit.

Each of them returns a new `LongTermMemory`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, Real

from inf_former_jax.memory import write_operators
from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import (
    Density,
    bin_sum,
    normalise,
    quantile_locations,
    random_locations,
)
from inf_former_jax.memory.fit import cells, doubling, kept
from inf_former_jax.memory.fit.ridge import first_fit_times
from inf_former_jax.memory.operator_tables import by_writes, shape
from inf_former_jax.memory.write_operators import Operators
from inf_former_jax.memory.write_operators import operators as operators  # offered here, too
from inf_former_jax.require import require


class LongTermMemory(NamedTuple):
    """What a row remembers beyond its short-term memory. All of it is carried state."""

    coeffs: Float[AnyArray, "B N E"]  # C: the signal is x̄(t) = Cᵀ ψ(t)
    salience: Float[AnyArray, "B D"]  # last attention over time, rows sum to 1, or 0 = none yet
    writes: Int[AnyArray, " B"]  # number of writes since the row's reset; 0 = empty
    ages: Float[AnyArray, "B N"] | None = (
        None  # vectors written after each cell; of sticky kept cells
    )


def init(
    cfg: LongTermConfig, batch: int, dim: int, dtype: DTypeLike = jnp.float32
) -> LongTermMemory:
    """An empty memory of `batch` rows of `dim` (E) channels.

    Raises:
        ValueError: dtype is narrower than float32, in which the recurrence does not last.
    """
    accepted = "float32 or float64"
    require(jnp.promote_types(dtype, jnp.float32) == dtype, "dtype", dtype, accepted)
    return LongTermMemory(
        coeffs=jnp.zeros((batch, cfg.num_basis, dim), dtype),
        salience=jnp.zeros((batch, cfg.salience_bins), dtype),
        writes=jnp.zeros((batch,), jnp.int32),
        ages=jnp.zeros((batch, cfg.num_basis), dtype) if cfg.keeps_ages else None,
    )


def reset(memory: LongTermMemory, rows: Bool[AnyArray, " B"]) -> LongTermMemory:
    """Empty the given rows; the others stay to the bit. A reset row equals a fresh one."""
    return select_rows(rows, jax.tree.map(jnp.zeros_like, memory), memory)


def select_rows(rows: Bool[AnyArray, " B"], chosen: Any, other: Any) -> Any:
    """`chosen` in the given rows, `other` elsewhere: pytrees of arrays [B, …] of one structure.

    Values are selected, never multiplied by 0 and 1: a NaN of the other tree does not survive.
    """

    def select(chosen, other):
        mask = jnp.asarray(rows).reshape(-1, *(1,) * (other.ndim - 1))
        return jnp.where(mask, chosen, other)

    return jax.tree.map(select, chosen, other)


def write(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    x: Real[AnyArray, "B L E"],
    *,
    operators: Operators | None = None,
    rows: Bool[AnyArray, " B"] | None = None,
    locations: Float[AnyArray, "B M"] | None = None,
    key: PRNGKeyArray | Key[Array, " B"] | None = None,
    detach: bool = True,
) -> LongTermMemory:
    """Append L vectors a row to the memory: contract the past, fit both again (paper §3.2).

    `C ← G_firstᵀ X` for a row's first write, `C ← sg(G_pastᵀ x̄(u)) + G_newᵀ X` after it, with the
    operators of the row's own number of writes. What was stored is a constant to autodiff; the
    gradient reaches x of this write only. The memory keeps its dtype, to which x is cast.

    Args:
        operators: `operators(cfg, L)`; pass them inside jit, where None folds in constants.
        rows: which rows write; None = all. The others stay to the bit.
        locations: u, where to read the old signal, overriding the configuration's choice.
        key: needed if `cfg.sticky` and `cfg.locations == "draw"`; one, or one for each row.
        detach: False lets the gradient through the stored coefficients (never through locations).

    Raises:
        ValueError: shapes that do not fit the configuration, a missing key, or locations for a
            memory that is not sticky and whose contraction is not fixed.
    """
    if operators is None:
        dtype = np.dtype(memory.coeffs.dtype)
        operators = write_operators.operators(cfg, x.shape[1], dtype)
    ops = checked_operators(cfg, memory, operators, x)
    locations = _located(cfg, memory, locations, key)
    past = contract_past(cfg, memory, ops, locations)
    past = jax.lax.stop_gradient(past) if detach else past
    writes = jnp.asarray(memory.writes)
    written = memory._replace(
        coeffs=past + fit_new(cfg, ops, writes, x),
        writes=writes + 1,
        ages=written_ages(cfg, memory, ops, locations),
    )
    return written if rows is None else select_rows(rows, written, memory)


def checked_operators(
    cfg: LongTermConfig, memory: LongTermMemory, operators: Operators, x: Real[AnyArray, "B L E"]
) -> Operators:
    """The operators in the memory's dtype.

    Raises:
        ValueError: shapes that do not fit the configuration.
    """
    batch, num_basis, dim = memory.coeffs.shape
    require(num_basis == cfg.num_basis, "memory", memory.coeffs.shape, f"N = {cfg.num_basis}")
    accepted = f"[{batch}, L, {dim}] as the memory"
    require((x.shape[0], x.shape[2]) == (batch, dim), "x", x.shape, accepted)
    accepted = "operators(cfg, L) of this one"
    found, expected = operators.first.shape, (1, x.shape[1], num_basis)
    if cfg.tabled:
        needed = operators.past if cfg.sticky else operators.decay
        fits = operators.new is not None and needed is not None
        require(fits, "operators", "those of another configuration", accepted)
        assert operators.new is not None
        found, expected = shape(operators.new), (cfg.num_contractions, x.shape[1], num_basis)
    require(found == expected, "operators", found, f"{expected} for this x")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, memory.coeffs.dtype), operators)


def contract_past(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    ops: Operators,
    locations: Float[AnyArray, "B M"] | None = None,
    key: PRNGKeyArray | Key[Array, " B"] | None = None,
) -> Float[Array, "B N E"]:
    """The contraction: coefficients of the old signal squeezed into [0, τ_k] (paper §3.2).

    `A_k C` on the uniform grid; `G_pastᵀ Ψ(u) C` at given or sticky locations u. Rows that have
    never been written are 0. Arguments and errors as of `write`.
    """
    writes = jnp.asarray(memory.writes)
    index = jnp.clip(writes - 1, 0, cfg.num_contractions - 1)
    locations = _located(cfg, memory, locations, key)
    if not cfg.tabled:
        past = _squeezed(cfg, memory, locations)
    elif locations is None:
        assert ops.decay is not None
        past = by_writes(ops.decay, index, memory.coeffs)
    else:
        found = f"them with {cfg.contraction} contraction"
        accepted = "sticky memories, or fixed contraction"
        require(ops.past is not None, "locations", found, accepted)
        assert ops.past is not None
        locations = jax.lax.stop_gradient(jnp.asarray(locations, memory.coeffs.dtype))
        psi = evaluate(cfg.basis, locations)  # Ψ(u) [B, M, N]
        samples = jnp.einsum("bmn,bne->bme", psi, memory.coeffs, precision=HIGHEST)
        past = by_writes(ops.past, index, samples)
    return jnp.where((writes == 0)[:, None, None], 0.0, past)


def written_ages(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    ops: Operators,
    locations: Float[AnyArray, "B M"] | None = None,
) -> Float[Array, "B N"] | None:
    """The ages of cells after a write at the same locations; None where none are kept.

    An age is one more channel of the signal, which every write raises by its L vectors. The new
    ones have the ages L - ½, …, ½.
    """
    if memory.ages is None:
        return None
    length, writes = ops.first.shape[1], jnp.asarray(memory.writes)
    ages = jnp.asarray(memory.ages)[..., None]
    older = jnp.where(ages > 0, ages + length, 0.0)  # 0: a cell that holds nothing
    past = contract_past(cfg, memory._replace(coeffs=older), ops, locations)
    own = np.arange(length, 0, -1)[None, :, None] - 0.5
    own = jnp.broadcast_to(jnp.asarray(own, older.dtype), (older.shape[0], length, 1))
    return jax.lax.stop_gradient(past + fit_new(cfg, ops, writes, own))[..., 0]


def _located(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    locations: Float[AnyArray, "B M"] | None,
    key: PRNGKeyArray | Key[Array, " B"] | None,
) -> Float[AnyArray, "B M"] | None:
    """Where the next write reads the old signal, if it is said or steered."""
    return (
        locations if locations is not None or not cfg.sticky else sticky_locations(cfg, memory, key)
    )


def _squeezed(
    cfg: LongTermConfig, memory: LongTermMemory, locations: Float[AnyArray, "B M"] | None
) -> Float[Array, "B N E"]:
    """`contract_past` on cells: all of the past, or what it holds at the locations."""
    samples = jnp.asarray(memory.coeffs)
    if locations is not None:
        if cfg.contraction == "kept":
            found, kept = locations.shape[1], cfg.num_basis - cfg.new_cells
            accepted = f"{kept}, as many cells as stay" if cfg.sticky else "none for a queue"
            require(cfg.sticky and found == kept, "locations", f"{found} of them", accepted)
        at = jax.lax.stop_gradient(jnp.asarray(locations)) * cfg.num_basis
        cell = jnp.clip(at.astype(jnp.int32), 0, cfg.num_basis - 1)
        samples = jnp.take_along_axis(samples, cell[..., None], axis=1)
    return _on_cells(cfg).squeeze(cfg, samples, jnp.asarray(memory.writes))


def _on_cells(cfg: LongTermConfig) -> Any:
    """The module whose `squeeze` and `append` write means of equal cells."""
    return {"doubling": doubling, "kept": kept}.get(cfg.contraction, cells)


def sticky_locations(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    key: PRNGKeyArray | Key[Array, " B"] | None = None,
) -> Float[Array, "B M"]:
    """Where a sticky memory reads its old signal: more often where the last segment attended."""
    salience = memory.salience
    if cfg.contraction == "kept":
        return kept.locations(cfg, salience, jnp.asarray(memory.writes))
    if cfg.locations == "quantile":
        found = quantile_locations(salience, cfg.num_samples)
    else:
        require(key is not None, "key", None, "a PRNG key, since locations = draw")
        assert key is not None
        found = random_locations(key, salience, cfg.num_samples)
    if cfg.fit == "points":
        return found
    # Without salience `found` is m/M. A sample of an interval would be that of the interval's end.
    middles = jnp.asarray(first_fit_times(cfg.num_samples), found.dtype)
    return jnp.where(salience.sum(axis=-1, keepdims=True) > 0, found, middles[None])


@partial(jax.jit, static_argnums=0)  # without it every eager call would compile the branches anew
def fit_new(
    cfg: LongTermConfig,
    ops: Operators,
    writes: Int[AnyArray, " B"],
    x: Real[AnyArray, "B L E"],
) -> Float[Array, "B N E"]:
    """`G_kᵀ X` of each row, k its number of writes so far: what a write adds to the past.

    A first write (k = 0) and a further one have operators of different form, so they are two
    products. If no row is at its first write, a CPU skips that product; an accelerator computes
    both, because waiting for the number of writes would take longer.
    """

    def further_only(x):
        if ops.new is None:
            return _on_cells(cfg).append(cfg, x, writes)
        return by_writes(ops.new, jnp.clip(writes - 1, 0, shape(ops.new)[0] - 1), x)

    def both(x):
        first_fit = by_writes(ops.first, jnp.zeros_like(writes), x)
        return jnp.where((writes == 0)[:, None, None], first_fit, further_only(x))

    def skip_if_unneeded(x):
        return jax.lax.cond((writes == 0).any(), both, further_only, x)

    x = jnp.asarray(x, ops.first.dtype)
    if cfg.contraction == "kept":  # a first write fills no more cells than any other
        return further_only(x)
    return jax.lax.platform_dependent(x, cpu=skip_if_unneeded, default=both)


def remember(
    memory: LongTermMemory,
    density: Density,
    where: Bool[AnyArray, "B T"] | None = None,
) -> LongTermMemory:
    """Store where the queries of this segment attended, to steer the next write (paper §3.3).

    Args:
        density: this segment's densities, fields [B, H, T].
        where: queries that count. A row without any, or an empty one, gets zero salience.
    """
    return remember_mass(memory, bin_sum(density, memory.salience.shape[-1], where))


def remember_mass(memory: LongTermMemory, mass: Float[AnyArray, "B D"]) -> LongTermMemory:
    """`remember` of a segment that was read in pieces: the sum of their `density.bin_sum`."""
    mass = jax.lax.stop_gradient(normalise(mass)).astype(memory.salience.dtype)
    return memory._replace(salience=jnp.where((memory.writes > 0)[:, None], mass, 0.0))


def signal(
    cfg: LongTermConfig, memory: LongTermMemory, t: Float[AnyArray, "*times"] | float
) -> Float[Array, "B *times E"]:
    """`x̄(t) = Cᵀ ψ(t)`, what the memory holds at times t (paper §3.1): 0 oldest, 1 newest."""
    times = jnp.asarray(t, dtype=memory.coeffs.dtype)
    psi = evaluate(cfg.basis, times.reshape(-1))
    values = jnp.einsum("sn,bne->bse", psi, memory.coeffs, precision=HIGHEST)
    return values.reshape(values.shape[0], *times.shape, values.shape[-1])
