"""A folder of a model's files, as Hugging Face has them: safetensors and JSON, never a pickle."""

import contextlib
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inf_former_jax.files import digest_of, json_text, read_bytes, read_json, reading, writing
from inf_former_jax.models.convert.options import OURS, WEIGHTS
from inf_former_jax.require import require

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = f"{_WEIGHTS}, as `save_pretrained` of transformers writes it (a pickle can run code)"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

#: Files that tell how text becomes ids.
_TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
_TOKENIZER |= {"special_tokens_map.json", "added_tokens.json"}

#: Options of a config.json as found, and its place → the same by one name each, checked.
Canonical = Callable[[Mapping[str, Any], str], dict[str, Any]]

#: In the header of the weights, a hash of what follows it.
DIGEST = "digest"


def read(
    path: Path, canonical: Canonical, instead: str | None = "one beside the weights"
) -> tuple[dict[str, Any], dict[str, Any], str, str]:
    """(tensors by their names, options by one name each, where the tensors and the options are).

    Args:
        path: a folder, or the safetensors file in it.
        instead: what is accepted where config.json is not there; None = its absence.

    Raises:
        ValueError, FileNotFoundError: as `gpt2.load`.
    """
    require(path.suffix not in _PICKLES, str(path), "a pickle", _CONVERT)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        path, index = folder / _WEIGHTS, folder / _INDEX
        if index.is_file() and not path.is_file():
            tensors, options = _read_shards(index), _options(folder / _CONFIG, canonical, instead)
            return tensors, options, str(index), str(folder / _CONFIG)
        pickled = next((f for f in sorted(folder.iterdir()) if f.suffix in _PICKLES), None)
        require(path.is_file() or pickled is None, str(pickled), "a pickle", _CONVERT)
    tensors, digest = read_tensors(path)
    options = _options(folder / _CONFIG, canonical, instead)
    told = options.get(OURS, {}).get(WEIGHTS, digest)
    place = f"{folder / _CONFIG}: {OURS}: {WEIGHTS}"
    require(digest in (None, told), place, f"{told}, another save's", f"{digest}, of {path.name}")
    return tensors, options, str(path), str(folder / _CONFIG)


def _options(path: Path, canonical: Canonical, instead: str | None) -> dict[str, Any]:
    if not path.exists():
        require(instead is None, str(path), "nothing", instead or "")
        return {}
    return canonical(read_json(path, "a model's options"), str(path))


def _read_shards(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    files = read_json(index, "an index of weights").get("weight_map")
    if not isinstance(files, dict) or not files or not all(map(_is_file_name, files.values())):
        found, accepted = reprlib.repr(files), "an object of names of files by those of tensors"
        raise ValueError(f"{index}: weight_map: found {found}, accepted: {accepted}")
    tensors: dict[str, Any] = {}
    for file in sorted({*files.values()}):
        found, _ = read_tensors(index.parent / file)
        expected = {name for name, place in files.items() if place == file}
        for name in sorted(expected ^ found.keys()):
            there = "a tensor" if name in found else "no such tensor"
            accepted = f"those of {index.name}"
            require(False, f"{index.parent / file}: {name}", there, accepted)
        tensors |= found
    return tensors


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def read_tensors(path: Path) -> tuple[dict[str, Any], str | None]:
    """The tensors of a file, and their digest if the file has one.

    Raises:
        ValueError: no safetensors file, a damaged one, or other bytes than its digest is of.
        FileNotFoundError: no such file.
    """
    from safetensors import safe_open

    accepted = "a whole safetensors file"
    with reading(path, accepted), open(path, "rb"):
        pass
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get(DIGEST)
    except Exception as error:  # its own, the system's, and of dtypes that NumPy does not know
        found = " ".join(str(error).split())
        raise ValueError(f"{path}: found {found}, accepted: {accepted}") from None
    whole = told is None or told == digest_of(tensors)
    require(whole, str(path), "bytes other than those that were written", accepted)
    return tensors, told


def write(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    options: dict[str, Any],
    tokenizer: str | os.PathLike | None,
) -> None:
    """Write weights, options and the tokeniser's files in the place of any model that is there.

    All are written beside the old ones first, so that an error leaves these as they were.

    Raises:
        ValueError: no tokeniser where one is named; or none is named, and the folder has one for
            another number of ids.
    """
    from safetensors.numpy import save

    content = {} if tokenizer is None else _tokenizer_files(Path(tokenizer))
    if tokenizer is None:
        _check_kept_tokenizer(folder, options["vocab_size"])
    digest = digest_of(tensors)
    options = {**options, OURS: {**options[OURS], WEIGHTS: digest}}
    old = _shards(folder) | {"generation_config.json"}
    if tokenizer is not None:
        old |= _TOKENIZER - content.keys()
    # The last to take their places are config.json and, before it, the weights.
    whole = {_CONFIG: (json_text(options, 2) + "\n").encode()}
    whole |= {_WEIGHTS: save(dict(tensors), {"format": "pt", DIGEST: digest}), **content}
    with contextlib.ExitStack() as stack:
        for name, raw in whole.items():
            stack.enter_context(writing(folder / name)).write(raw)
    for name in old - whole.keys():
        (folder / name).unlink(missing_ok=True)


def _shards(folder: Path) -> set[str]:
    """An old index and the files of weights that it names, which the one new file replaces."""
    index = folder / _INDEX
    if not index.is_file():
        return set()
    named: Any = None
    with contextlib.suppress(ValueError):  # a damaged index names none
        named = read_json(index).get("weight_map")
    files = list(named.values()) if isinstance(named, dict) else []
    there = {file.name for file in folder.glob("*.safetensors")}
    shards = {name for name in there if name in files or _SHARD.fullmatch(name)}
    return {_INDEX, *shards}


def _tokenizer_files(path: Path) -> dict[str, bytes]:
    """name → bytes of the files of a tokeniser: a folder's, or a tokenizer.json alone."""
    if not path.is_dir():
        return {"tokenizer.json": read_bytes(path, "a tokenizer.json, or a folder with one")}
    files = {name: path / name for name in sorted(_TOKENIZER) if (path / name).is_file()}
    whole = "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files.keys()
    accepted = "tokenizer.json, or vocab.json and merges.txt, in it"
    require(whole, f"tokenizer: {path}", "no tokeniser", accepted)
    return {name: read_bytes(file) for name, file in files.items()}


def _check_kept_tokenizer(folder: Path, vocab_size: int) -> None:
    """Refuse a folder whose tokeniser, which nobody replaces, belongs to another vocabulary."""
    kept = [name for name in sorted(_TOKENIZER) if (folder / name).is_file()]
    if kept and (folder / _CONFIG).is_file():
        there = read_json(folder / _CONFIG).get("vocab_size")
        found = f"the tokeniser of a model of {there} ids"
        accepted = f"tokenizer=…, or another folder, for a model of {vocab_size}"
        require(there == vocab_size, str(folder / kept[0]), found, accepted)
