"""GPT-2's published parameters as ours, a memory grafted onto them, and back (SPEC §6).

    cfg, params = gpt2.load("gpt2/")                     # a Hugging Face folder
    cfg = dataclasses.replace(cfg, segment_len=512, long_term=presets.gpt2_infinity().long_term)
    params = gpt2.graft(cfg, params, jax.random.key(0))  # same outputs, until it has learned
    gpt2.save(cfg, params, "mine/")                      # GPT-2 to all tools, the memory beside it

Files are safetensors and JSON, never a pickle.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert import gpt2_files, gpt2_options
from inf_former_jax.models.convert.gpt2_layout import (
    is_tied,
    memory_params,
    own,
    pack,
    sizes,
    unpack,
)
from inf_former_jax.require import require


def load(
    path_or_tensors: str | os.PathLike | Mapping[str, Any], *, num_heads: int | None = None
) -> tuple[ModelConfig, dict]:
    """A GPT-2 as (configuration, parameters of `Decoder`), and its memory if `save` wrote one.

    A plain one comes with segments as long as its table of positions and without any memory.
    Half-precision tensors become float32; others keep their dtype, and their numbers must be finite
    in the one that JAX computes in (float32 for float64, unless x64 is on). embd_pdrop is
    taken to be resid_pdrop.

    Args:
        path_or_tensors: a folder with model.safetensors (or its index) and config.json, the file
            in it, or arrays by their names in it, with or without the prefix `transformer.`; the
            buffers `attn.bias` and `attn.masked_bias` are ignored.
        num_heads: H, overriding the config.json, which may then be absent; of arrays, None means
            heads of 64 channels, as in every published size. Without config.json, the activation
            is GPT-2's, and the output matrix is its own if `lm_head.weight` is not `wte.weight`.

    Raises:
        ValueError: tensors or options that are not GPT-2's, a missing tensor or config.json, a
            pickle, a damaged file: in one line, where, what was found, what is accepted.
        FileNotFoundError: no such file or folder.
    """
    if isinstance(path_or_tensors, Mapping):
        options, tensors, where, config = {}, path_or_tensors, "tensors", "tensors"
    else:
        path = Path(path_or_tensors)
        tensors, options, where, config = gpt2_files.read_folder(path, num_heads is None)
    tensors = own(tensors)
    told, tied = sizes(tensors, where), is_tied(tensors)
    tied = options.get("tie_word_embeddings", tied)
    if tied and "lm_head.weight" in tensors:
        found, accepted = "another matrix than wte.weight", "the same, or tie_word_embeddings false"
        require(is_tied(tensors), f"{where}: lm_head.weight", found, accepted)
        del tensors["lm_head.weight"]
    published = max(told["d_model"] // 64, 1)
    heads = options.get("n_head", published) if num_heads is None else num_heads
    cfg = gpt2_options.configuration(told, heads, tied, options, where, config)
    return cfg, unpack(cfg, tensors, where)


def graft(cfg: ModelConfig, params: Mapping[str, Any], key: PRNGKeyArray) -> dict:
    """Plain GPT-2 parameters with fresh ones of the memory that cfg has; the given are kept.

    The long-term memory's W_O is zero, so that outputs are unchanged at first; W_O learns at once,
    the other new parameters as soon as it is not zero. A compressed memory is attended to from its
    first vector on; so is a long-term memory without a W_O, whose cells are joined to local
    attention or which is read by the layer's own matrices.

    Args:
        cfg: a gpt2_infinity… or gpt2_compressive configuration.

    Raises:
        ValueError: cfg has no memory to add, or params lack one of its layers.
    """
    some = cfg.long_term is not None or cfg.compressed is not None
    require(some, "cfg", "no memory", "a long_term or compressed one")
    make, grafted = jax.jit(partial(memory_params, cfg)), dict(params)
    for j in range(cfg.num_layers):
        name = f"block_{j}"
        require(name in params, f"params/{name}", "nothing", f"one of {cfg.num_layers} layers")
        grafted[name] = {**params[name], **make(jax.random.fold_in(key, j))}
    return grafted


def grow(params: Mapping[str, Any], vocab_size: int, key: PRNGKeyArray) -> dict:
    """Parameters with embeddings for further ids: normal around the mean, σ .02 (GPT-2's own).

    So is an output matrix that is not the embeddings. The logits of the ids that were there stay
    what they were.

    Raises:
        ValueError: params know more ids already.
    """
    known = params["embed"]["embedding"]
    fewer = f"at least the {known.shape[0]} that there are"
    require(vocab_size >= known.shape[0], "vocab_size", vocab_size, fewer)

    def grown(rows, key):
        shape = (vocab_size - rows.shape[0], rows.shape[1])
        fresh = rows.mean(axis=0)[None] + 0.02 * jax.random.normal(key, shape, rows.dtype)
        return jnp.concatenate([rows, fresh])

    more = {**params, "embed": {"embedding": grown(known, key)}}
    if "logits" in params:
        head = grown(params["logits"]["kernel"].T, jax.random.fold_in(key, 1)).T
        more["logits"] = {"kernel": head}
    return more


def save(
    cfg: ModelConfig,
    params: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    eos: int | None = None,
    bos: int | None = None,
) -> None:
    """Write a folder that `load` reads again to the bit, and plain GPT-2 tools read without memory.

    A model that is there is replaced, with its shards and its generation_config.json.

    Args:
        tokenizer: a folder or tokenizer.json whose files are written, too, in the place of all of
            a tokeniser that are there. None leaves them, if they are for as many ids.
        eos, bos: ids of the tokens at the end and the beginning of a text, for config.json.

    Raises:
        ValueError: cfg is no GPT-2, params are not its parameters, an id is not one of its own,
            tokenizer names none, or the folder cannot be made or written to.
    """
    for name, token in {"eos": eos, "bos": bos}.items():
        fits = token is None or (type(token) is int and 0 <= token < cfg.vocab_size)
        require(fits, name, repr(token), f"an id 0 … {cfg.vocab_size - 1}")
    tokens = {"eos_token_id": eos, "bos_token_id": bos}
    given = {name: token for name, token in tokens.items() if token is not None}
    options = gpt2_options.options_of(cfg, **given)
    gpt2_files.write_folder(Path(path), pack(cfg, params), options, tokenizer)
