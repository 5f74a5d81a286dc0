"""The next token from its logits: temperature, top-k, top-p, and rows that have ended."""

import dataclasses
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and which ones end a row.

    Raises:
        ValueError: on construction, for values by which nothing can be drawn.
    """

    temperature: float | int = 1.0
    """Logits are divided by it; 0 = always the most probable token."""
    top_p: float | int = 1.0
    """Draw from the most probable tokens whose probabilities sum to this; 1 = all."""
    top_k: int = 0
    """Draw from so many of the most probable tokens; 0 = all."""
    stop: Iterable[int] = ()
    """Ids that end a row."""
    vocab_size: int = 0
    """Ids from this one on, for which a tokeniser has no text, are never drawn; 0 = all are."""

    def __post_init__(self):
        object.__setattr__(self, "stop", tuple(map(int, self.stop)))  # hashable
        finite = "a finite number ≥ 0"
        require(0 <= self.temperature < float("inf"), "temperature", self.temperature, finite)
        require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        require(self.vocab_size >= 0, "vocab_size", self.vocab_size, "0 (all) or more")

    def check(self, vocab_size: int) -> None:
        """Raise ValueError unless a decoder of `vocab_size` ids can draw in this way."""
        for token in self.stop:
            require(0 <= token < vocab_size, "stop", token, f"ids 0 … {vocab_size - 1}")
        accepted = f"0 (all) … the decoder's {vocab_size}"
        require(self.vocab_size <= vocab_size, "vocab_size", self.vocab_size, accepted)


@partial(jax.jit, static_argnames="sampling")
def next_tokens(
    logits: Float[Array, "B V"],
    key: PRNGKeyArray,
    step: Int[Array, ""] | int,
    last: Int[Array, " B"],
    ended: Bool[Array, " B"],
    sampling: Sampling,
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """The token that each row says at a step, and which rows have ended by then.

    Args:
        last: what each row said before; a row that has ended says it again, as padding.
    """
    logits = logits[:, : sampling.vocab_size or logits.shape[1]]
    drawn = sample(
        logits,
        jax.random.fold_in(key, step),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    )
    tokens = jnp.where(ended, last, drawn)
    return tokens, ended | jnp.isin(tokens, jnp.array(tuple(sampling.stop), jnp.int32))


def sample(
    logits: Float[AnyArray, "B V"],
    key: PRNGKeyArray,
    *,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
    top_k: int = 0,
) -> Int[Array, " B"]:
    """A token for each row, drawn from its most probable ones by `softmax(logits / temperature)`.

    Args:
        temperature: 0 = the most probable token.
        top_k: draw from so many of the most probable tokens; 0 = all.
        top_p: of those, draw from the smallest set of most probable tokens that has this mass
            (Holtzman et al. 2020); it has at least one.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # Below the largest one, so that no division overflows; and float32 knows no smaller divisor.
    logits = jnp.asarray(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits -= logits.max(axis=-1, keepdims=True)
    logits /= max(temperature, float(jnp.finfo(jnp.float32).tiny))
    if top_k == 0 and top_p == 1:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    vocab_size = logits.shape[-1]
    sorted_logits, order = jax.lax.top_k(logits, min(top_k or vocab_size, vocab_size))
    probs = jax.nn.softmax(sorted_logits, axis=-1)
    mass_before = jnp.cumsum(probs, axis=-1) - probs  # of the tokens that are more probable
    if top_p < 1:
        sorted_logits = jnp.where(mass_before < top_p, sorted_logits, -jnp.inf)
    rank = jax.random.categorical(key, sorted_logits)
    return jnp.take_along_axis(order, rank[:, None], axis=1)[:, 0].astype(jnp.int32)
