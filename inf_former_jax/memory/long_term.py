"""The unbounded long-term memory: coefficients of a continuous signal, written for ever.

Paper §3.2 (contraction) and §3.3 (sticky memories); SPEC §3. A row's first write is a plain fit,
`C = G_firstᵀ X`. Each further one reads the old signal at M locations, contracts it to [0, τ],
puts the L new vectors behind it and regresses again. That is linear in C and X,

    C ← sg(A C) + G_newᵀ X,    A = G_pastᵀ Ψ(u),

with operators that depend on the configuration only (`sg`: stop_gradient). Who writes, who reads:
`write` before a segment reads, `remember` after it; both return a new `LongTermMemory`.
"""

import dataclasses
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

from inf_former_jax.memory import density as densities
from inf_former_jax.memory import regression
from inf_former_jax.memory.basis import AnyArray, GaussianBasis, evaluate, gaussian_basis

# GPUs default to TF32 and TPUs to bfloat16 passes: errors of 1.3 % and 10 % in the memory.
HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class LongTermConfig:
    """Constants of one long-term memory. The defaults are the paper's for sorting (SPEC §5).

    Raises:
        ValueError: on construction, for a value that no memory can have.
    """

    num_basis: int = 512
    """N, number of basis functions; a multiple of the number of widths."""
    widths: tuple[float, ...] = (0.01, 0.05)
    """Standard deviations of the basis functions, in units of the whole signal."""
    ridge: float = 1.0
    """λ of the ridge regression."""
    tau: float = 0.75
    """τ in (0, 1), the part of [0, 1] to which a further write contracts the past."""
    num_samples: int = 512
    """M, locations at which a further write reads the old signal."""
    padding: bool = True
    """Pin the signal to zero outside [0, 1], as published."""
    sticky: bool = False
    """Read the old signal where attention fell, instead of on a uniform grid (paper §3.3)."""
    locations: Literal["quantile", "draw"] = "quantile"
    """Sticky locations: deterministic quantiles, or the published random draws."""
    bins: int = 128
    """D, bins of the salience histogram."""
    min_var: float = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    prior_scale: float = 0.05
    """σ_0 of the KL regulariser."""
    prior_mean: float | None = None
    """μ_0 of the KL regulariser; None leaves the mean free."""
    gate: bool = True
    """Smooth what is written by `X ⊙ sigmoid(conv1d(X))` (the module's; SPEC §3)."""

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(map(float, self.widths)))  # hashable
        gaussian_basis(self.num_basis, self.widths)
        require(0 < self.tau < 1, "tau", self.tau, "a number in (0, 1), its ends excluded")
        require(self.ridge > 0, "ridge", self.ridge, "a number > 0")
        require(self.min_var > 0, "min_var", self.min_var, "a number > 0")
        require(self.prior_scale > 0, "prior_scale", self.prior_scale, "a number > 0")
        require(self.num_samples >= 1, "num_samples", self.num_samples, "a whole number ≥ 1")
        require(self.bins >= 1, "bins", self.bins, "a whole number ≥ 1")
        kinds = ("quantile", "draw")
        require(self.locations in kinds, "locations", self.locations, " or ".join(kinds))

    @property
    def basis(self) -> GaussianBasis:
        """The basis ψ that the coefficients belong to."""
        return gaussian_basis(self.num_basis, self.widths)


class LongTermMemory(NamedTuple):
    """What a row remembers beyond its short-term memory. All of it is carried state."""

    coeffs: Float[AnyArray, "B N E"]  # C: the signal is x̄(t) = Cᵀ ψ(t)
    salience: Float[AnyArray, "B D"]  # last attention over time, rows sum to 1, or 0 = none yet
    writes: Int[AnyArray, " B"]  # number of writes since the row's reset; 0 = empty


class Operators(NamedTuple):
    """Data-independent operators of a write of L vectors. Neither state nor parameters."""

    first: Float[AnyArray, "L N"]  # G of a row's first write
    new: Float[AnyArray, "L N"]  # rows of the further writes' G that meet the new vectors
    past: Float[AnyArray, "M N"]  # rows of it that meet the M samples of the old signal
    decay: Float[AnyArray, "N N"]  # A = G_pastᵀ Ψ(u) for the uniform grid u_m = m/M


def require(holds: bool, name: str, found: object, accepted: object) -> None:
    """Raise ValueError in the user's words unless `holds`: what was found, what is accepted."""
    if not holds:
        raise ValueError(f"{name}: found {found}, accepted: {accepted}")


