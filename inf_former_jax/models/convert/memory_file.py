"""The memory that was trained beside a published model, without the model: a small folder.

    memory_file.save(cfg, params, "mine/")                    # a trained memory, in bfloat16
    cfg, params = llama.load("smollm2/")
    cfg, params = memory_file.load("mine/", cfg, params)      # the same model with that memory

The folder has memory.safetensors, which holds the parameters of the memory by our own names, and
memory.json: the fields of `ModelConfig` that a memory and its window are made of, and a digest of
the parameters that it was trained beside. With other ones it is refused.
"""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from inf_former_jax.files import digest_of, json_text, read_json, writing
from inf_former_jax.models.config import MEMORY_PARAMETERS, ModelConfig
from inf_former_jax.models.convert.folder import DIGEST, read_tensors
from inf_former_jax.models.convert.graft import memory_params
from inf_former_jax.models.convert.options import check_ours, made, our_fields
from inf_former_jax.require import require, require_same, shapes

_TENSORS, _OPTIONS = "memory.safetensors", "memory.json"

#: What a memory and its window are made of; all else is the model's.
FIELDS = ("segment_len", "mem_len", "sinks", "long_term", "long_term_layers", "cell_distance")
FIELDS += ("cells_by_age", "compressed")


def save(cfg: ModelConfig, params: Mapping[str, Any], path: str | os.PathLike) -> int:
    """Write the memory's parameters, in bfloat16, and what they belong to.

    Args:
        params: of the whole model; a memory that is there in `path` is replaced.

    Returns:
        Bytes of the parameters that were written.

    Raises:
        ValueError: a model without a memory that has parameters.
    """
    from safetensors.numpy import save as to_bytes

    own, base = _parts(params)
    require(bool(own), "params", "no parameters of a memory", "a model with a trained memory")
    tensors = {name: np.asarray(leaf).astype(jnp.bfloat16) for name, leaf in own.items()}
    fields = dataclasses.asdict(cfg)
    told = {
        "inf_former": {name: fields[name] for name in FIELDS},
        "base": digest_of(base),
        "memory": digest_of(tensors),
    }
    folder = Path(path)
    raw = to_bytes(tensors, {DIGEST: told["memory"]})
    with writing(folder / _TENSORS) as weights, writing(folder / _OPTIONS) as options:
        weights.write(raw)
        options.write((json_text(told, 2) + "\n").encode())
    return len(raw)


def load(
    path: str | os.PathLike, cfg: ModelConfig, params: Mapping[str, Any]
) -> tuple[ModelConfig, dict]:
    """A published model (cfg, params) with the memory of a folder: what `save` was given.

    The memory's numbers are those of bfloat16, in float32.

    Raises:
        ValueError: a memory of another model, by its digest; a damaged file, or one of another
            memory; options that no model can have.
        FileNotFoundError: no such folder.
    """
    folder = Path(path)
    place, file = str(folder / _OPTIONS), folder / _TENSORS
    told = read_json(folder / _OPTIONS, "a memory's options")
    check_ours(told, place)
    for name in ("base", "memory"):
        require(isinstance(told.get(name), str), f"{place}: {name}", repr(told.get(name)), "a text")
    own, base = _parts(params)
    require(not own, "params", "a model with a memory", "one without")
    found, expected = digest_of(base), told["base"]
    accepted = f"the model {expected} that the memory was trained beside"
    require(found == expected, place, f"beside the model {found}", accepted)
    fields = our_fields(told, set(FIELDS), place)
    cfg = made(lambda **fields: dataclasses.replace(cfg, **fields), fields, place)
    tensors, written = read_tensors(file)
    accepted = f"{told['memory']}, as {_OPTIONS} says"
    require(written == told["memory"], str(file), f"the memory {written}", accepted)
    key, layers = jax.random.key(0), range(cfg.num_layers)
    fresh = {f"block_{j}": partial(memory_params, cfg, j, key) for j in layers}
    wanted = {name: jax.eval_shape(make) for name, make in fresh.items()}
    values = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in tensors.items()}
    given = unflatten_dict(values, sep="/")
    require_same(f"{file}: ", shapes(given), shapes(wanted))
    return cfg, {**params, **{name: {**params[name], **given[name]} for name in given}}


def _parts(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the leaves of a memory, those of the model), by their paths."""
    own, base = {}, {}
    for path, leaf in flatten_dict(dict(params)).items():
        part = own if len(path) > 1 and path[1] in MEMORY_PARAMETERS else base
        part["/".join(path)] = np.asarray(leaf)
    return own, base
