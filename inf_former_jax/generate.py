"""Tokens from a decoder that remembers: a prompt of any length streams in, tokens come out.

    state = generate.start(decoder, batch)
    _, state = generate.generate(decoder, params, state, document, 0, key)  # read it
    tokens, state = generate.generate(decoder, params, state, question, 100, key, top_p=0.9)

Each row fills its own segment token by token, on cached keys and values, and writes it to its own
memory when it is full: the logits are those of `Decoder` on whole segments. A state has read every
token that its rows were given or have said, and already knows the logits of the next; hence two
calls in a row, the second without a prompt, say what one would.
"""

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from inf_former_jax.decoding import (
    DecodeState,
    distances,
    extend,
    load_state,
    save_state,
    start,
)
from inf_former_jax.memory import long_term
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.operators import require
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.models.decoder import operators as write_operators

__all__ = ["DecodeState", "generate", "load_state", "sample", "save_state", "start", "stream"]


def generate(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: Int[AnyArray, "B T"],
    num_tokens: int,
    key: PRNGKeyArray,
    *,
    lengths: Int[AnyArray, " B"] | None = None,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
    top_k: int = 0,
    stop: Iterable[int] = (),
    vocab_size: int = 0,
    operators: long_term.Operators | None = None,
) -> tuple[Int[Array, "B num_tokens"], DecodeState]:
    """Read a prompt, then sample: the new tokens, and the state that has read them too.

    Args:
        state: from `start` or an earlier call. It stays usable: many may go on from one.
        prompt: any T; [B, 0] to go on where an earlier call ended.
        num_tokens: 0 = only read.
        key: of the samples, and of the locations of writes if these are drawn.
        lengths: how many tokens of each row count, the others are padding on the right; None = T.
            0 is accepted in rows that have read something.
        temperature, top_p, top_k: see `sample`.
        stop: ids that end a row: it says and reads one of them, repeats it as padding up to
            num_tokens, and reads nothing more in this call.
        vocab_size: ids from it on, which a tokeniser has no text for, are never said; 0 = all.
        operators: `jax.device_put(operators(cfg))`; None makes them for this call.

    Raises:
        ValueError: before anything is computed, for arguments that do not fit the decoder.
    """
    steps = stream(
        decoder, params, state, prompt, num_tokens, key, lengths=lengths, temperature=temperature,
        top_p=top_p, top_k=top_k, stop=stop, vocab_size=vocab_size, operators=operators,
    )  # fmt: skip
    said = []
    while True:
        try:
            said.append(next(steps))
        except StopIteration as end:
            state = end.value
            break
    rest = [said[-1]] * (num_tokens - len(said)) if said else []
    empty = jnp.zeros((np.shape(prompt)[0], 0), jnp.int32)
    return (jnp.stack(said + rest, axis=1) if said else empty), state


def stream(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: Int[AnyArray, "B T"],
    num_tokens: int,
    key: PRNGKeyArray,
    *,
    lengths: Int[AnyArray, " B"] | None = None,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
    top_k: int = 0,
    stop: Iterable[int] = (),
    vocab_size: int = 0,
    operators: long_term.Operators | None = None,
) -> Generator[Int[Array, " B"], None, DecodeState]:
    """`generate`, whose arguments and errors these are, a step at a time: yields tokens [B].

    It ends early once all rows have met a stop token. The state is what the generator returns:
    `state = yield from stream(...)`, or the value of its StopIteration.
    """
    cfg = decoder.cfg
    prompt, stop = np.asarray(prompt), tuple(map(int, stop))
    whole = prompt.ndim == 2 and np.issubdtype(prompt.dtype, np.integer)
    require(whole, "prompt", f"{prompt.dtype}{list(prompt.shape)}", "token ids [B, T]")
    accepted = memories.shapes(jax.eval_shape(lambda: start(decoder, prompt.shape[0])))
    memories.require_same("state", memories.shapes(state), accepted)
    require(num_tokens >= 0, "num_tokens", num_tokens, "0 or more")
    _check_sampling(cfg.vocab_size, temperature, top_p, top_k, stop)
    lengths = _lengths(state, prompt, lengths)
    real = prompt[np.arange(prompt.shape[1]) < lengths[:, None]]
    for token in (int(real.min(initial=0)), int(real.max(initial=0))):
        require(0 <= token < cfg.vocab_size, "prompt", token, f"ids 0 … {cfg.vocab_size - 1}")
    if operators is None:
        operators = jax.device_put(write_operators(cfg))
    known = "0 (all) … the decoder's"
    require(
        0 <= vocab_size <= cfg.vocab_size, "vocab_size", vocab_size, f"{known} {cfg.vocab_size}"
    )
    say = partial(_say, vocab_size=vocab_size or cfg.vocab_size)
    choose = partial(say, stop=stop, temperature=temperature, top_p=top_p, top_k=top_k)
    return _steps(decoder, params, state, prompt, lengths, num_tokens, key, choose, operators)


