"""The long-term memory by the paper's formulas, taken literally: what ours is measured against.

Everything that a formula names is an array: the samples of the old signal, the keys, the scores and
the expectations of all queries. JAX differentiates it, without rules, chunks or operators that are
combined beforehand. With uniform locations and fixed contraction, and in rows that were written to
before, the results are those of `LongTermAttention`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.basis import HIGHEST, AnyArray, evaluate, expectation
from inf_former_jax.memory.density import uniform_locations
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory


class LiteralAttention(NamedTuple):
    """A `LongTermAttention` that is bound to its parameters, and called as it is."""

    cfg: LongTermConfig
    params: Mapping[str, Any]
    ridge: Float[AnyArray, "M+L N"]  # G of a further write: for the samples and the new vectors

    def write(self, memory: LongTermMemory, x: Float[AnyArray, "B L E"]) -> LongTermMemory:
        """`C = Gᵀ [sg(Ψ(u) C_old); X ⊙ sigmoid(conv1d(X))]` (paper §3.2; SPEC §3).

        The convolution is one matrix product, which on a CPU is faster than XLA's own.
        """
        cfg, gate = self.cfg, self.params["gate"]
        psi = evaluate(cfg.basis, jnp.asarray(uniform_locations(cfg.num_samples), x.dtype))  # Ψ(u)
        samples = jnp.einsum("mn,bne->bme", psi, memory.coeffs, precision=HIGHEST)
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        windows = jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=-1)
        flat = gate["kernel"].reshape(-1, x.shape[-1])
        mixed = jnp.einsum("blw,we->ble", windows, flat, precision=HIGHEST)
        gated = x * jax.nn.sigmoid(mixed + gate["bias"][None, None])
        points = jnp.concatenate([jax.lax.stop_gradient(samples), gated], axis=1)
        coeffs = jnp.einsum("pn,bpe->bne", self.ridge, points, precision=HIGHEST)
        return memory._replace(coeffs=coeffs)

    def __call__(
        self, q: Float[AnyArray, "B H T K"], memory: LongTermMemory
    ) -> tuple[Float[Array, "B T E"], None, None]:
        """`concat_heads(E_p[ψ] C W_V) W_O` of each query's density p (paper §3.1; SPEC §2).

        `p = N(μ, σ²)` by scores `s = C W_K q / √K`: `μ = sigmoid(w_μ · s)`,
        `σ² = max(softplus(w_σ · s), σ²_min)`.
        """
        cfg, params, coeffs = self.cfg, self.params["read"], memory.coeffs
        keys = jnp.einsum("bne,ehk->bnhk", coeffs, params["key"], precision=HIGHEST)
        scores = jnp.einsum("bhtk,bnhk->bhtn", q, keys, precision=HIGHEST) / q.shape[-1] ** 0.5
        located = jnp.einsum("bhtn,n->bht", scores, params["mu"], precision=HIGHEST)
        spread = jnp.einsum("bhtn,n->bht", scores, params["sigma"], precision=HIGHEST)
        var = jnp.maximum(jax.nn.softplus(spread), cfg.min_var)
        expected = expectation(cfg.basis, jax.nn.sigmoid(located), var)  # E_p[ψ] [B, H, T, N]
        values = jnp.einsum("bne,ehk->bnhk", coeffs, params["value"], precision=HIGHEST)
        z = jnp.einsum("bhtn,bnhk->bthk", expected, values, precision=HIGHEST)
        return jnp.einsum("bthk,hke->bte", z, params["out"], precision=HIGHEST), None, None
