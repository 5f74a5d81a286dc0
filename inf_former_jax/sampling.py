"""Which token comes next: temperature, the k most probable, the nucleus."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.operators import require


def check(
    vocab_size: int, temperature: float, top_p: float, top_k: int, stop: Sequence[int]
) -> None:
    """Refuse settings that no sample can have.

    Raises:
        ValueError: which, what was found, what is accepted.
    """
    finite = "a finite number ≥ 0"
    require(0 <= temperature < float("inf"), "temperature", temperature, finite)
    require(0 < top_p <= 1, "top_p", top_p, "a number in (0, 1]")
    require(top_k >= 0, "top_k", top_k, "0 (all) or more")
    for token in stop:
        require(0 <= token < vocab_size, "stop", token, f"ids 0 … {vocab_size - 1}")


def sample(
    logits: Float[AnyArray, "B V"],
    key: PRNGKeyArray,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
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
