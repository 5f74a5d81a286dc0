"""Attention over the window, and attention over the unbounded past.

`LocalAttention` is Transformer-XL's relative attention over [short-term memory | segment], in
chunks of queries. `LongTermAttention` is the ∞-former's (paper §3.1): one Gaussian density a head
and query, over the continuous signal of the long-term memory. Its context is *added* to the
other's, without a gate.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import density as densities
from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.long_term import HIGHEST, LongTermConfig, LongTermMemory
from inf_former_jax.memory.read import expected_value
from inf_former_jax.models.dropout import RowKeys, dropout

# A linear map from [..., E] to heads [H, K], and back.
_TO_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", 0, (1, 2))
_FROM_HEADS = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", (0, 1), 2)


def sinusoid(farthest: int, dim: int, clamp_len: int = 0) -> Float[np.ndarray, "S+1 E"]:
    """Position table of the distances S … 0 (S = farthest): `[sin(d f), cos(d f)]`.

    `f_i = 10000^(-2i/E)`, in float64. Queries never look S back, but `relative_attention` wants
    the row.

    Args:
        clamp_len: if positive, distances above it count as it.
    """
    distance = np.arange(farthest, -1, -1, dtype=np.float64)
    if clamp_len > 0:
        distance = np.minimum(distance, clamp_len)
    angle = distance[:, None] * (10000.0 ** (-np.arange(0, dim, 2) / dim))[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


class Heads(NamedTuple):
    """What relative attention needs of its inputs, all by head first."""

    q: Float[Array, "H B T K"]
    k: Float[Array, "H B S K"]  # S = short-term rows + T
    v: Float[Array, "H B S K"]
    r: Float[Array, "H S+1 K"]  # projected positions of the distances S … 0
    u: Float[Array, "H K"]  # content bias
    w: Float[Array, "H K"]  # position bias


def relative_attention(
    heads: Heads,
    filled: Int[AnyArray, " B"],
    *,
    same_length: int = 0,
    chunk: int = 128,
    rate: float = 0.0,
    rows: RowKeys | None = None,
    layer: int = 0,
) -> Float[Array, "H B T K"]:
    """Causal attention with relative positions over [memory | segment] (Dai et al. 2019, §3.3).

    `score = ((q+u)·k + (q+w)·R(d)) / √K` with d = query time - key time; a key is seen iff d ≥ 0,
    it is filled and, with same_length, d < same_length. Computed over chunks of queries, each on
    the keys that it can see at all.

    Args:
        filled: how many of the S - T memory rows hold something (the newest ones).
        same_length: 0, or the number of keys that every query sees at most.
        rate, rows, layer: dropout of the probabilities.
    """
    length, total = heads.q.shape[2], heads.k.shape[2]
    memory = total - length
    outputs = []
    for part, start in enumerate(range(0, length, chunk)):
        stop = min(start + chunk, length)
        first = max(0, memory + start - same_length + 1) if same_length else 0
        last = memory + stop
        piece = heads._replace(
            q=heads.q[:, :, start:stop],
            k=heads.k[:, :, first:last],
            v=heads.v[:, :, first:last],
            r=heads.r[:, total - (last - first) :],
        )
        empty = memory - filled - first  # keys before this one are empty slots of the memory
        outputs.append(_attend(piece, empty, same_length, rate, rows, (layer, part)))
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=2)


def _attend(heads, empty, same_length, rate, rows, place):
    queries, keys = heads.q.shape[2], heads.k.shape[2]
    scale = heads.q.shape[-1] ** -0.5
    content = jnp.einsum("hbtk,hbsk->hbts", (heads.q + heads.u[:, None, None]) * scale, heads.k)
    position = jnp.einsum("hbtk,hsk->hbts", (heads.q + heads.w[:, None, None]) * scale, heads.r)
    scores = content + _relative_shift(position)
    distance = np.arange(keys - queries, keys)[:, None] - np.arange(keys)[None, :]
    seen = distance >= 0
    if same_length:
        seen &= distance < same_length
    filled = np.arange(keys)[None, :] >= empty[:, None]  # [B, S]
    mask = seen[None, None] & filled[None, :, None]
    scores = jnp.where(mask, scores.astype(_at_least_float32(scores)), -jnp.inf)
    probs = jax.nn.softmax(scores, axis=-1).astype(heads.v.dtype)
    if rate > 0 and rows is not None:
        by_row = dropout(jnp.swapaxes(probs, 0, 1), rate, rows, place[0], "attention", place[1])
        probs = jnp.swapaxes(by_row, 0, 1)
    return jnp.einsum("hbts,hbsk->hbtk", probs, heads.v)


def _relative_shift(x):
    """[…, T, S+1] by distance to […, T, S] by key: (i, j) is x's (i, j - i + T).

    Read flat, each row of x begins one place too early for the next key: dropping the first T
    numbers aligns all of them. What wraps around to another row lies in the future, masked.
    """
    *batch, queries, width = x.shape
    flat = x.reshape(*batch, queries * width)[..., queries:]
    return flat.reshape(*batch, queries, width - 1)


def _at_least_float32(x):
    return jnp.promote_types(x.dtype, jnp.float32)


class LocalAttention(nn.Module):
    """Multi-head relative attention over [short-term memory | segment]; no biases.

    Called with normalised inputs where the block is pre-norm. The two position biases are given,
    since all layers share them.
    """

    num_heads: int
    head_dim: int
    same_length: int = 0
    chunk: int = 128
    rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T E"],
        short_term: Float[Array, "B S E"] | None,
        filled: Int[AnyArray, " B"],
        positions: Float[AnyArray, "P E"],
        biases: tuple[Float[Array, "H K"], Float[Array, "H K"]],
        rows: RowKeys | None = None,
        layer: int = 0,
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B H T K"]]:
        """The attention's output, and the projected queries, for the long-term memory to use.

        Args:
            short_term: earlier inputs, oldest first, of which the newest `filled` count.
            positions: `sinusoid(S + T, E)`, of P = S + T + 1 rows.
            biases: u and w of the scores.
        """
        dim = x.shape[-1]
        shape = (dim, self.num_heads, self.head_dim)
        kernel = {
            name: self.param(name, _TO_HEADS, shape)
            for name in ("query", "key", "value", "position")
        }
        out = self.param("out", _FROM_HEADS, (self.num_heads, self.head_dim, dim))
        context = x if short_term is None else jnp.concatenate([short_term, x], axis=1)
        heads = Heads(
            q=jnp.einsum("bte,ehk->hbtk", x, kernel["query"]),
            k=jnp.einsum("bse,ehk->hbsk", context, kernel["key"]),
            v=jnp.einsum("bse,ehk->hbsk", context, kernel["value"]),
            r=jnp.einsum("se,ehk->hsk", jnp.asarray(positions, x.dtype), kernel["position"]),
            u=biases[0],
            w=biases[1],
        )
        attended = relative_attention(
            heads, filled, same_length=self.same_length, chunk=self.chunk,
            rate=self.rate, rows=rows, layer=layer,
        )  # fmt: skip
        return jnp.einsum("hbtk,hke->bte", attended, out), jnp.swapaxes(heads.q, 0, 1)


class Gate(nn.Module):
    """`X ⊙ sigmoid(conv1d(X))`: what is written is first smoothed (SPEC §3, published code).

    The convolution mixes all channels over (l-1, l, l+1) of the same write, zeros at its ends.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        """The gated vectors, of x's shape."""
        dim = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal((0, 1)), (3, dim, dim))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        # One matrix product of the three neighbours: 10 x faster than XLA's convolution on a CPU.
        windows = jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], axis=-1)
        mixed = jnp.einsum("blw,we->ble", windows, kernel.reshape(3 * dim, dim), precision=HIGHEST)
        return x * jax.nn.sigmoid(mixed + bias[None, None])


