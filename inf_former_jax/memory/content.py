"""Reading the signal by content, recomputed instead of stored (SPEC §9).

`z = Σ_r w_r V_r` with the weights `w = softmax(q·K_r/√K + b_r)` of a Gibbs density over R cells.
They are [B, H, T, R] numbers. A custom VJP forms those of a chunk of queries, uses them, and forms
them again in the backward pass. With `Z = log Σ exp` of the scores s and the cotangents g of z and
h of Z,

    ∂V = wᵀ g,    ∂s = w ⊙ (g Vᵀ - (g·z - h) 1ᵀ).

What steers a sticky memory, the sum of weights over queries, is formed on the way.

Z lets another softmax be joined: of two attentions (z, Z) and (z', Z') over different keys, the one
over all of them is `z + sigmoid(Z' - Z) (z' - z)`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.cpu_cache import in_cached_pieces
from inf_former_jax.memory.density import GibbsDensity
from inf_former_jax.memory.fit.ridge import first_fit_times


def cell_signal(cfg: LongTermConfig, coeffs: Float[AnyArray, "B N E"]) -> Float[Array, "B R E"]:
    """The signal on R equal cells: at their midpoints, `x̄(t_r) = Cᵀ ψ(t_r)`.

    On the rectangular basis these are the coefficients themselves. With `cfg.unit_cells` each is
    scaled to `Σ_e x̄_e² / E = 1`.
    """
    signal: Any = jnp.asarray(coeffs)
    if cfg.functions != "rectangular":
        middles = first_fit_times(cfg.content_cells)
        psi = jnp.asarray(cfg.basis.evaluate(middles), coeffs.dtype)
        signal = jnp.einsum("rn,bne->bre", psi, coeffs, precision=HIGHEST)
    return unit(signal) if cfg.unit_cells else signal


def unit(x: Float[AnyArray, "... E"]) -> Float[Array, "... E"]:
    """Vectors scaled to `Σ_e x_e² / E = 1`; a vector of zeros stays, with a finite gradient."""
    x = jnp.asarray(x)
    squares = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + 1e-8)


class ContentRead(NamedTuple):
    """What queries find by content, and how much there was to find."""

    value: Float[Array, "B H T K"]  # z
    logsum: Float[Array, "B H T"]  # Z, the logarithm of the sum of exponentials
    mass: Float[Array, "B R"] | None = None  # of each cell, over heads and queries; no gradient


def content_read(
    density: GibbsDensity,
    values: Float[AnyArray, "B H R K"],
    chunk: int = 256,
    counted: Bool[AnyArray, "B T"] | None = None,
) -> ContentRead:
    """`z = Σ_r w_r V_r` and `Z = log Σ_r exp(s_r)` of each density (SPEC §9).

    Args:
        density: other keys of it are not read here: `join` adds what is found among them.
        values: V, the projected signal of each head on each cell.
        chunk: queries whose weights exist at a time; any T is accepted.
        counted: queries that count in the mass of cells; None = no mass is wanted. With other keys
            in the density it is the cells' part of the whole softmax.
    """
    queries, keys, bias = map(jnp.asarray, density[:3])

    def flat(x):  # [B, H, …] as [G, …]: heads of rows are independent of each other
        return x.reshape(-1, *x.shape[2:])

    shape, weighing = queries.shape[:3], ()
    if counted is not None:
        rows = jnp.asarray(counted, queries.dtype)[:, None]
        others = -jnp.inf if density.others is None else density.others
        weighing = (jnp.broadcast_to(rows, shape), jnp.broadcast_to(others, shape))
        weighing = jax.lax.stop_gradient(tuple(map(flat, weighing)))
    arrays = map(flat, (queries, keys, bias, jnp.asarray(values)))
    found: Any = _read(*arrays, weighing, chunk)
    z, logsum, *mass = found
    of_cells = mass[0].reshape(*shape[:2], -1).sum(axis=1) if mass else None
    return ContentRead(z.reshape(*shape, -1), logsum.reshape(shape), of_cells)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _read(queries: Any, keys: Any, bias: Any, values: Any, weighing: Any, chunk: int) -> Any:
    """(z [G, T, K], Z [G, T]) of queries [G, T, K] on cells [G, R, K], and the mass [G, R].

    Args:
        weighing: how much each query counts, and the log-sum of its other keys, both [G, T]; with
            () there is no mass.
    """

    def read_heads(queries, keys, bias, values, *weighing):
        found, mass = [], []
        for start in range(0, queries.shape[1], chunk):
            at = slice(start, start + chunk)
            scores = _scores(queries[:, at], keys, bias)
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = weights.sum(axis=-1, keepdims=True)
            z = jnp.einsum("gtr,grk->gtk", weights, values, precision=HIGHEST) / total
            logsum = (top + jnp.log(total))[..., 0]
            found.append((z, logsum))
            if weighing:
                counted, others = (part[:, at] for part in weighing)
                share = counted * jax.nn.sigmoid(logsum - others) / total[..., 0]
                mass.append(jnp.einsum("gtr,gt->gr", weights, share, precision=HIGHEST))
        joined = jax.tree.map(lambda *parts: _joined(parts), *found)
        return (*joined, sum(mass)) if mass else joined

    numbers = min(chunk, queries.shape[1]) * keys.shape[1]
    return in_cached_pieces(read_heads, numbers, queries, keys, bias, values, *weighing)


def _forward(queries, keys, bias, values, weighing, chunk):
    found: Any = _read(queries, keys, bias, values, weighing, chunk)
    z, logsum, *_ = found
    return found, (weighing, (queries, keys, bias, values, z, logsum))


def _backward(chunk, given, cotangents):
    weighing, residuals = given
    cotangents = cotangents[:2]  # the mass has no gradient

    def differentiate_heads(queries, keys, bias, values, z, logsum, g, h):
        grad_queries: list[Any] = []
        grads: Any = None
        excess = (g * z).sum(axis=-1) - h
        for start in range(0, queries.shape[1], chunk):
            at = slice(start, start + chunk)
            weights = jnp.exp(_scores(queries[:, at], keys, bias) - logsum[:, at, None])
            by_value = jnp.einsum("gtk,grk->gtr", g[:, at], values, precision=HIGHEST)
            by_score = weights * (by_value - excess[:, at, None])
            grad_queries.append(jnp.einsum("gtr,grk->gtk", by_score, keys, precision=HIGHEST))
            more = (
                _sum_over_queries(queries[:, at], by_score),
                by_score.sum(axis=1),
                _sum_over_queries(g[:, at], weights),
            )
            grads = more if grads is None else jax.tree.map(jnp.add, grads, more)
        return _joined(grad_queries), *grads

    numbers = min(chunk, residuals[0].shape[1]) * residuals[1].shape[1]
    found = in_cached_pieces(differentiate_heads, numbers, *residuals, *cotangents)
    grad_queries, grad_keys, grad_bias, grad_values = found
    grads = grad_queries, jnp.swapaxes(grad_keys, 1, 2), grad_bias, jnp.swapaxes(grad_values, 1, 2)
    return *grads, jax.tree.map(jnp.zeros_like, weighing)


_read.defvjp(_forward, _backward)


def _scores(queries: Array, keys: Array, bias: Array) -> Array:
    return jnp.einsum("gtk,grk->gtr", queries, keys, precision=HIGHEST) + bias[:, None]


def _sum_over_queries(
    x: Float[Array, "G T K"], weights: Float[Array, "G T R"]
) -> Float[Array, "G K R"]:
    """`Σ_t weights_tr x_t`, R last.

    XLA transposes the first operand, so the smaller one stands there. A transpose of the result in
    the same loop would be made one of the operands, and the product take half as long again.
    """
    return jnp.einsum("gtk,gtr->gkr", x, weights, precision=HIGHEST)


def _joined(parts: Any) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def join(
    z: Float[Array, "H B T K"], logsum: Float[Array, "H B T"], other: ContentRead
) -> Float[Array, "H B T K"]:
    """The attention over the keys of two, by their values and sums.

    Args:
        other: of the same queries; Z' = -∞ where it has no key.
    """
    share = jax.nn.sigmoid(jnp.swapaxes(other.logsum, 0, 1) - logsum)[..., None]
    value = jnp.swapaxes(other.value, 0, 1)
    return z + (share * (value - z)).astype(z.dtype)
