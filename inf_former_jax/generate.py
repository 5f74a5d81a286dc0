"""Text from a decoder that remembers: a prompt of any length streams in, tokens come out.

    state = generate.start(decoder, batch)
    _, state = generate.generate(decoder, params, state, document, 0, key)  # read it
    tokens, state = generate.generate(decoder, params, state, question, 100, key, top_p=0.9)

Each row fills its own segment token by token, on cached keys and values, and writes it to its own
memory when it is full: the logits are those of `Decoder` on whole segments. A state has read every
token that its rows were given or have said, and already knows the logits of the next; hence two
calls in a row, the second without a prompt, say what one would.
"""

import os
import zipfile
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from inf_former_jax import sampling
from inf_former_jax.memory import long_term
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.operators import require
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import cache as caches
from inf_former_jax.models.cache import Cache
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.models.decoder import operators as write_operators


class DecodeState(NamedTuple):
    """All that a conversation carries, of constant size; rows lead in every leaf."""

    memory: Memory  # the Decoder's own where position is 0; else its open segment's write is done
    cache: Cache  # the open segments, and the logits of the next token
    position: Int[AnyArray, " B"]  # tokens of the row's open segment, below segment_len


def start(decoder: Decoder, batch: int) -> DecodeState:
    """The state of `batch` rows that have read nothing."""
    cfg = decoder.cfg
    position = jnp.zeros((batch,), jnp.int32)
    return DecodeState(memories.init(cfg, batch), caches.init(cfg, batch), position)


