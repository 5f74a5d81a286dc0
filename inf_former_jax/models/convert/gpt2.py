"""GPT-2's published parameters as ours, a memory grafted onto them, and back (SPEC §6).

    cfg, params = gpt2.load("gpt2/")                     # a Hugging Face folder
    cfg = dataclasses.replace(cfg, segment_len=512, long_term=presets.gpt2_infinity().long_term)
    params = gpt2.graft(cfg, params, jax.random.key(0))  # same outputs, until it has learned
    gpt2.save(cfg, params, "mine/")                      # GPT-2 to all tools, the memory beside it

Files are safetensors and JSON, never a pickle.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.gpt2_layout import (
    Tensors,
    memory_params,
    own,
    pack,
    sizes,
    unpack,
)
from inf_former_jax.require import require

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: In config.json, what GPT-2 has no option for.
_OURS = "inf_former"

#: Fields of `ModelConfig` that every GPT-2 shares, and fields that its own files tell.
_SHARED = {"norm", "final_norm", "position", "activation", "attention_bias", "tied"}
_SHARED |= {"scale_embedding"}
_TOLD = {"vocab_size", "num_layers", "num_heads", "head_dim", "d_model", "d_inner"}
_TOLD |= {"max_position", "dropout", "attention_dropout"}

#: Options of GPT-2's config.json that change what is computed, and the values that we compute.
_ACCEPTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}

#: Sizes that both config.json and the tensors say.
_SIZES = {
    "n_layer": "num_layers",
    "n_embd": "d_model",
    "n_positions": "max_position",
    "vocab_size": "vocab_size",
}


def load(
    path_or_tensors: str | os.PathLike | Mapping[str, Any], *, num_heads: int | None = None
) -> tuple[ModelConfig, dict]:
    """A GPT-2 as (configuration, parameters of `Decoder`), and its memory if `save` wrote one.

    A plain one comes with segments as long as its table of positions and without any memory.
    Half-precision tensors become float32; embd_pdrop is taken to be resid_pdrop.

    Args:
        path_or_tensors: a folder with model.safetensors (or its index) and config.json, the file
            in it, or arrays by their names in it, with or without the prefix `transformer.`;
            `lm_head.weight` and the buffers `attn.bias` and `attn.masked_bias` are ignored.
        num_heads: H, overriding the config.json, which may then be absent; of arrays, None means
            heads of 64 channels, as in every published size.

    Raises:
        ValueError: tensors or options that are not GPT-2's, a missing tensor or config.json, a
            pickle, a damaged file: in one line, where, what was found, what is accepted.
        FileNotFoundError: no such file or folder.
    """
    options, heads = {}, num_heads
    if isinstance(path_or_tensors, Mapping):
        tensors, where = own(path_or_tensors), "tensors"
    else:
        files = _weight_files(Path(path_or_tensors))
        options, where = _read_options(files[0].parent / _CONFIG, num_heads is None), str(files[0])
        tensors = own({name: t for file in files for name, t in _read_tensors(file).items()})
        heads = options.get("n_head", 12) if heads is None else heads
    told = sizes(tensors, where)
    width = told["d_model"]
    heads = max(width // 64, 1) if heads is None else heads
    fits = isinstance(heads, int) and heads > 0 and width % heads == 0
    require(fits, "num_heads", heads, f"a divisor of the width {width}")
    cfg = _configuration(told, heads, options, where)
    return cfg, unpack(cfg, tensors, where)


def graft(cfg: ModelConfig, params: Mapping[str, Any], key: PRNGKeyArray) -> dict:
    """Plain GPT-2 parameters with fresh ones of the memory that cfg has; the given are kept.

    The long-term memory's W_O is zero, so that outputs are unchanged at first; W_O learns at once,
    the other new parameters as soon as it is not zero. A compressed memory is attended to from its
    first vector on.

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

    The head is tied to them: the logits of the ids that were there stay what they were.

    Raises:
        ValueError: params know more ids already.
    """
    known = params["embed"]["embedding"]
    fewer = f"at least the {known.shape[0]} that there are"
    require(vocab_size >= known.shape[0], "vocab_size", vocab_size, fewer)
    shape = (vocab_size - known.shape[0], known.shape[1])
    fresh = known.mean(axis=0)[None] + 0.02 * jax.random.normal(key, shape, known.dtype)
    return {**params, "embed": {"embedding": jnp.concatenate([known, fresh])}}


def save(cfg: ModelConfig, params: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a folder that `load` reads again to the bit, and plain GPT-2 tools read without memory.

    Raises:
        ValueError: cfg is no GPT-2, or params are not its parameters.
    """
    from safetensors.numpy import save_file

    plain = presets.gpt2()
    for name in sorted(_SHARED):
        value, accepted = getattr(cfg, name), f"{getattr(plain, name)} in a GPT-2"
        require(value == getattr(plain, name), name, value, accepted)
    width = f"num_heads · head_dim = {cfg.num_heads * cfg.head_dim} in a GPT-2"
    require(cfg.d_model == cfg.num_heads * cfg.head_dim, "d_model", cfg.d_model, width)
    tensors, folder = pack(cfg, params), Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a save that is stopped leaves the old file whole.
    save_file(tensors, folder / f"{_WEIGHTS}.part", metadata={"format": "pt"})
    os.replace(folder / f"{_WEIGHTS}.part", folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(_options(cfg), indent=2) + "\n", encoding="utf-8")


