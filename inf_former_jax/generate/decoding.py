"""What decoding carries from token to token, how one more is read, and the state as a file."""

import os
import zipfile
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from inf_former_jax.memory import long_term
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import open_segment as caches
from inf_former_jax.models.decoder import Decoder, Distances
from inf_former_jax.models.open_segment import Cache
from inf_former_jax.require import require_same


class DecodeState(NamedTuple):
    """All that a conversation carries, of constant size; rows lead in every leaf."""

    memory: Memory  # the Decoder's own where position is 0; else its open segment's write is done
    cache: Cache  # the open segments, and the logits of the next token
    position: Int[AnyArray, " B"]  # tokens of the row's open segment, below segment_len


def start(decoder: Decoder, batch: int, dtype=jnp.float32) -> DecodeState:
    """The state of `batch` rows that have read nothing.

    Args:
        dtype: of memory and cache; float64 for parameters of float64.
    """
    cfg, position = decoder.cfg, jnp.zeros((batch,), jnp.int32)
    return DecodeState(memories.init(cfg, batch, dtype), caches.init(cfg, batch, dtype), position)


@partial(jax.jit, static_argnums=0)
def distances(decoder: Decoder, params: Any) -> Distances:
    """What `extend` needs of the parameters alone, made once a call: `Decoder.distances`."""
    return decoder.apply({"params": params}, method="distances")


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def extend(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    tokens: Int[Array, "B C"],
    counts: Int[Array, " B"],
    constants: tuple[long_term.Operators | None, Any],
    key: PRNGKeyArray,
    number: Int[Array, ""] | int,
    types: Int[Array, "B C"] | None = None,
) -> DecodeState:
    """The state after counts[b] more tokens, which must fit into each row's open segment.

    Compiled once for each C; the given state is donated.

    Args:
        tokens: right-padded; counts[b] ≤ min(C, segment_len - position[b]) of them count.
        constants: (operators, distances(decoder, params)).
        key, number: of the calls, and of this one, for locations that are drawn.
        types: of the tokens, see `Decoder`.
    """
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
    cache = apply(tokens, counts, position, memory, cache, distances, types, method="extend")
    position = position + counts
    full = position == decoder.cfg.segment_len
    memory = jax.lax.cond(
        full.any(),
        lambda old: caches.commit(decoder.cfg, old, cache, full),
        lambda old: old,
        memory,
    )
    return DecodeState(memory, cache, jnp.where(full, 0, position))


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
    except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: found {error}, accepted: a file of save_state") from error
    target = jax.eval_shape(lambda: start(decoder, batch))
    leaves, tree = jax.tree_util.tree_flatten_with_path(target)
    expected = {jax.tree_util.keystr(name): leaf for name, leaf in leaves}
    described = ({k: f"{v.dtype}{list(v.shape)}" for k, v in d.items()} for d in (found, expected))
    require_same("state", *described)
    return jax.tree.unflatten(tree, [jnp.asarray(found[name]) for name in expected])