def generate(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    prompt: Int[AnyArray, "B T"],
    num_tokens: int,
    key: PRNGKeyArray,
    *,
    lengths: Int[AnyArray, " B"] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[int] = (),
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
        temperature, top_p, top_k: see `sampling.sample`.
        stop: ids that end a row: it says and reads one of them, repeats it as padding up to
            num_tokens, and reads nothing more in this call.
        operators: `jax.device_put(operators(cfg))`; None makes them for this call.

    Raises:
        ValueError: before anything is computed, for arguments that do not fit the decoder.
    """
    steps = stream(
        decoder, params, state, prompt, num_tokens, key, lengths=lengths, temperature=temperature,
        top_p=top_p, top_k=top_k, stop=stop, operators=operators,
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
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[int] = (),
    operators: long_term.Operators | None = None,
) -> Generator[Int[Array, " B"], None, DecodeState]:
    """`generate`, whose arguments and errors these are, a step at a time: yields tokens [B].

    It ends early once all rows have met a stop token. The state is what the generator returns:
    `state = yield from stream(...)`, or the value of its StopIteration.
    """
    cfg = decoder.cfg
    accepted = memories.shapes(jax.eval_shape(lambda: start(decoder, np.shape(prompt)[0])))
    memories.require_same("state", memories.shapes(state), accepted)
    require(num_tokens >= 0, "num_tokens", num_tokens, "0 or more")
    sampling.check(cfg.vocab_size, temperature, top_p, top_k, stop)
    prompt, lengths = np.asarray(prompt), _lengths(state, prompt, lengths)
    real = prompt[np.arange(prompt.shape[1]) < lengths[:, None]]
    for token in (real.min(initial=0), real.max(initial=0)):
        require(0 <= token < cfg.vocab_size, "prompt", token, f"ids 0 … {cfg.vocab_size - 1}")
    if operators is None:
        operators = jax.device_put(write_operators(cfg))
    choose = partial(
        _say, stop=tuple(map(int, stop)), temperature=temperature, top_p=top_p, top_k=top_k
    )
    return _steps(decoder, params, state, prompt, lengths, num_tokens, key, choose, operators)


def _lengths(state, prompt, lengths):
    batch, longest = prompt.shape
    if lengths is None:
        lengths = np.full((batch,), longest)
    lengths = np.asarray(lengths)
    require(lengths.shape == (batch,), "lengths", lengths.shape, f"[{batch}]")
    fresh = np.asarray(state.memory.seen) + np.asarray(state.position) == 0
    for row, (length, least) in enumerate(zip(lengths, fresh.astype(int), strict=True)):
        accepted = f"{least} … {longest}" + (", since it has read nothing yet" if least else "")
        require(least <= length <= longest, f"lengths of row {row}", length, accepted)
    return lengths


def _steps(decoder, params, state, prompt, lengths, num_tokens, key, choose, operators):
    samples, writes = jax.random.split(key)
    constants = (operators, _distances(decoder, params))
    state = jax.tree.map(jnp.array, state)  # the caller's stays theirs, while ours are donated
    reads = 0
    for tokens, counts in _pieces(prompt, lengths, state.position, decoder.cfg.segment_len):
        state = _extend(decoder, params, state, tokens, counts, constants, writes, reads)
        reads += 1
    token = jnp.zeros(len(lengths), jnp.int32)
    ended = jnp.zeros(len(lengths), bool)
    for step in range(num_tokens):
        going = ~ended
        token, ended = choose(state.cache.logits, samples, step, token, ended)
        counts = going.astype(jnp.int32)
        state = _extend(decoder, params, state, token[:, None], counts, constants, writes, reads)
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


@partial(jax.jit, static_argnums=0)
def _distances(decoder, params):
    return decoder.apply({"params": params}, method="distances")


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extend(decoder, params, state, tokens, counts, constants, key, number):
    """The state after counts[b] more tokens, which must fit into each row's segment."""
    (memory, cache, position), (operators, distances) = state, constants
    rngs = {"locations": jax.random.fold_in(key, number)}
    apply = partial(decoder.apply, {"params": params})
    opening = (position == 0) & (counts > 0)
    memory, cache = jax.lax.cond(
        opening.any(),
        lambda *old: apply(*old, opening, operators=operators, rngs=rngs, method="open"),
        lambda *old: old,
        *(memory, cache),
    )
    cache = apply(tokens, counts, position, memory, cache, distances, method="extend")
    position = position + counts
    full = position == decoder.cfg.segment_len
    memory = jax.lax.cond(
        full.any(),
        lambda old: caches.commit(decoder.cfg, old, cache, full),
        lambda old: old,
        memory,
    )
    return DecodeState(memory, cache, jnp.where(full, 0, position))


@partial(jax.jit, static_argnames=("stop", "temperature", "top_p", "top_k"))
def _say(logits, key, step, before, ended, *, stop, temperature, top_p, top_k):
    key = jax.random.fold_in(key, step)
    sampled = sampling.sample(logits, key, temperature=temperature, top_p=top_p, top_k=top_k)
    token = jnp.where(ended, before, sampled)
    return token, ended | jnp.isin(token, jnp.array(stop, jnp.int32))


def save_state(path: str | os.PathLike, state: DecodeState) -> None:
    """Write a state as one NumPy .npz file of its leaves by path; the weights are not in it."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    part = f"{os.fspath(path)}.part"
    with open(part, "wb") as file:
        np.savez(file, **{jax.tree_util.keystr(name): leaf for name, leaf in leaves})
    os.replace(part, path)


def load_state(path: str | os.PathLike, decoder: Decoder, batch: int) -> DecodeState:
    """The state that `save_state` wrote, to go on with.

    Raises:
        ValueError: the file is damaged, or holds a state of another architecture or batch: the
            first leaf that differs is named.
        FileNotFoundError: no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{path}: found {error}, accepted: a file of save_state") from error
    target = jax.eval_shape(lambda: start(decoder, batch))
    leaves, tree = jax.tree_util.tree_flatten_with_path(target)
    expected = {jax.tree_util.keystr(name): leaf for name, leaf in leaves}
    described = ({k: f"{v.dtype}{list(v.shape)}" for k, v in d.items()} for d in (found, expected))
    memories.require_same("state", *described)
    return jax.tree.unflatten(tree, [jnp.asarray(found[name]) for name in expected])