def _options(cfg: ModelConfig) -> dict[str, Any]:
    """config.json: GPT-2's own options, and ours beside them."""
    fields = dataclasses.asdict(cfg).items()
    ours = {name: value for name, value in fields if name not in _SHARED | _TOLD}
    return {name: values[0] for name, values in _ACCEPTED.items()} | {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.max_position,
        "n_embd": cfg.d_model,
        "n_layer": cfg.num_layers,
        "n_head": cfg.num_heads,
        "n_inner": cfg.d_inner,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attn_pdrop": cfg.attention_dropout,
        _OURS: ours,
    }


def _configuration(
    told: dict[str, int], num_heads: int, options: dict[str, Any], where: str
) -> ModelConfig:
    """The configuration of tensors with these sizes and of these options."""
    for name, accepted in _ACCEPTED.items():
        value = options.get(name, accepted[0])
        require(value in accepted, f"{where}: {_CONFIG}: {name}", value, accepted[0])
    for name, size in _SIZES.items():
        found = f"{told[size]} in the tensors"
        agree = options.get(name, told[size]) == told[size]
        require(agree, f"{where}: {name}", found, f"{options.get(name)} as {_CONFIG} says")
    changes: dict[str, Any] = {
        **told,
        "num_heads": num_heads,
        "head_dim": told["d_model"] // num_heads,
        "segment_len": told["max_position"],
        "dropout": options.get("resid_pdrop", 0.1),
        "attention_dropout": options.get("attn_pdrop", 0.1),
    }
    kinds: dict[str, Any] = {"long_term": LongTermConfig, "compressed": CompressedConfig}
    try:
        for name, value in options.get(_OURS, {}).items():
            if name in kinds and value is not None:
                value = kinds[name](**{k: _hashable(v) for k, v in value.items()})
            changes[name] = value
        return presets.gpt2(**changes)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {_CONFIG}: {error}") from error


def _hashable(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


def _weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, or the one that is named."""
    require(path.suffix not in _PICKLES, str(path), "a pickle", _CONVERT)
    if path.is_dir():
        if (path / _INDEX).is_file():
            index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
            names = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(names, dict):
                raise ValueError(f"{path / _INDEX}: found no weight_map, accepted: GPT-2's index")
            return [path / Path(name).name for name in sorted(set(names.values()))]
        pickled = [file for file in sorted(path.iterdir()) if file.suffix in _PICKLES]
        if pickled and not (path / _WEIGHTS).is_file():
            require(False, str(pickled[0]), "a pickle", _CONVERT)
        path = path / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found nothing, accepted: a safetensors file")
    return [path]


_CONVERT = f"{_WEIGHTS}, as `save_pretrained` of transformers writes it (a pickle can run code)"


def _read_options(path: Path, needed: bool) -> dict[str, Any]:
    if not path.is_file():
        require(not needed, str(path), "nothing", "one beside the weights, or num_heads")
        return {}
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error}), accepted: GPT-2's") from error
    require(isinstance(options, dict), str(path), type(options).__name__, "GPT-2's options")
    require("model_type" in options, f"{path}: model_type", "nothing", "gpt2")
    return options


def _read_tensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: found {error}, accepted: a whole safetensors file") from error
