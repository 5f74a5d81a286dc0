"""Attention over the unbounded past (paper §3.1): the ∞-former's memory as a layer.

One Gaussian density a head and query, over the continuous signal of the long-term memory. Its
context is *added* to the local attention's, without a gate.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory import density as densities
from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import HIGHEST, AnyArray
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory
from inf_former_jax.memory.read import expected_value
from inf_former_jax.memory.reading_basis import reading_basis, to_reading_basis
from inf_former_jax.models.gate import Gate
from inf_former_jax.models.projections import F32, FROM_HEADS, TO_HEADS, from_heads, to_heads


def attention_density(
    cfg: LongTermConfig,
    q: Float[AnyArray, "B H T K"],
    coeffs: Float[AnyArray, "B N E"],
    key: Float[Array, "E H K"],
    mu: Float[Array, " N"],
    sigma: Float[Array, " N"],
) -> GaussianDensity:
    """Each query's density `N(μ, σ²)` without forming keys or scores (paper §3.1; SPEC §2).

    `μ = sigmoid(w_μ · s)`, `σ² = max(softplus(w_σ · s), σ²_min)` with scores `s = C W_K q / √K`.
    Since `w · s = q · (W_Kᵀ Cᵀ w) / √K`, the N coefficients are reduced first: neither keys
    [B,N,H,K] nor scores [B,H,T,N] ever exist.
    """
    return _density(cfg, q, _reduced_keys(coeffs, key, mu, sigma))


def _reduced_keys(
    coeffs: Float[AnyArray, "B N E"],
    key: Float[Array, "E H K"],
    mu: Float[Array, " N"],
    sigma: Float[Array, " N"],
) -> Float[Array, "B 2 H K"]:
    """`W_Kᵀ Cᵀ w / √K` for w_μ and w_σ."""
    reducers = jnp.stack([mu, sigma])
    reduced = jnp.einsum("dn,bne->bde", reducers, coeffs, precision=HIGHEST)
    return jnp.einsum("bde,ehk->bdhk", reduced, key, precision=HIGHEST) * key.shape[-1] ** -0.5


def _density(
    cfg: LongTermConfig, q: Float[AnyArray, "B H T K"], reduced_keys: Float[AnyArray, "B 2 H K"]
) -> GaussianDensity:
    located, spread = jnp.einsum("bhtk,bdhk->dbht", q, reduced_keys, precision=HIGHEST)
    var = jnp.maximum(jax.nn.softplus(spread), cfg.min_var)
    return GaussianDensity(jax.nn.sigmoid(located), var)


class Projected(NamedTuple):
    """What any query needs of a long-term memory: the same until the next write."""

    keys: Float[AnyArray, "B 2 H K"]  # reduced by w_μ and w_σ
    values: Float[AnyArray, "B H R K"]  # V = C W_V, C on the `reading_basis`


class ReadParams(NamedTuple):
    """The parameters of a read."""

    key: Float[Array, "E H K"]
    value: Float[Array, "E H K"]
    out: Float[Array, "H K E"]
    mu: Float[Array, " N"]
    sigma: Float[Array, " N"]


def _project(
    cfg: LongTermConfig, params: ReadParams, coeffs: Float[AnyArray, "B N E"]
) -> Projected:
    fewer = to_reading_basis(reading_basis(cfg, coeffs.dtype), coeffs)
    values = jnp.swapaxes(to_heads(fewer, params.value, precision=HIGHEST), 0, 1)
    return Projected(_reduced_keys(coeffs, params.key, params.mu, params.sigma), values)


class LongTermRead(nn.Module):
    """Continuous attention of given queries over a long-term memory (paper §3.1; SPEC §2)."""

    cfg: LongTermConfig

    @nn.compact
    def __call__(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        projected: Projected | None = None,
    ) -> tuple[Float[Array, "B T E"], GaussianDensity]:
        """The context `concat_heads(E_p[ψ]ᵀ C W_V) W_O`, and the densities p.

        Args:
            projected: `project(memory)`, if it is at hand.
        """
        cfg, (_, heads, _, width), dim = self.cfg, q.shape, memory.coeffs.shape[-1]
        scatter = nn.initializers.normal(cfg.num_basis**-0.5)
        params = ReadParams(
            key=self.param("key", TO_HEADS, (dim, heads, width), F32),
            value=self.param("value", TO_HEADS, (dim, heads, width), F32),
            out=self.param("out", FROM_HEADS, (heads, width, dim), F32),
            mu=self.param("mu", scatter, (cfg.num_basis,), F32),
            sigma=self.param("sigma", scatter, (cfg.num_basis,), F32),
        )
        if projected is None:
            projected = _project(cfg, params, memory.coeffs)
        density = _density(cfg, q, projected.keys)
        functions = reading_basis(cfg, memory.coeffs.dtype).functions
        z = expected_value(functions, density, projected.values, read=cfg.read)
        return from_heads(jnp.swapaxes(z, 0, 1), params.out, HIGHEST), density

    def project(self, memory: LongTermMemory) -> Projected:
        """What all queries of a segment share."""
        return _project(self.cfg, self.params(), memory.coeffs)

    def params(self) -> ReadParams:
        """The parameters, which the first call has created."""
        return ReadParams(**self.variables["params"])


class LongTermAttention(nn.Module):
    """The ∞-former's memory as a layer that any attention block can call with its own queries.

    `write` what leaves the window, then call it with the block's projected queries and add the
    context to the block's attention output. The memory is explicit: it goes in and comes out.
    """

    cfg: LongTermConfig

    def setup(self):
        self.read = LongTermRead(self.cfg)
        if self.cfg.gate:
            self.gate = Gate()

    def write(
        self,
        memory: LongTermMemory,
        x: Float[AnyArray, "B L E"],
        *,
        rows: Bool[AnyArray, " B"] | None = None,
        **options: Any,
    ) -> LongTermMemory:
        """Gate x, then append it to the memory.

        Args:
            rows: which rows write; None = all. Not even a NaN in the x of others counts.
            options: keywords of `memory.long_term.write`, whose errors these are.
        """
        if rows is not None:
            x = long_term.select_rows(rows, x, jnp.zeros_like(x))
        return long_term.write(self.cfg, memory, self.gated(x), rows=rows, **options)

    def __call__(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        *,
        where: Bool[AnyArray, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T E"], LongTermMemory, dict[str, Any]]:
        """Read: (context, memory with this attention remembered if sticky, info).

        Args:
            q: projected queries, before any 1/√K and without position biases.
            where: queries that count for the salience; padding does not.

        Returns:
            Context and info as `attend` gives them.
        """
        context, info = self.attend(q, memory)
        if self.cfg.sticky:
            memory = long_term.remember(memory, info["density"], where)
        return context, memory, info

    def attend(
        self,
        q: Float[AnyArray, "B H T K"],
        memory: LongTermMemory,
        projected: Projected | None = None,
    ) -> tuple[Float[Array, "B T E"], dict[str, Any]]:
        """Read without remembering: (context, info).

        Args:
            projected: `LongTermRead.project` of the memory, made once for a segment that is read in
                pieces.

        Returns:
            The context is 0 in rows whose memory is empty. info["density"] has fields [B, H, T];
            info["kl"] [B, H, T] is each one's KL from the prior, 0 in empty rows.
        """
        if self.is_initializing():
            self.gated(memory.coeffs[:, :1])  # so that init by this call alone makes all parameters
        context, density = self.read(q, memory, projected)
        holds = (jnp.asarray(memory.writes) > 0)[:, None, None]
        kl = densities.kl(density, self.cfg.prior_scale, self.cfg.prior_mean)
        info = {"density": density, "kl": jnp.where(holds, kl, 0.0)}
        return jnp.where(holds, context, 0.0), info

    def gated(self, x: Float[AnyArray, "B L E"]) -> Float[AnyArray, "B L E"]:
        """What is written of x: smoothed by the gate, if there is one (SPEC §3)."""
        return self.gate(x) if self.cfg.gate else x
