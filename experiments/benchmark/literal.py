"""The long-term memory as the paper's formulas say it, term by term: what ours is measured against.

Everything that a formula names is an array: the samples of the old signal, the keys, the scores and
the expectations of all queries. JAX differentiates it, without rules, chunks or operators that are
combined beforehand. It is equal to `LongTermAttention`, by uniform locations and fixed contraction,
in rows that have been written to before.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import HIGHEST, AnyArray, evaluate, expectation
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import GaussianDensity, uniform_locations
from inf_former_jax.memory.operator_tables import dense
from inf_former_jax.memory.write_operators import Operators


def ridge(ops: Operators) -> Float[Array, "M+L N"]:
    """G of a further write, of the samples and of the new vectors (SPEC §1)."""
    return jnp.concatenate([ops.past[0], dense(ops.new)[0]])


def write(
    cfg: LongTermConfig,
    gate: Mapping[str, AnyArray],
    coeffs: Float[AnyArray, "B N E"],
    x: Float[AnyArray, "B L E"],
    g: Float[AnyArray, "M+L N"],
) -> Float[Array, "B N E"]:
    """`C = Gᵀ [sg(Ψ(u) C_old); X ⊙ sigmoid(conv1d(X))]` (paper §3.2; SPEC §3).

    The convolution is one matrix product, which on a CPU is faster than XLA's own.
    """
    psi = evaluate(cfg.basis, jnp.asarray(uniform_locations(cfg.num_samples), x.dtype))  # Ψ(u)
    samples = jnp.einsum("mn,bne->bme", psi, coeffs, precision=HIGHEST)
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    windows = jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=-1)
    flat = gate["kernel"].reshape(-1, x.shape[-1])
    mixed = jnp.einsum("blw,we->ble", windows, flat, precision=HIGHEST)
    gated = x * jax.nn.sigmoid(mixed + gate["bias"][None, None])
    points = jnp.concatenate([jax.lax.stop_gradient(samples), gated], axis=1)
    return jnp.einsum("pn,bpe->bne", g, points, precision=HIGHEST)


def density(
    cfg: LongTermConfig,
    params: Mapping[str, AnyArray],
    q: Float[AnyArray, "B H T K"],
    coeffs: Float[AnyArray, "B N E"],
) -> GaussianDensity:
    """Each query's `N(μ, σ²)` by its scores `s = C W_K q / √K` (paper §3.1; SPEC §2).

    `μ = sigmoid(w_μ · s)`, `σ² = max(softplus(w_σ · s), σ²_min)`.
    """
    keys = jnp.einsum("bne,ehk->bnhk", coeffs, params["key"], precision=HIGHEST)
    scores = jnp.einsum("bhtk,bnhk->bhtn", q, keys, precision=HIGHEST) / q.shape[-1] ** 0.5
    located = jnp.einsum("bhtn,n->bht", scores, params["mu"], precision=HIGHEST)
    spread = jnp.einsum("bhtn,n->bht", scores, params["sigma"], precision=HIGHEST)
    var = jnp.maximum(jax.nn.softplus(spread), cfg.min_var)
    return GaussianDensity(jax.nn.sigmoid(located), var)


def read(
    cfg: LongTermConfig,
    params: Mapping[str, AnyArray],
    q: Float[AnyArray, "B H T K"],
    coeffs: Float[AnyArray, "B N E"],
) -> Float[Array, "B T E"]:
    """`concat_heads(E_p[ψ] C W_V) W_O` of each query's density p (paper §3.1; SPEC §2)."""
    expected = expectation(cfg.basis, *density(cfg, params, q, coeffs))  # E_p[ψ] [B, H, T, N]
    values = jnp.einsum("bne,ehk->bnhk", coeffs, params["value"], precision=HIGHEST)
    z = jnp.einsum("bhtn,bnhk->bthk", expected, values, precision=HIGHEST)
    return jnp.einsum("bthk,hke->bte", z, params["out"], precision=HIGHEST)
