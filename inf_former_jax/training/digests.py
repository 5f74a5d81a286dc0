"""Digests of a checkpoint: of its arrays on their devices or on the host, and of its files.

The digest of an array is formed on the devices that hold it, each of which looks at its own part.
Where no device may be needed, as for a command that looks at a folder, the same number is formed by
threads on the host. The digests of files tell which file of a damaged checkpoint is damaged.
"""

import functools
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from inf_former_jax import files
from inf_former_jax.require import require

#: The file of a checkpoint that has the digests of its other files.
LIST = "files.json"

#: What orbax writes after the list is written.
_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")

#: Words of an array that a thread of the host looks at together: they fit its cache.
_WORDS = 1 << 18
_ODD = 2 * np.arange(_WORDS, dtype=np.uint32) + np.uint32(1)


def digest(tree: Any) -> dict[str, list]:
    """path → [dtype, shape, hash] of every leaf; small, and as JSON has it."""
    return digest_and_finite(tree)[0]


def digest_and_finite(tree: Any) -> tuple[dict[str, list], dict[str, bool]]:
    """`digest`, and path → whether the leaf is finite."""
    hashes, finite = map(jax.tree.leaves, jax.device_get(_hashes_and_finite(tree)))
    leaves = dtypes_and_shapes(tree)
    whole = zip(leaves.items(), hashes, strict=True)
    digest = {path: [*leaf, int(number)] for (path, leaf), number in whole}
    return digest, dict(zip(leaves, map(bool, finite), strict=True))


def dtypes_and_shapes(tree: Any) -> dict[str, list]:
    """path → [dtype, shape] of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [str(x.dtype), list(x.shape)] for path, x in leaves}


@jax.jit
def _hashes_and_finite(tree):
    return jax.tree.map(_hash_of_leaf, tree), jax.tree.map(_finite, tree)


def _finite(leaf) -> Bool[Array, ""]:
    inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jnp.isfinite(leaf).all() if inexact else jnp.array(True)


def _hash_of_leaf(leaf) -> UInt32[Array, ""]:
    """`Σ_i (2i + 1) w_i` over the leaf's 32-bit words, modulo 2³².

    Integer sums are exact in any order, so the hash is the same on every mesh. The factors are
    odd, so any one changed word changes it.
    """
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    flat = jax.lax.bitcast_convert_type(leaf, words).reshape(-1).astype(jnp.uint32)
    odd = 2 * jnp.arange(flat.size, dtype=jnp.uint32) + 1
    return (flat * odd).sum(dtype=jnp.uint32)


def differing_leaves(tree: Any, saved: Mapping[str, list]) -> list[str]:
    """What is wrong with arrays on the host, beside the digest that was saved of them.

    Threads of the host form the hashes; no device is needed and nothing is compiled.

    Args:
        tree: of NumPy arrays, in which a key is its data; named tuples may have become dicts.
        saved: of `digest`.

    Returns:
        "checksum of LEAF", "NaN or infinity in LEAF" and "no LEAF", by the names of `saved`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {words(jax.tree_util.keystr(path)): np.asarray(leaf) for path, leaf in leaves}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {path: _host_digest(array, pool) for path, array in arrays.items()}
    wrong = [f"no {name}" for name in saved if words(name) not in found]
    for name, (dtype, shape, expected) in saved.items():
        if words(name) not in found:
            continue
        array, (number, finite) = arrays[words(name)], found[words(name)]
        key = dtype.startswith("key<")
        same = key or [str(array.dtype), list(array.shape)] == [dtype, shape]
        if not same or number != expected:
            wrong.append(f"checksum of {name}")
        elif not finite:
            wrong.append(f"NaN or infinity in {name}")
    return wrong


def words(path: str) -> tuple[str, ...]:
    """The names in a path: the same of a field of a named tuple and of an entry of a dict."""
    return tuple(re.findall(r"\w+", path))


def _host_digest(array: np.ndarray, pool: ThreadPoolExecutor) -> tuple[int, bool]:
    """(hash, whether all is finite) of an array of the host; the hash of `_hash_of_leaf`."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view({1: np.uint8, 2: np.uint16}.get(flat.dtype.itemsize, np.uint32))
    finite = True
    if jnp.issubdtype(flat.dtype, jnp.inexact):
        parts = (flat[i : i + _WORDS] for i in range(0, flat.size, _WORDS))
        finite = all(pool.map(lambda part: bool(np.isfinite(part).all()), parts))
    starts = range(0, words.size, _WORDS)
    number = sum(pool.map(functools.partial(_hash_of_words, words), starts))
    return number % 2**32, finite


def _hash_of_words(words: np.ndarray, start: int) -> int:
    """`Σ_i (2i + 1) w_i` of the words from `start` on, as many as a thread takes together."""
    part = words[start : start + _WORDS].astype(np.uint32, copy=False)
    return int(np.dot(part, _ODD[: part.size])) + 2 * start * int(part.sum(dtype=np.uint64))


def with_checksum(name: str, content: Any) -> dict[str, Any]:
    """A value under its name, with a checksum by which `content_of` knows it; as JSON has it."""
    return {name: content, "checksum": zlib.crc32(files.json_text(content).encode())}


def content_of(name: str, fields: Any) -> Any:
    """The value that `with_checksum` was given, or None if it is another one now."""
    known = isinstance(fields, dict) and with_checksum(name, fields.get(name)) == fields
    return fields[name] if known else None


def write_list(folder: Path) -> None:
    """Write the list of a checkpoint's files, with the size and the SHA-256 of each."""
    found = {name: [path.stat().st_size, files.digest(path)] for name, path in _files_of(folder)}
    files.write_json(folder / LIST, with_checksum("files", found))


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name in the folder, path) of the files that the list has."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (*_LATER, LIST):
            yield path.relative_to(folder).as_posix(), path


def differing_files(folder: Path) -> list[str]:
    """`FILE: what is wrong` of a checkpoint's files, beside the list that was written with them.

    Threads read the files. A checkpoint of a version that wrote no list has nothing to compare.

    Raises:
        ValueError: the list is missing where there must be one, or damaged.
    """
    accepted = "the list that was written with the checkpoint"
    if not (folder / LIST).exists() and not (folder / "about").exists():
        return []  # of version 0.2
    listed = content_of("files", files.read_json(folder / LIST, accepted))
    require(bool(listed), str(folder / LIST), "another list than was written", accepted)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_differs, itertools.repeat(folder), listed, listed.values())
        return [f"{name}: {wrong}" for name, wrong in zip(listed, found, strict=True) if wrong]


def _differs(folder: Path, name: str, written: list) -> str:
    """What is wrong with a file; "" = nothing."""
    size, digest = written
    path = folder / name
    if not path.is_file():
        return "missing"
    if path.stat().st_size != size:
        return f"{path.stat().st_size:,} bytes, {size:,} were written"
    return "" if files.digest(path) == digest else "other bytes than were written"
