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
from jaxtyping import Array, Int, PRNGKeyArray

from inf_former_jax.generate.decoding import (
    DecodeState,
    distances,
    extend,
    load_state,
    save_state,
    start,
)
from inf_former_jax.generate.sampling import check as check_sampling
from inf_former_jax.generate.sampling import sample, say
from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.models.decoder import operators as write_operators
from inf_former_jax.require import require, require_same, shapes

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
    types: Int[AnyArray, "B T"] | None = None,
    reply_types: Int[AnyArray, " B"] | None = None,
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
        types: of the prompt's tokens, see `Decoder`; None = without.
        reply_types: of what each row says; wanted where the prompt has types.

    Raises:
        ValueError: before anything is computed, for arguments that do not fit the decoder.
    """
    steps = stream(
        decoder, params, state, prompt, num_tokens, key, lengths=lengths, temperature=temperature,
        top_p=top_p, top_k=top_k, stop=stop, vocab_size=vocab_size, operators=operators,
        types=types, reply_types=reply_types,
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
    types: Int[AnyArray, "B T"] | None = None,
    reply_types: Int[AnyArray, " B"] | None = None,
) -> Generator[Int[Array, " B"], None, DecodeState]:
    """`generate`, whose arguments and errors these are, a step at a time: yields tokens [B].

    It ends early once all rows have met a stop token. The state is what the generator returns:
    `state = yield from stream(...)`, or the value of its StopIteration.
    """
    cfg = decoder.cfg
    prompt, stop = np.asarray(prompt), tuple(map(int, stop))
    whole = prompt.ndim == 2 and np.issubdtype(prompt.dtype, np.integer)
    require(whole, "prompt", f"{prompt.dtype}{list(prompt.shape)}", "token ids [B, T]")
    fresh = jax.eval_shape(lambda: start(decoder, prompt.shape[0], state.cache.logits.dtype))
    accepted = shapes(fresh)
    require_same("state", shapes(state), accepted)
    require(num_tokens >= 0, "num_tokens", num_tokens, "0 or more")
    check_sampling(cfg.vocab_size, temperature, top_p, top_k, stop)
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
    types = _types(cfg, prompt, lengths, types, reply_types, num_tokens)
    choose = partial(
        say, vocab_size=vocab_size or cfg.vocab_size, stop=stop, temperature=temperature,
        top_p=top_p, top_k=top_k,
    )  # fmt: skip
    prompt = (prompt, *types)
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


def _steps(decoder, params, state, prompt, lengths, num_tokens, key, choose, operators):
    (prompt, types, reply_types), (samples, writes) = prompt, jax.random.split(key)
    constants = (operators, distances(decoder, params))
    state = jax.tree.map(jnp.array, state)  # the caller's stays theirs, while ours are donated
    params = jax.device_put(params)  # once, not at every token
    reads = 0
    pieces = _pieces(prompt, types, lengths, state.position, decoder.cfg.segment_len)
    for tokens, of_tokens, counts in pieces:
        state = extend(decoder, params, state, tokens, counts, constants, writes, reads, of_tokens)
        reads += 1
    token = jnp.zeros(len(lengths), jnp.int32)
    ended = jnp.zeros(len(lengths), bool)
    said = None if reply_types is None else jnp.asarray(reply_types, jnp.int32)[:, None]
    for step in range(num_tokens):
        going = ~ended
        token, ended = choose(state.cache.logits, samples, step, token, ended)
        counts = going.astype(jnp.int32)
        state = extend(
            decoder, params, state, token[:, None], counts, constants, writes, reads, said
        )
        reads += 1
        yield token
        if choose.keywords["stop"] and bool(ended.all()):
            break
    return state


def _types(cfg, prompt, lengths, types, reply_types, num_tokens):
    """(types, reply_types) as arrays or None; ValueError unless they go with the prompt."""
    if types is None:
        require(reply_types is None, "reply_types", "some", "none for a prompt without types")
        return None, None
    types = np.asarray(types)
    found = f"{types.dtype}{list(types.shape)}"
    whole = types.shape == prompt.shape and np.issubdtype(types.dtype, np.integer)
    require(whole, "types", found, f"ids {list(prompt.shape)}")
    real = types[np.arange(prompt.shape[1]) < lengths[:, None]]
    if reply_types is None:
        require(num_tokens == 0, "reply_types", "none", "ids [B] for a prompt with types")
    else:
        reply_types = np.asarray(reply_types)
        require(
            reply_types.shape == prompt.shape[:1], "reply_types", list(reply_types.shape), "[B]"
        )
    for name, ids in (("types", real), ("reply_types", reply_types)):
        for one in () if ids is None else (int(ids.min(initial=0)), int(ids.max(initial=0))):
            require(0 <= one < cfg.vocab_size, name, one, f"ids 0 … {cfg.vocab_size - 1}")
    return types, reply_types


def _pieces(prompt, types, lengths, position, segment_len) -> Iterator[tuple[Any, Any, Any]]:
    """The prompt as tokens and types [B, segment_len], counts [B]: none crosses a segment end."""
    position, done = np.asarray(position), np.zeros_like(lengths)
    place = np.arange(segment_len)[None]
    while (done < lengths).any():
        counts = np.minimum(segment_len - position, lengths - done)
        columns = np.minimum(done[:, None] + place, prompt.shape[1] - 1)

        def taken(ids, columns=columns, counts=counts):
            ids = np.take_along_axis(ids, columns, axis=1)
            return np.where(place < counts[:, None], ids, 0).astype(np.int32)

        of_tokens = None if types is None else taken(types)
        yield taken(prompt), of_tokens, counts.astype(np.int32)
        position, done = (position + counts) % segment_len, done + counts
