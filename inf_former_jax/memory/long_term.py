"""The unbounded long-term memory: coefficients of a continuous signal, written for ever.

Paper §3.2 (contraction) and §3.3 (sticky memories); SPEC §3. A row's first write is a plain fit,
`C = G_firstᵀ X`. Each further one reads the old signal at M locations, contracts it to [0, τ_k],
puts the L new vectors behind it and regresses again. That is linear in C and X,

    C ← sg(A C) + G_newᵀ X,    A = G_pastᵀ Ψ(u),

with operators that depend on the configuration and on the row's number of writes only
(`memory/operators.py`; `sg`: stop_gradient). Who writes, who reads:
`write` before a segment reads, `remember` after it; both return a new `LongTermMemory`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

from inf_former_jax.memory import density as densities
from inf_former_jax.memory.basis import HIGHEST, AnyArray, evaluate
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.operator_tables import by_writes, shape
from inf_former_jax.memory.write_operators import Operators, operators
from inf_former_jax.require import require

__all__ = ["LongTermConfig", "LongTermMemory", "Operators", "edges", "init", "operators",
           "remember", "remember_mass", "reset", "signal", "write"]  # fmt: skip


class LongTermMemory(NamedTuple):
    """What a row remembers beyond its short-term memory. All of it is carried state."""

    coeffs: Float[AnyArray, "B N E"]  # C: the signal is x̄(t) = Cᵀ ψ(t)
    salience: Float[AnyArray, "B D"]  # last attention over time, rows sum to 1, or 0 = none yet
    writes: Int[AnyArray, " B"]  # number of writes since the row's reset; 0 = empty


def init(cfg: LongTermConfig, batch: int, dim: int, dtype=jnp.float32) -> LongTermMemory:
    """An empty memory of `batch` rows of `dim` (E) channels.

    Raises:
        ValueError: dtype is narrower than float32, in which the recurrence does not last.
    """
    accepted = "float32 or float64"
    require(jnp.promote_types(dtype, jnp.float32) == dtype, "dtype", dtype, accepted)
    return LongTermMemory(
        coeffs=jnp.zeros((batch, cfg.num_basis, dim), dtype),
        salience=jnp.zeros((batch, cfg.bins), dtype),
        writes=jnp.zeros((batch,), jnp.int32),
    )


def reset(memory: LongTermMemory, rows: Bool[AnyArray, " B"]) -> LongTermMemory:
    """Empty the given rows; the others stay to the bit. A reset row equals a fresh one."""
    return LongTermMemory(*(_where_rows(rows, jnp.zeros_like(leaf), leaf) for leaf in memory))


def write(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    x: Real[AnyArray, "B L E"],
    *,
    operators: Operators | None = None,
    rows: Bool[AnyArray, " B"] | None = None,
    locations: Float[AnyArray, "B M"] | None = None,
    key: PRNGKeyArray | None = None,
    detach: bool = True,
) -> LongTermMemory:
    """Append L vectors a row to the memory: contract the past, regress again (paper §3.2).

    `C ← G_firstᵀ X` for a row's first write, `C ← sg(G_pastᵀ x̄(u)) + G_newᵀ X` after it, with the
    operators of the row's own number of writes. What was stored is a constant to autodiff; the
    gradient reaches x of this write only. The memory keeps its dtype, to which x is cast.

    Args:
        operators: `operators(cfg, L)`; pass them inside jit, where None folds in constants.
        rows: which rows write; None = all. The others stay to the bit.
        locations: u, where to read the old signal, overriding the configuration's choice.
        key: needed if `cfg.sticky` and `cfg.locations == "draw"`.
        detach: False lets the gradient through the stored coefficients (never through locations).

    Raises:
        ValueError: shapes that do not fit the configuration, a missing key, or locations for a
            memory that is not sticky and whose contraction is not fixed.
    """
    if operators is None:
        operators = _of_config(cfg, x.shape[1], np.dtype(memory.coeffs.dtype))
    ops = checked(cfg, memory, operators, x)
    past = contracted(cfg, memory, ops, locations, key)
    past = jax.lax.stop_gradient(past) if detach else past
    writes = jnp.asarray(memory.writes)
    written = memory._replace(coeffs=past + fitted(ops, writes, x), writes=writes + 1)
    if rows is None:
        return written
    return LongTermMemory(*(_where_rows(rows, a, b) for a, b in zip(written, memory, strict=True)))


_of_config = operators  # `write` has an argument of that name


def checked(
    cfg: LongTermConfig, memory: LongTermMemory, operators: Operators, x: Real[AnyArray, "B L E"]
) -> Operators:
    """The operators in the memory's dtype.

    Raises:
        ValueError: shapes that do not fit the configuration.
    """
    _check_write(cfg, memory, x, operators)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, memory.coeffs.dtype), operators)


def fitted(
    ops: Operators, writes: Int[AnyArray, " B"], x: Real[AnyArray, "B L E"]
) -> Float[Array, "B N E"]:
    """`G_kᵀ X` of each row, k its number of writes so far: what a write adds to the past.

    Plain fits are of another rank than all further ones. A CPU does without them where no row
    begins; an accelerator computes both rather than wait for that to be known.
    """
    return _fitted(ops.first, ops.new, jnp.asarray(writes), jnp.asarray(x, ops.first.dtype))


@jax.jit  # else every eager call would compile the branches anew
def _fitted(first, new, writes, x):
    def further(x):
        return by_writes(new, jnp.clip(writes - 1, 0, shape(new)[0] - 1), x)

    def both(x):
        begun = by_writes(first, jnp.zeros_like(writes), x)
        return jnp.where((writes == 0)[:, None, None], begun, further(x))

    def either(x):
        return jax.lax.cond((writes == 0).any(), both, further, x)

    return jax.lax.platform_dependent(x, cpu=either, default=both)


def contracted(
    cfg: LongTermConfig,
    memory: LongTermMemory,
    ops: Operators,
    locations: Float[AnyArray, "B M"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B N E"]:
    """`A_k C`, the old signal squeezed into [0, τ_k]; G_pastᵀ Ψ(u) C of given or sticky u.

    0 in rows without a write. Arguments and errors as of `write`.
    """
    if locations is None and cfg.sticky:
        locations = _sticky_locations(cfg, memory, key)
    writes = jnp.asarray(memory.writes)
    past = _contract(cfg, memory, writes, ops, locations)
    return jnp.where((writes == 0)[:, None, None], 0.0, past)


def _contract(cfg, memory, writes, ops, locations):
    """Coefficients of the old signal squeezed into [0, τ_k]: A C, or G_pastᵀ Ψ(u) C for given u."""
    index = jnp.clip(writes - 1, 0, cfg.num_contractions - 1)
    if locations is None:
        return by_writes(ops.decay, index, memory.coeffs)
    accepted = "sticky memories, or fixed contraction"
    require(ops.past is not None, "locations", f"them with {cfg.contraction} contraction", accepted)
    locations = jax.lax.stop_gradient(jnp.asarray(locations, memory.coeffs.dtype))
    psi = evaluate(cfg.basis, locations)  # Ψ(u) [B, M, N]
    samples = jnp.einsum("bmn,bne->bme", psi, memory.coeffs, precision=HIGHEST)
    return by_writes(ops.past, index, samples)


def _sticky_locations(cfg, memory, key):
    if cfg.locations == "quantile":
        return densities.quantile_locations(memory.salience, cfg.num_samples)
    require(key is not None, "key", None, "a PRNG key, since locations = draw")
    return densities.random_locations(key, memory.salience, cfg.num_samples)


def _check_write(cfg, memory, x, ops):
    batch, num_basis, dim = memory.coeffs.shape
    require(num_basis == cfg.num_basis, "memory", memory.coeffs.shape, f"N = {cfg.num_basis}")
    require(
        (x.shape[0], x.shape[2]) == (batch, dim), "x", x.shape, f"[{batch}, L, {dim}] as the memory"
    )
    found, accepted = shape(ops.new), (cfg.num_contractions, x.shape[1], num_basis)
    require(found == accepted, "operators", found, f"{accepted} for this x")
    there = (ops.past if cfg.sticky else ops.decay) is not None
    require(there, "operators", "those of another configuration", "operators(cfg, L) of this one")


def remember(
    memory: LongTermMemory,
    density: densities.GaussianDensity,
    where: Bool[AnyArray, "B T"] | None = None,
) -> LongTermMemory:
    """Store where the queries of this segment attended, to steer the next write (paper §3.3).

    Args:
        density: this segment's densities, fields [B, H, T].
        where: queries that count. A row without any, or an empty one, gets zero salience.
    """
    return remember_mass(memory, densities.bin_sum(density, memory.salience.shape[-1], where))


def remember_mass(memory: LongTermMemory, mass: Float[AnyArray, "B D"]) -> LongTermMemory:
    """`remember` of a segment that was read in pieces: the sum of their `density.bin_sum`."""
    mass = jax.lax.stop_gradient(densities.normalise(mass)).astype(memory.salience.dtype)
    return memory._replace(salience=jnp.where((memory.writes > 0)[:, None], mass, 0.0))


def signal(
    cfg: LongTermConfig, memory: LongTermMemory, t: Float[AnyArray, "*times"] | float
) -> Float[Array, "B *times E"]:
    """`x̄(t) = Cᵀ ψ(t)`, what the memory holds at times t (paper §3.1): 0 oldest, 1 newest."""
    t = jnp.asarray(t, dtype=memory.coeffs.dtype)
    flat = evaluate(cfg.basis, t.reshape(-1))
    values = jnp.einsum("sn,bne->bse", flat, memory.coeffs, precision=HIGHEST)
    return values.reshape(values.shape[0], *t.shape, values.shape[-1])


def edges(cfg: LongTermConfig, writes: int) -> Float[np.ndarray, " J"]:
    """Where segments lie after J - 1 writes: the j-th oldest between edges j and j + 1 of [0, 1].

    By uniform locations; sticky ones move what attention dwells on apart.
    """
    times = np.array([0.0, 1.0][: writes + 1])
    for k in range(1, writes):
        times = np.append(cfg.tau_of(k) * times, 1.0)
    return times


def _where_rows(rows, chosen, other):
    rows = jnp.asarray(rows).reshape(-1, *(1,) * (other.ndim - 1))
    return jnp.where(rows, chosen, other)
