"""A published model of any kind that is loaded here, from its Hugging Face folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inf_former_jax.files import read_json
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert import gpt2, llama
from inf_former_jax.require import require

#: model_type in config.json → what loads such a folder.
_LOADERS: dict[str, Callable[[str | os.PathLike], tuple[ModelConfig, dict]]] = {
    "gpt2": gpt2.load,
    "llama": llama.load,
    "mistral": llama.load,
}


def load(path: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """A GPT-2, by `gpt2.load`, or a Llama, by `llama.load`, as its config.json says.

    Without a config.json it is `gpt2.load` that says what is missing.

    Args:
        path: a folder with model.safetensors (or its index) and config.json, or the file in it.

    Raises:
        ValueError: another `model_type`, or as the two do.
        FileNotFoundError: no such file or folder.
    """
    path = Path(path)
    config = (path if path.is_dir() else path.parent) / "config.json"
    kind: Any = "gpt2"
    if config.exists():
        kind = read_json(config, "a model's options").get("model_type", "nothing")
    *most, last = _LOADERS
    accepted = f"{', '.join(most)} or {last}"
    known = isinstance(kind, str) and kind in _LOADERS
    require(known, f"{config}: model_type", repr(kind), accepted)
    return _LOADERS[kind](path)