def operators(cfg: LongTermConfig, length: int, dtype=None) -> Operators:
    """Operators for writes of `length` vectors: formed in float64 on the host, cast once, cached.

    dtype defaults to JAX's default float (float32; float64 under x64). The leaves are NumPy
    arrays: pass them to jitted programs as an argument, on the device, so that they are not
    folded into the program as constants.
    """
    require(length >= 1, "length", length, "a whole number ≥ 1")
    return _operators(cfg, length, np.dtype(dtype or jnp.zeros(()).dtype))


@lru_cache(maxsize=16)
def _operators(cfg, length, dtype):
    basis = cfg.basis
    past, new = regression.write_times(cfg.tau, cfg.num_samples, length)
    zeros = regression.write_padding(cfg.num_samples, length) if cfg.padding else ()
    first_zeros = regression.first_fit_padding(length) if cfg.padding else ()
    first = regression.ridge_operator(
        basis, regression.first_fit_times(length), cfg.ridge, first_zeros
    )
    further = regression.ridge_operator(basis, np.concatenate([past, new]), cfg.ridge, zeros)
    g_past, g_new = np.split(further, [cfg.num_samples])
    grid = evaluate(basis, densities.uniform_locations(cfg.num_samples))  # Ψ(u) [M, N]
    return Operators(*(g.astype(dtype) for g in (first, g_new, g_past, g_past.T @ grid)))


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
) -> LongTermMemory:
    """Append L vectors a row to the memory: contract the past, regress again (paper §3.2).

    `C ← G_firstᵀ X` for a row's first write, `C ← sg(G_pastᵀ x̄(u)) + G_newᵀ X` after it. What was
    stored is a constant to autodiff; the gradient reaches x of this write only. The memory keeps
    its dtype, to which x is cast.

    Args:
        operators: `operators(cfg, L)`; pass them inside jit, where None folds in constants.
        rows: which rows write; None = all. The others stay to the bit.
        locations: u, where to read the old signal, overriding the configuration's choice.
        key: needed if `cfg.sticky` and `cfg.locations == "draw"`.

    Raises:
        ValueError: shapes that do not fit the configuration, or a missing key.
    """
    dtype = memory.coeffs.dtype
    x = jnp.asarray(x, dtype)
    if operators is None:
        operators = _operators(cfg, x.shape[1], np.dtype(dtype))
    _check_write(cfg, memory, x, operators)
    ops = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), operators)
    if locations is None and cfg.sticky:
        locations = _sticky_locations(cfg, memory, key)
    first = jnp.asarray(memory.writes) == 0
    past = jnp.where(first[:, None, None], 0.0, _contract(cfg, memory, ops, locations))
    g = jnp.where(first[:, None, None], ops.first[None], ops.new[None])
    coeffs = jax.lax.stop_gradient(past) + jnp.einsum("bln,ble->bne", g, x, precision=HIGHEST)
    new = memory._replace(coeffs=coeffs, writes=memory.writes + 1)
    if rows is None:
        return new
    return LongTermMemory(*(_where_rows(rows, a, b) for a, b in zip(new, memory, strict=True)))


def _contract(cfg, memory, ops, locations):
    """Coefficients of the old signal squeezed into [0, τ]: A C, or G_pastᵀ Ψ(u) C for given u."""
    if locations is None:
        return jnp.einsum("nk,bke->bne", ops.decay, memory.coeffs, precision=HIGHEST)
    psi = evaluate(cfg.basis, jnp.asarray(locations, memory.coeffs.dtype))  # Ψ(u) [B, M, N]
    samples = jnp.einsum("bmn,bne->bme", psi, memory.coeffs, precision=HIGHEST)
    return jnp.einsum("mn,bme->bne", ops.past, samples, precision=HIGHEST)


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
    shape = (x.shape[1], num_basis)
    require(ops.new.shape == shape, "operators", ops.new.shape, f"{shape} for this x")


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
    mass = densities.bin_mass(density, memory.salience.shape[-1], where)
    mass = jax.lax.stop_gradient(mass).astype(memory.salience.dtype)
    return memory._replace(salience=jnp.where((memory.writes > 0)[:, None], mass, 0.0))


def signal(
    cfg: LongTermConfig, memory: LongTermMemory, t: Float[AnyArray, "*times"] | float
) -> Float[Array, "B *times E"]:
    """`x̄(t) = Cᵀ ψ(t)`, what the memory holds at times t (paper §3.1): 0 oldest, 1 newest."""
    t = jnp.asarray(t, dtype=memory.coeffs.dtype)
    flat = evaluate(cfg.basis, t.reshape(-1))
    values = jnp.einsum("sn,bne->bse", flat, memory.coeffs, precision=HIGHEST)
    return values.reshape(values.shape[0], *t.shape, values.shape[-1])


def _where_rows(rows, chosen, other):
    rows = jnp.asarray(rows).reshape(-1, *(1,) * (other.ndim - 1))
    return jnp.where(rows, chosen, other)