def attention_density(
    cfg: LongTermConfig,
    q: Float[Array, "B H T K"],
    coeffs: Float[AnyArray, "B N E"],
    key: Float[Array, "E H K"],
    mu: Float[Array, " N"],
    sigma: Float[Array, " N"],
) -> densities.GaussianDensity:
    """Each query's density `N(μ, σ²)` without forming keys or scores (paper §3.1; SPEC §2).

    `μ = sigmoid(w_μ · s)`, `σ² = max(softplus(w_σ · s), σ²_min)` with scores `s = C W_K q / √K`.
    Since `w · s = q · (W_Kᵀ Cᵀ w) / √K`, the N coefficients are reduced first: neither keys
    [B,N,H,K] nor scores [B,H,T,N] ever exist.
    """
    reducers = jnp.stack([mu, sigma])
    reduced = jnp.einsum("dn,bne->bde", reducers, coeffs, precision=HIGHEST)
    keys = jnp.einsum("bde,ehk->bdhk", reduced, key, precision=HIGHEST) * q.shape[-1] ** -0.5
    located, spread = jnp.einsum("bhtk,bdhk->dbht", q, keys, precision=HIGHEST)
    var = jnp.maximum(jax.nn.softplus(spread), cfg.min_var)
    return densities.GaussianDensity(jax.nn.sigmoid(located), var)


