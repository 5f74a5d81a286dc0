"""The next token from its logits: temperature, top-k, top-p, and rows that have ended."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.require import require


def check(
    vocab_size: int, temperature: float | int, top_p: float | int, top_k: int, stop: Sequence[int]
) -> None:
    """Raise ValueError naming the option unless these are ways to sample from vocab_size ids."""
    finite = "a finite number ≥ 0"
    require(0 <= temperature < float("inf"), "temperature", temperature, finite)
    require(0 < top_p <= 1, "top_p", top_p, "a number in (0, 1]")
    require(top_k >= 0, "top_k", top_k, "0 (all) or more")
    for token in stop:
        require(0 <= token < vocab_size, "stop", token, f"ids 0 … {vocab_size - 1}")


@partial(jax.jit, static_argnames=("vocab_size", "stop", "temperature", "top_p", "top_k"))
def say(logits, key, step, before, ended, *, vocab_size, stop, temperature, top_p, top_k):
    """A token a row, its last one again in rows that have ended, and which rows have ended now."""
    key, logits = jax.random.fold_in(key, step), logits[:, :vocab_size]
    sampled = sample(logits, key, temperature=temperature, top_p=top_p, top_k=top_k)
    token = jnp.where(ended, before, sampled)
    return token, ended | jnp.isin(token, jnp.array(stop, jnp.int32))


def sample(
    logits: Float[AnyArray, "B V"],
    key: PRNGKeyArray,
    *,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
    top_k: int = 0,
) -> Int[Array, " B"]:
    """A token a row from `softmax(logits / temperature)`, cut to its most probable tokens.

    Args:
        temperature: 0 = the most probable token.
        top_p: then only the smallest set of most probable tokens with this mass (Holtzman et al.
            2020), of what top_k leaves; at least one.
        top_k: only so many tokens; 0 = all.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = jnp.asarray(logits, jnp.float32) / temperature
    if top_k == 0 and top_p == 1:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    vocab_size = logits.shape[-1]
    sorted_logits, order = jax.lax.top_k(logits, min(top_k or vocab_size, vocab_size))
    probs = jax.nn.softmax(sorted_logits, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs  # mass of what is more probable
    kept = jnp.where(before < top_p, sorted_logits, -jnp.inf) if top_p < 1 else sorted_logits
    rank = jax.random.categorical(key, kept)
    return jnp.take_along_axis(order, rank[:, None], axis=1)[:, 0].astype(jnp.int32)
