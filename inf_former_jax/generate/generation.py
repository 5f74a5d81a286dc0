"""Read a prompt of any length, then say new tokens.

Each row fills a segment of its own token by token, on cached keys and values, and writes it to its
own memory when it is full. The logits are those of `Decoder` on whole segments. A state has read
every token that its rows were given or have said, and knows the logits of the next one. Hence two
calls in a row, the second without a prompt, say what one call would.
"""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from inf_former_jax.generate.decoding import (
    Constants,
    DecodeState,
    NonFiniteState,
    Piece,
    distances,
    extend,
    start,
)
from inf_former_jax.generate.sampling import Sampling, next_tokens
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import Operators
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.models.decoder import operators as write_operators
from inf_former_jax.require import require, require_same, shapes


def generate(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: Int[AnyArray, "B T"],
    num_tokens: int,
    key: PRNGKeyArray,
    *,
    sampling: Sampling | None = None,
    lengths: Int[AnyArray, " B"] | None = None,
    operators: Operators | None = None,
    types: Int[AnyArray, "B T"] | None = None,
    reply_types: Int[AnyArray, " B"] | None = None,
    **options: Any,
) -> tuple[Int[Array, "B num_tokens"], DecodeState]:
    """Read a prompt, then sample: the new tokens, and the state that has read them too.

    Args:
        state: from `start` or an earlier call. It stays usable: many may go on from one.
        prompt: any T; [B, 0] to go on where an earlier call ended.
        num_tokens: 0 = only read.
        key: of the samples, and of the locations of writes if these are drawn.
        sampling: how tokens are drawn; None = from all of them, at temperature 1. A row that
            draws one of its `stop` ids reads it, repeats it as padding up to num_tokens, and reads
            nothing more in this call.
        lengths: how many tokens of each row count, the others are padding on the right; None = T.
            0 is accepted in rows that have read something.
        operators: `jax.device_put(operators(cfg))`; None makes them for this call.
        types: of the prompt's tokens, see `Decoder`; None = without.
        reply_types: of what each row says; wanted where the prompt has types.
        options: fields of `Sampling` by their names, such as `temperature` and `top_p`; they
            replace those of `sampling`.

    Raises:
        ValueError: before anything is computed, for arguments that do not fit the decoder.
        NonFiniteState: the weights, or the state that was given, led to a NaN or an infinity among
            the logits.
    """
    steps = stream(
        decoder,
        params,
        state,
        prompt,
        num_tokens,
        key,
        sampling=sampling,
        lengths=lengths,
        operators=operators,
        types=types,
        reply_types=reply_types,
        wait=False,
        **options,
    )
    columns = []
    while True:
        try:
            columns.append(next(steps))
        except StopIteration as end:
            state = end.value
            break
    if not columns:
        return jnp.zeros((np.shape(prompt)[0], 0), jnp.int32), state
    padding = [columns[-1]] * (num_tokens - len(columns))
    return jnp.stack(columns + padding, axis=1), state


def stream(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: Int[AnyArray, "B T"],
    num_tokens: int,
    key: PRNGKeyArray,
    *,
    sampling: Sampling | None = None,
    lengths: Int[AnyArray, " B"] | None = None,
    operators: Operators | None = None,
    types: Int[AnyArray, "B T"] | None = None,
    reply_types: Int[AnyArray, " B"] | None = None,
    wait: bool = True,
    **options: Any,
) -> Generator[Int[Array, " B"], None, DecodeState]:
    """`generate`, whose arguments and errors these are, a step at a time: yields tokens [B].

    It ends early once all rows have met a stop token. The state is what the generator returns:
    `state = yield from stream(...)`, or the value of its StopIteration.

    Args:
        wait: whether the logits of a token are looked at before it is yielded, for which the device
            is waited for. Otherwise those of all tokens are looked at in the end.
    """
    cfg = decoder.cfg
    sampling = dataclasses.replace(sampling or Sampling(), **options)
    sampling.check(cfg.vocab_size)
    require(num_tokens >= 0, "num_tokens", num_tokens, "0 or more")
    tokens = np.asarray(prompt)
    whole = tokens.ndim == 2 and np.issubdtype(tokens.dtype, np.integer)
    require(whole, "prompt", f"{tokens.dtype}{list(tokens.shape)}", "token ids [B, T]")
    fresh = jax.eval_shape(lambda: start(decoder, len(tokens), state.cache.logits.dtype))
    require_same("state", shapes(state), shapes(fresh))
    lengths = _lengths(state, tokens, lengths)
    checked = _checked_prompt(cfg, tokens, lengths, types, reply_types)
    if types is not None and reply_types is None:
        require(num_tokens == 0, "reply_types", "none", "ids [B] for a prompt with types")
    if operators is None:
        operators = jax.device_put(write_operators(cfg))
    return _steps(decoder, params, state, checked, num_tokens, key, sampling, operators, wait)


class _Prompt(NamedTuple):
    """A prompt that fits the decoder, on the host."""

    tokens: Int[np.ndarray, "B T"]
    lengths: Int[np.ndarray, " B"]
    types: Int[np.ndarray, "B T"] | None = None
    reply_types: Int[np.ndarray, " B"] | None = None


