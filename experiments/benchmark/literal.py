"""The long-term memory by the paper's formulas, taken literally: what ours is measured against.

Everything that a formula names is an array: the samples of the old signal, the keys, the scores and
the expectations of all queries. JAX differentiates it, without rules, chunks or operators that are
combined beforehand. With uniform locations and fixed contraction, and in rows that were written to
before, the results are those of `LongTermAttention`.

`step_operations` counts the products of a whole training step in the same manner.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.basis import evaluate, expectation
from inf_former_jax.memory.density import uniform_locations
from inf_former_jax.memory.long_term import LongTermConfig, LongTermMemory
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.training.forward import LOSS, PADDING, by_segment


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


def step_operations(model: ModelConfig, batch: Batch) -> int:
    """Multiplications and additions of a training step by the paper's formulas, each as it is.

    Every segment is run by itself. Keys and values of the short-term memory are projected anew,
    scores of all its keys are formed, and a write and a read are those of `LiteralAttention`.
    Segments without loss are run forward: but for the last layer, of which only the memory is
    needed. What is not there yet is not counted: an empty window, or a signal before its first
    write. Memory that earlier segments left is a constant, so that it has no gradient.
    """
    (rows, count, length), total = batch.tokens.shape, 0
    age = np.zeros(rows, int)  # segments of the document before this one
    remembers = bool(model.mem_len or model.long_term or model.compressed)
    for number, kind in zip(range(count), np.asarray(by_segment(batch).kind), strict=True):
        age = np.where(batch.resets[:, number], 0, age)
        needed = kind == LOSS or (kind != PADDING and remembers)
        for old in age if needed else ():
            # Its writes so far: a segment is written as soon as it leaves the window.
            writes = max(0, int(old) - model.mem_len // length)
            total += _segment(model, length, int(old) * length, writes, kind == LOSS)
        # The table of positions is projected once for all rows.
        if model.position == "relative" and needed:
            window = min(int(age.max()) * length, model.mem_len)
            total += _positions(model, window + length, kind == LOSS)
        age += 1
    return total


def _positions(model: ModelConfig, keys: int, loss: bool) -> int:
    """R W_R of each layer; its gradient is by the weights alone."""
    once = 2 * keys * model.d_model * model.num_heads * model.head_dim
    return once * (2 * model.num_layers if loss else model.num_layers - 1)


def _segment(model: ModelConfig, length: int, past: int, writes: int, loss: bool) -> int:
    """Of one row's segment, after `past` tokens and with its memory written `writes` times."""
    t, e, a = length, model.d_model, model.num_heads * model.head_dim
    shared, maps = model.kv_heads * model.head_dim, 3 if model.activation == "swiglu" else 2
    window, compressed, terms = min(past, model.mem_len), model.compressed, 1
    rate = compressed.rate if compressed else 1
    extra = min(writes * t // rate, compressed.length) if compressed else 0
    keys = extra + window + t
    if model.position == "relative":
        terms = 2  # of a score: by content and by position
    # Forward, and of the gradient: two products for each, but none by what is constant.
    attention = 4 * t * e * a + 2 * (terms + 1) * t * keys * a  # queries, out; scores, values
    forward = attention + 4 * keys * e * shared + 2 * maps * t * e * model.d_inner
    backward = 2 * forward - 4 * (keys - t) * e * shared
    write = write_back = 0
    last = 0  # of the last layer, where there is no loss
    if compressed and writes:
        new = t // rate
        if compressed.function == "convolution":
            write = write_back = 2 * new * rate * e * e
        if loss:  # attention to the old vectors and to the new ones
            forward += 4 * (t + new) * e * shared + 4 * t * a * (t + new)
            backward += 4 * new * e * shared + 6 * t * a * new
    if (memory := model.long_term) and writes:
        n, heads = memory.num_basis, model.num_heads
        gate = 6 * t * e * e if memory.gate else 0
        known = memory.num_samples if writes > 1 else 0  # samples of the old signal
        write, write_back = gate + 2 * (2 * known + t) * n * e, gate + 2 * t * n * e
        scores = 2 * n * e * a + 2 * t * n * a + 4 * heads * t * n
        read = scores + 2 * n * e * a + 2 * t * n * a + 2 * t * a * e
        forward, backward = forward + read, backward + 2 * read
        if memory.sticky:
            last = 2 * t * e * a + scores  # the densities that steer the next write
    if loss:
        logits = 6 * t * e * model.vocab_size
        return logits + model.num_layers * (forward + backward + write + write_back)
    return (model.num_layers - 1) * forward + model.num_layers * write + last
