"""Heads that look at one place: the numbers μ and σ² of a density, by scores (paper §3.1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.density import LOCATED
from inf_former_jax.memory.density.kind import LocatedDensity
from inf_former_jax.memory.read import expected_value
from inf_former_jax.memory.reading_basis import reading_basis, to_reading_basis
from inf_former_jax.models.projections import to_heads


def reduced_keys(
    coeffs: Float[AnyArray, "B N E"],
    key: Float[Array, "E H K"],
    mu: Float[Array, " N"],
    sigma: Float[Array, " N"],
) -> Float[Array, "B 2 H K"]:
    """`W_Kᵀ Cᵀ w / √K` for w_μ and w_σ (paper §3.1; SPEC §2).

    With scores `s = C W_K q / √K` it is `w · s = q · (W_Kᵀ Cᵀ w) / √K`. So the N coefficients are
    reduced first: neither keys [B,N,H,K] nor scores [B,H,T,N] ever exist.
    """
    reducers = jnp.stack([mu, sigma])
    reduced = jnp.einsum("dn,bne->bde", reducers, coeffs, precision=HIGHEST)
    return jnp.einsum("bde,ehk->bdhk", reduced, key, precision=HIGHEST) * key.shape[-1] ** -0.5


def density(
    cfg: LongTermConfig, q: Float[AnyArray, "B H T K"], reduced_keys: Float[AnyArray, "B 2 H K"]
) -> LocatedDensity:
    """Each query's density: `μ = sigmoid(w_μ · s)`, `σ² = max(softplus(w_σ · s), σ²_min)`.

    Args:
        reduced_keys: by w_μ and w_σ, of the function of this name.
    """
    located, spread = jnp.einsum("bhtk,bdhk->dbht", q, reduced_keys, precision=HIGHEST)
    var = jnp.maximum(jax.nn.softplus(spread), cfg.min_var)
    return LOCATED[cfg.density](jax.nn.sigmoid(located), var)


class LocatedMemory(NamedTuple):
    """What any query of these heads needs of a long-term memory: the same until the next write."""

    keys: Float[AnyArray, "B 2 H K"]  # reduced by w_μ and w_σ
    values: Float[AnyArray, "B H R K"]  # V = C W_V, C on the `reading_basis`


def project(
    cfg: LongTermConfig,
    coeffs: Float[AnyArray, "B N E"],
    key: Float[Array, "E H K"],
    value: Float[Array, "E H K"],
    mu: Float[Array, " N"],
    sigma: Float[Array, " N"],
) -> LocatedMemory:
    """What the queries of a segment share."""
    fewer = to_reading_basis(reading_basis(cfg, coeffs.dtype), coeffs)
    values = jnp.swapaxes(to_heads(fewer, value, precision=HIGHEST), 0, 1)
    return LocatedMemory(reduced_keys(coeffs, key, mu, sigma), values)


def shapes(cfg: LongTermConfig, heads: int, width: int, dtype: DTypeLike) -> Any:
    """The shapes of a `LocatedMemory`'s fields without B."""
    keys: Any = 2, heads, width
    values: Any = heads, reading_basis(cfg, dtype).size, width
    return LocatedMemory(keys, values)


def read(
    cfg: LongTermConfig, density: LocatedDensity, memory: LocatedMemory
) -> Float[Array, "B H T K"]:
    """`z = E_p[x̄(t)] W_V` of each density (paper §3.1)."""
    functions = reading_basis(cfg, memory.values.dtype).functions
    return expected_value(functions, density, memory.values, read=cfg.read)