def _steps(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: _Prompt,
    num_tokens: int,
    key: Any,
    sampling: Sampling,
    operators: Operators | None,
    wait: bool,
) -> Generator[Int[Array, " B"], None, DecodeState]:
    sample_key, location_key = jax.random.split(key)
    constants = Constants(operators, distances(decoder, params), location_key)
    state = jax.tree.map(jnp.array, state)  # `extend` donates it, and the caller keeps theirs
    params = jax.device_put(params)  # once, not at every token
    number = 0
    for piece in _pieces(prompt, np.asarray(state.position), decoder.cfg.segment_len):
        state = extend(decoder, params, state, piece, constants, number)
        number += 1
    tokens, ended = (jnp.zeros(len(prompt.lengths), dtype) for dtype in (jnp.int32, bool))
    types, finite = None, []
    if prompt.reply_types is not None:
        types = jnp.asarray(prompt.reply_types, jnp.int32)[:, None]
    for step in range(num_tokens):
        finite.append(_finite(state.cache.logits))
        if wait:
            _require_finite(finite[-1:], step)
        counts = (~ended).astype(jnp.int32)
        logits = state.cache.logits
        tokens, ended = next_tokens(logits, sample_key, step, tokens, ended, sampling)
        piece = Piece(tokens[:, None], counts, types)
        state = extend(decoder, params, state, piece, constants, number)
        number += 1
        yield tokens
        if sampling.stop and bool(ended.all()):
            break
    _require_finite([*finite, _finite(state.cache.logits)])
    return state


@jax.jit
def _finite(logits: Float[Array, "B V"]) -> Bool[Array, " B"]:
    return jnp.isfinite(logits).all(axis=-1)


def _require_finite(steps: Sequence[Bool[Array, " B"]], first: int = 0) -> None:
    """Refuse logits that are not finite, naming the first token and row.

    Args:
        steps: whether the logits of each row are finite, of successive tokens from `first` on.
    """
    for step, row in np.argwhere(~np.stack(jax.device_get(steps)))[:1].tolist():
        name = f"logits of row {row} for token {first + step + 1}"
        raise NonFiniteState(f"{name}: found NaN or infinity, accepted: finite numbers")


def _lengths(
    state: DecodeState, tokens: Int[np.ndarray, "B T"], lengths: Int[AnyArray, " B"] | None
) -> Int[np.ndarray, " B"]:
    """How many tokens of each row count; ValueError unless every row then has read something."""
    batch, longest = tokens.shape
    lengths = np.full((batch,), longest) if lengths is None else np.asarray(lengths)
    require(lengths.shape == (batch,), "lengths", lengths.shape, f"[{batch}]")
    fresh = np.asarray(state.memory.seen) + np.asarray(state.position) == 0
    for row, (length, is_fresh) in enumerate(zip(lengths.tolist(), fresh.tolist(), strict=True)):
        accepted = f"1 … {longest}, since it has read nothing yet" if is_fresh else f"0 … {longest}"
        require(int(is_fresh) <= length <= longest, f"lengths of row {row}", length, accepted)
    return lengths


def _checked_prompt(
    cfg: ModelConfig, tokens: np.ndarray, lengths: np.ndarray, types: Any, reply_types: Any
) -> _Prompt:
    """The prompt as arrays; ValueError unless its ids and types are the decoder's.

    Types must go with the prompt: of its shape, and none for replies where it has none.
    """
    counted = np.arange(tokens.shape[1]) < lengths[:, None]
    _require_ids(cfg, "prompt", tokens[counted])
    if types is None:
        require(reply_types is None, "reply_types", "some", "none for a prompt without types")
        return _Prompt(tokens, lengths)
    types = np.asarray(types)
    fits = types.shape == tokens.shape and np.issubdtype(types.dtype, np.integer)
    require(fits, "types", f"{types.dtype}{list(types.shape)}", f"ids {list(tokens.shape)}")
    _require_ids(cfg, "types", types[counted])
    if reply_types is not None:
        reply_types = np.asarray(reply_types)
        found = list(reply_types.shape)
        require(reply_types.shape == tokens.shape[:1], "reply_types", found, "[B]")
        _require_ids(cfg, "reply_types", reply_types)
    return _Prompt(tokens, lengths, types, reply_types)


def _require_ids(cfg: ModelConfig, name: str, ids: Int[np.ndarray, " *any"]) -> None:
    for extreme in (int(ids.min(initial=0)), int(ids.max(initial=0))):
        require(0 <= extreme < cfg.vocab_size, name, extreme, f"ids 0 … {cfg.vocab_size - 1}")


def _pieces(prompt: _Prompt, position: Int[np.ndarray, " B"], segment_len: int) -> Iterator[Piece]:
    """The prompt in pieces of `segment_len` columns, none of which crosses a segment's end."""
    done = np.zeros_like(prompt.lengths)
    place = np.arange(segment_len)[None]
    while (done < prompt.lengths).any():
        counts = np.minimum(segment_len - position, prompt.lengths - done)
        columns = np.minimum(done[:, None] + place, prompt.tokens.shape[1] - 1)
        cut = partial(_cut, columns=columns, counted=place < counts[:, None])
        types = None if prompt.types is None else cut(prompt.types)
        yield Piece(cut(prompt.tokens), counts.astype(np.int32), types)
        position, done = (position + counts) % segment_len, done + counts


def _cut(ids: np.ndarray, columns: np.ndarray, counted: np.ndarray) -> Int[np.ndarray, "B C"]:
    """The ids of each row's columns, 0 where they do not count."""
    return np.where(counted, np.take_along_axis(ids, columns, axis=1), 0).astype(np.int32)
