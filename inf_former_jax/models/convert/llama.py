"""A published Llama's parameters as ours, a memory grafted onto them, and back.

    cfg, params = llama.load("SmolLM2-135M/")             # a Hugging Face folder
    cfg = dataclasses.replace(cfg, segment_len=512, long_term=presets.TRAINING_FREE)
    params = llama.graft(cfg, params, jax.random.key(0))
    llama.save(cfg, params, "mine/")                      # a Llama to all tools, and the memory

Models of the class LlamaForCausalLM (Llama 1 and 2, TinyLlama, SmolLM2), and Mistrals without a
sliding window. Llama 3.1 and later ones scale their rotary positions, and are refused. Files are
safetensors and JSON, never a pickle.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert import folder, llama_options, options, places
from inf_former_jax.models.convert.graft import graft as graft
from inf_former_jax.models.convert.graft import grow as grow
from inf_former_jax.models.convert.llama_layout import EMBEDDING, LAYER, TOLD_BY, layout, own


def load(path: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """A Llama as (configuration, parameters of `Decoder`), and its memory if `save` wrote one.

    A plain one comes with segments as long as the texts that it was trained on, without any memory
    and without dropout but that of attention. bfloat16 and float16 become float32; other tensors
    keep their dtype, and their numbers must be finite in the one that JAX computes in.

    Args:
        path: a folder with model.safetensors (or its index) and config.json, or the file in it.
            Names of tensors may lack the prefix `model.`.

    Raises:
        ValueError: tensors or options that are not a Llama's or that we do not compute, a missing
            tensor or config.json, a pickle, a damaged file: in one line, where, what was found,
            what is accepted.
        FileNotFoundError: no such file or folder.
    """
    tensors, said, where, config = folder.read(Path(path), llama_options.canonical)
    tensors = own(tensors)
    told = places.sizes(tensors, where, TOLD_BY, LAYER)
    if said["tie_word_embeddings"]:
        tensors = places.without_tied_head(tensors, EMBEDDING, where)
    cfg = llama_options.configuration(told, said, where, config)
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
    """Write a folder that `load` reads again to the bit, and plain Llama tools read without memory.

    It is written as `gpt2.save` writes one: a model that is there is replaced.

    Args:
        tokenizer, eos, bos: as of `gpt2.save`.

    Raises:
        ValueError: cfg is no Llama, and else as of `gpt2.save`.
    """
    said = llama_options.options_of(cfg, **options.token_ids(cfg.vocab_size, eos=eos, bos=bos))
    folder.write(Path(path), places.pack(layout(cfg), params), said, tokenizer)