class LongTermRead(nn.Module):
    """Continuous attention of given queries over a long-term memory (paper §3.1; SPEC §2)."""

    cfg: LongTermConfig

    @nn.compact
    def __call__(
        self, q: Float[Array, "B H T K"], memory: LongTermMemory
    ) -> tuple[Float[Array, "B T E"], densities.GaussianDensity]:
        """The context `concat_heads(E_p[ψ]ᵀ C W_V) W_O`, and the densities p."""
        cfg, (_, heads, _, width), dim = self.cfg, q.shape, memory.coeffs.shape[-1]
        key = self.param("key", _TO_HEADS, (dim, heads, width))
        value = self.param("value", _TO_HEADS, (dim, heads, width))
        out = self.param("out", _FROM_HEADS, (heads, width, dim))
        scatter = nn.initializers.normal(cfg.num_basis**-0.5)
        mu = self.param("mu", scatter, (cfg.num_basis,))
        sigma = self.param("sigma", scatter, (cfg.num_basis,))
        density = attention_density(cfg, q, memory.coeffs, key, mu, sigma)
        values = jnp.einsum("bne,ehk->bhnk", memory.coeffs, value, precision=HIGHEST)
        z = expected_value(cfg.basis, density, values)
        return jnp.einsum("bhtk,hke->bte", z, out, precision=HIGHEST), density


class LongTermAttention(nn.Module):
    """The ∞-former's memory as a layer that any attention block can call with its own queries.

    `write` what leaves the window, then call it with the block's projected queries and add the
    context to the block's attention output. The memory is explicit: in and out, never inside.
    """

    cfg: LongTermConfig

    def setup(self):
        self.read = LongTermRead(self.cfg)
        if self.cfg.gate:
            self.gate = Gate()

    def write(
        self,
        memory: LongTermMemory,
        x: Float[Array, "B L E"],
        *,
        operators: long_term.Operators | None = None,
        rows: Bool[AnyArray, " B"] | None = None,
        locations: Float[AnyArray, "B M"] | None = None,
        key=None,
    ) -> LongTermMemory:
        """Gate x, then append it: see `memory.long_term.write` for the arguments and errors."""
        gated = self.gate(x) if self.cfg.gate else x
        return long_term.write(
            self.cfg, memory, gated, operators=operators, rows=rows, locations=locations, key=key
        )

    def __call__(
        self,
        q: Float[Array, "B H T K"],
        memory: LongTermMemory,
        *,
        where: Bool[AnyArray, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T E"], LongTermMemory, dict]:
        """Read: (context, memory with this attention remembered if sticky, info).

        Args:
            q: projected queries, before any 1/√K and without position biases.
            where: queries that count for the salience; padding does not.

        Returns:
            The context is 0 in rows whose memory is empty. info["density"] has fields [B, H, T];
            info["kl"] [B, H, T] is each one's KL from the prior, 0 in empty rows.
        """
        context, density = self.read(q, memory)
        holds = (jnp.asarray(memory.writes) > 0)[:, None, None]
        kl = densities.kl(density, self.cfg.prior_scale, self.cfg.prior_mean)
        info = {"density": density, "kl": jnp.where(holds, kl, 0.0)}
        if self.cfg.sticky:
            memory = long_term.remember(memory, density, where)
        return jnp.where(holds, context, 0.0), memory, info