def _lengths(state, prompt, lengths):
    batch, longest = prompt.shape
    if lengths is None:
        lengths = np.full((batch,), longest)
    lengths = np.asarray(lengths)
    require(lengths.shape == (batch,), "lengths", lengths.shape, f"[{batch}]")
    fresh = np.asarray(state.memory.seen) + np.asarray(state.position) == 0
    pairs = zip(lengths.tolist(), fresh.astype(int).tolist(), strict=True)
    for row, (length, least) in enumerate(pairs):
        accepted = f"{least} … {longest}" + (", since it has read nothing yet" if least else "")
        require(least <= length <= longest, f"lengths of row {row}", length, accepted)
    return lengths


def _check_sampling(vocab_size, temperature, top_p, top_k, stop):
    finite = "a finite number ≥ 0"
    require(0 <= temperature < float("inf"), "temperature", temperature, finite)
    require(0 < top_p <= 1, "top_p", top_p, "a number in (0, 1]")
    require(top_k >= 0, "top_k", top_k, "0 (all) or more")
    for token in stop:
        require(0 <= token < vocab_size, "stop", token, f"ids 0 … {vocab_size - 1}")


def _steps(decoder, params, state, prompt, lengths, num_tokens, key, choose, operators):
    samples, writes = jax.random.split(key)
    constants = (operators, distances(decoder, params))
    state = jax.tree.map(jnp.array, state)  # the caller's stays theirs, while ours are donated
    params = jax.device_put(params)  # once, not at every token
    reads = 0
    for tokens, counts in _pieces(prompt, lengths, state.position, decoder.cfg.segment_len):
        state = extend(decoder, params, state, tokens, counts, constants, writes, reads)
        reads += 1
    token = jnp.zeros(len(lengths), jnp.int32)
    ended = jnp.zeros(len(lengths), bool)
    for step in range(num_tokens):
        going = ~ended
        token, ended = choose(state.cache.logits, samples, step, token, ended)
        counts = going.astype(jnp.int32)
        state = extend(decoder, params, state, token[:, None], counts, constants, writes, reads)
        reads += 1
        yield token
        if choose.keywords["stop"] and bool(ended.all()):
            break
    return state


def _pieces(prompt, lengths, position, segment_len) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The prompt as tokens [B, segment_len] and counts [B]: none crosses a segment end."""
    position, done = np.asarray(position), np.zeros_like(lengths)
    place = np.arange(segment_len)[None]
    while (done < lengths).any():
        counts = np.minimum(segment_len - position, lengths - done)
        columns = np.minimum(done[:, None] + place, prompt.shape[1] - 1)
        tokens = np.take_along_axis(prompt, columns, axis=1)
        tokens = np.where(place < counts[:, None], tokens, 0)
        yield tokens.astype(np.int32), counts.astype(np.int32)
        position, done = (position + counts) % segment_len, done + counts


@partial(jax.jit, static_argnames=("vocab_size", "stop", "temperature", "top_p", "top_k"))
def _say(logits, key, step, before, ended, *, vocab_size, stop, temperature, top_p, top_k):
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
