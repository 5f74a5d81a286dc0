"""Continuous Hopfield retrieval: a signal as an associative memory (SPEC §9).

Santos et al. (2025), "Modern Hopfield Networks with Continuous-Time Memories". A discrete network
keeps L patterns; this one keeps N coefficients of the signal that goes through them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.content import cell_signal, content_read
from inf_former_jax.memory.density import GibbsDensity
from inf_former_jax.require import require, require_at_least


@partial(jax.jit, static_argnames=("cfg", "steps"))  # or an eager call would compile its loop anew
def hopfield(
    cfg: LongTermConfig,
    coeffs: Float[AnyArray, "B N E"],
    query: Float[AnyArray, "B T E"],
    *,
    beta: float | Float[AnyArray, ""],
    steps: int = 1,
) -> Float[Array, "B T E"]:
    """Iterate `ξ ← E_p[x̄(t)]` with `p(t) ∝ exp(β ξ·x̄(t))`, from `ξ = query` (SPEC §9).

    It is the read of a Gibbs density with the signal itself as keys and values. p is constant on
    each of R = `cfg.content_cells` cells. No step raises the energy
    `½ ‖ξ‖² - (1/β) log ∫_0^1 exp(β ξ·x̄(t)) dt`. With one pattern in each cell of the rectangular
    basis this is the discrete network, `ξ ← Xᵀ softmax(β X ξ)`.

    Args:
        cfg: its basis and cells; its temperature and the other options of a read are not used.
        coeffs: C of the signal, as `memory.long_term` writes it.
        beta: β > 0; a small one finds the mean of all patterns, a large one a single pattern.
        steps: how many iterations; 0 returns the query.

    Raises:
        ValueError: shapes that do not fit each other or the configuration, or steps below 0.
    """
    batch, num_basis, dim = coeffs.shape
    require(num_basis == cfg.num_basis, "coeffs", coeffs.shape, f"N = {cfg.num_basis}")
    fits = (query.shape[0], query.shape[2]) == (batch, dim)
    require(fits, "query", query.shape, f"[{batch}, T, {dim}] as the coefficients")
    require_at_least("steps", steps, 0)
    signal = cell_signal(cfg, coeffs)[:, None]
    bias = jnp.zeros(signal.shape[:3], signal.dtype)

    def retrieve(state: Array, _: None) -> tuple[Any, None]:
        return content_read(GibbsDensity(beta * state, signal, bias), signal).value, None

    start = jnp.asarray(query, signal.dtype)[:, None]
    return jax.lax.scan(retrieve, start, length=steps)[0][:, 0]
