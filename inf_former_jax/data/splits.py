"""The tokens of a split: documents one after the other, each with its end, kept on disk.

A cache entry is a folder `{split}-{hash}`. The hash covers the text files, their names and the
tokeniser, so that after a change of any of them no entry is found. An entry is written under
another name and renamed when it is complete.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from inf_former_jax.data import text
from inf_former_jax.data.batches import check_tokens
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.require import require

_VERSION = 1  # of readers and entries: a new number makes every entry stale


class TokenizedSplit(NamedTuple):
    """Document i is tokens[starts[i] : starts[i + 1]]; its last token is the end."""

    tokens: Integer[np.ndarray, " total"]  # uint16 or uint32; mapped from disk if cached
    starts: Int64[np.ndarray, " documents+1"]
    names: tuple[str, ...]
    words: Int64[np.ndarray, " documents"]  # separated by white space
    bytes: Int64[np.ndarray, " documents"]  # of UTF-8


def tokenize(
    path: str | Path,
    split: str | None,
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    characters: int = 0,
) -> TokenizedSplit:
    """The documents of a split (`text.documents`) in tokens.

    Args:
        characters: how many characters of each document are kept, without a word that this would
            cut; 0 = all.
        cache: folder in which tokens are kept and found again; None = in memory only. A stale or
            truncated entry is made again. Any number of processes may share the folder.

    Raises:
        ValueError: a vocabulary that no token type holds, a tokeniser that breaks its bounds, or
            as `text.documents` does.
    """
    kind = token_type(tokenizer.vocab_size)
    encoded = _encoded(path, split, tokenizer, characters)
    if cache is None:
        ids, names, words, sizes = zip(*encoded, strict=True)
        tokens = np.concatenate(ids).astype(kind)
        return _split(tokens, [len(document) for document in ids], names, words, sizes)
    key = _key(path, split, tokenizer, characters)
    entry = Path(cache) / f"{split or 'all'}-{key[:16]}"
    found = _load(entry, key)
    return _build(entry, key, kind, encoded) if found is None else found


def token_type(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id.

    Raises:
        ValueError: ids that int32, the type of a batch, does not hold.
    """
    require(vocab_size <= 2**31, "vocab_size", vocab_size, f"at most {2**31}")
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _split(tokens: np.ndarray, *documents: Sequence) -> TokenizedSplit:
    """From lengths, names, words and bytes of all documents."""
    lengths, names, words, sizes = documents
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    counts = np.array(words, np.int64), np.array(sizes, np.int64)
    return TokenizedSplit(tokens, starts, tuple(names), *counts)


def _encoded(
    path: str | Path, split: str | None, tokenizer: Tokenizer, characters: int
) -> Iterator[tuple[np.ndarray, str, int, int]]:
    """(ids with the end, name, words, bytes) of each document."""
    for name, content in text.documents(path, split):
        if 0 < characters < len(content):
            begin = content[:characters]
            content = (begin.rsplit(maxsplit=1) or [begin])[0]
        ids = tokenizer.encode(content)
        check_tokens(ids, tokenizer.vocab_size, f"{name}: ids")
        with_end = np.append(ids, np.int32(tokenizer.end))
        yield with_end, name, text.num_words(content), len(content.encode("utf-8"))


def _key(path: str | Path, split: str | None, tokenizer: Tokenizer, characters: int) -> str:
    """Hash of everything that the tokens depend on."""
    settings = [_VERSION, split, tokenizer.fingerprint, characters]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in text.files(path, split):
        with open(file, "rb") as opened:
            contents = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps([file.name, contents]).encode())
    return digest.hexdigest()


def _load(entry: Path, key: str) -> TokenizedSplit | None:
    """The entry, or None if it is absent, another's or damaged."""
    file = entry / "tokens.bin"
    try:
        header = json.loads((entry / "header.json").read_text(encoding="utf-8"))
        size = file.stat().st_size
    except (OSError, ValueError):
        return None
    if not isinstance(header, dict) or (header.get("key"), header.get("size")) != (key, size):
        return None
    tokens = np.memmap(file, header["dtype"], mode="r")
    return _split(tokens, *(header[name] for name in ("lengths", "names", "words", "bytes")))


def _build(entry: Path, key: str, kind: np.dtype, encoded: Iterator) -> TokenizedSplit:
    partial = entry.with_name(f"{entry.name}.partial-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        _write(partial, key, kind, encoded)
        # Mapped before the rename: it stays readable even if another process replaces the entry.
        loaded = _load(partial, key)
        if loaded is None:
            raise OSError(f"{partial}: what was written to it cannot be read back")
        _install(partial, entry, key)
        return loaded
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, key: str, kind: np.dtype, encoded: Iterator) -> None:
    lengths, names, words, sizes = [], [], [], []
    with open(folder / "tokens.bin", "wb") as file:
        for ids, name, num_words, num_bytes in encoded:
            file.write(ids.astype(kind).tobytes())
            lengths.append(len(ids))
            names.append(name)
            words.append(num_words)
            sizes.append(num_bytes)
        file.flush()
        # A rename may otherwise reach the disk before the tokens do.
        os.fsync(file.fileno())
    header = {"key": key, "dtype": kind.str, "size": sum(lengths) * kind.itemsize}
    header |= {"lengths": lengths, "names": names, "words": words, "bytes": sizes}
    (folder / "header.json").write_text(json.dumps(header), encoding="utf-8")


def _install(partial: Path, entry: Path, key: str) -> None:
    """Rename into place unless another process was first; a damaged entry there is removed."""
    if entry.exists() and _load(entry, key) is None:
        away = entry.with_name(f"{partial.name}-damaged")
        with contextlib.suppress(FileNotFoundError):  # another process did it
            os.rename(entry, away)
        shutil.rmtree(away, ignore_errors=True)
    try:
        os.rename(partial, entry)
    except OSError:
        if _load(entry, key) is None:
            raise
