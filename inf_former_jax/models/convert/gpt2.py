"""GPT-2's published parameters as ours, a memory grafted onto them, and back (SPEC §6).

    cfg, params = gpt2.load("gpt2/")                     # a Hugging Face folder
    cfg = dataclasses.replace(cfg, segment_len=512, long_term=presets.gpt2_infinity().long_term)
    params = gpt2.graft(cfg, params, jax.random.key(0))  # same outputs, until it has learned
    gpt2.save(cfg, params, "mine/")                      # GPT-2 to all tools, the memory beside it

Files are safetensors and JSON, never a pickle.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert import folder, gpt2_options, options, places
from inf_former_jax.models.convert.gpt2_layout import EMBEDDING, LAYER, TOLD_BY, layout, own
from inf_former_jax.models.convert.graft import graft as graft
from inf_former_jax.models.convert.graft import grow as grow


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
        said, tensors, where, config = {}, path_or_tensors, "tensors", "tensors"
    else:
        instead = "one beside the weights, or num_heads" if num_heads is None else None
        tensors, said, where, config = folder.read(
            Path(path_or_tensors), gpt2_options.canonical, instead
        )
    tensors = own(tensors)
    told = places.sizes(tensors, where, TOLD_BY, LAYER)
    tied = said.get("tie_word_embeddings", places.is_tied(tensors, EMBEDDING))
    if tied:
        tensors = places.without_tied_head(tensors, EMBEDDING, where)
    published = max(told["d_model"] // 64, 1)
    heads = said.get("n_head", published) if num_heads is None else num_heads
    cfg = gpt2_options.configuration(told, heads, tied, said, where, config)
    return cfg, places.unpack(layout(cfg), tensors, where)


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
    said = gpt2_options.options_of(cfg, **options.token_ids(cfg.vocab_size, eos=eos, bos=bos))
    folder.write(Path(path), places.pack(layout(cfg), params), said, tokenizer)
