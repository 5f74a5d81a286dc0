"""The tokens of a split: documents one after the other, each with its end, kept on disk.

A cache entry is a folder `{split}-{hash}`. The hash covers the text files, their names and the
tokeniser, so that after a change of any of them no entry is found. An entry is written under
another name and renamed when it is complete. It holds the digests of its header and of its tokens:
what is damaged is made again.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer

from inf_former_jax.data import text
from inf_former_jax.data.batches import check_tokens
from inf_former_jax.data.text import SKIP, Skip
from inf_former_jax.data.tokens import Tokenizer, kept, told
from inf_former_jax.files import (
    PARTIAL,
    Changed,
    digest,
    json_text,
    placing,
    printable,
    read_json,
    write_json,
    writing,
)
from inf_former_jax.require import require

log = logging.getLogger(__name__)

_VERSION = 2  # of readers and entries: a new number makes every entry stale


class TokenizedSplit(NamedTuple):
    """Document i is tokens[starts[i] : starts[i + 1]]; its last token is the end."""

    tokens: Integer[np.ndarray, " total"]  # uint16 or uint32; mapped from disk if cached
    starts: Int64[np.ndarray, " documents+1"]
    names: tuple[str, ...]
    words: Int64[np.ndarray, " documents"]  # separated by white space
    bytes: Int64[np.ndarray, " documents"]  # of UTF-8
    skipped: tuple[str, ...] = ()  # why each document that `Skip` leaves out was left out
    vocab_size: int = 2**31  # of the tokeniser
    dropped: int = 0  # characters that no token can express, which were left out

    def at(self, places: Any) -> Int32[np.ndarray, "..."]:
        """The tokens at places, an index or a slice of `tokens`.

        Raises:
            Changed: a token beyond the vocabulary: the file was written to after it was mapped.
        """
        found = self.tokens[places]
        try:
            check_tokens(found, self.vocab_size, "tokens of the cache")
        except ValueError as error:
            raise Changed(str(error)) from None
        return found.astype(np.int32)


def tokenize(
    path: str | Path,
    split: str | None,
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    characters: int = 0,
    skip: Skip = SKIP,
) -> TokenizedSplit:
    """The documents of a split (`text.documents`) in tokens.

    Characters that no token can express are left out: a line in the log says which and how many.

    Args:
        characters: how many characters of each document are kept, without a word that this would
            cut; 0 = all.
        cache: folder in which tokens are kept and found again; None = in memory only. A stale or
            damaged entry is made again. Any number of processes may share the folder.
        skip: which documents are left out (`text.documents`).

    Raises:
        ValueError: a vocabulary that no token type holds, a tokeniser that breaks its bounds, a
            cache that is no folder, or as `text.documents` does.
    """
    kind, skipped = token_type(tokenizer.vocab_size), list[str]()
    documents = text.documents(path, split, skip, skipped)

    def write(write: Callable[[bytes], Any]) -> dict[str, Any]:
        dropped: Counter[str] = Counter()
        fields = _encode(documents, tokenizer, characters, kind, write, dropped)
        if dropped:
            where = str(path) if split is None else f"{path}: {split}"
            log.warning("%s: %s", printable(where), told(dropped))
        fields["dropped"] = dropped.total()
        return fields | {"skipped": skipped, "vocab_size": tokenizer.vocab_size}

    if cache is None:
        parts: list[bytes] = []
        header = write(parts.append)
        return _split(np.frombuffer(b"".join(parts), kind), header)
    settings = [_VERSION, split, tokenizer.fingerprint, characters, skip.skip_empty, skip.skip_odd]
    key = _hash([*settings, text.fingerprint(path, split)])
    entry = Path(cache) / f"{split or 'all'}-{key[:16]}"
    return _load(entry, key, kind) or _build(entry, key, kind, write)


def token_type(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id.

    Raises:
        ValueError: ids that int32, the type of a batch, does not hold.
    """
    require(vocab_size <= 2**31, "vocab_size", vocab_size, f"at most {2**31}")
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _split(tokens: np.ndarray, header: Mapping[str, Any]) -> TokenizedSplit:
    """From what an entry's header says of the documents."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(header["lengths"], dtype=np.int64)])
    counts = np.array(header["words"], np.int64), np.array(header["bytes"], np.int64)
    names, skipped = tuple(header["names"]), tuple(header["skipped"])
    # Entries from before tokenisers could lack a character say nothing of them.
    size, dropped = header["vocab_size"], header.get("dropped", 0)
    return TokenizedSplit(tokens, starts, names, *counts, skipped, size, dropped)


def _encode(
    documents: Iterator[text.Document],
    tokenizer: Tokenizer,
    characters: int,
    kind: np.dtype,
    write: Callable[[bytes], Any],
    dropped: Counter[str],
) -> dict[str, Any]:
    """Write the ids of each document and its end; lengths, names, words and bytes of all.

    Args:
        dropped: receives the characters that are left out.
    """
    header: dict[str, Any] = {"lengths": [], "names": [], "words": [], "bytes": []}
    for name, content in documents:
        if 0 < characters < len(content):
            begin = content[:characters]
            content = (begin.rsplit(maxsplit=1) or [begin])[0]
        content = kept(tokenizer, content, dropped)
        ids = tokenizer.encode(content)
        check_tokens(ids, tokenizer.vocab_size, f"{name}: ids")
        write(np.append(ids, np.int32(tokenizer.end)).astype(kind).tobytes())
        row = len(ids) + 1, name, text.num_words(content), len(content.encode("utf-8"))
        for field, value in zip(header.values(), row, strict=True):
            field.append(value)
    return header


def _hash(content: Any) -> str:
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def _load(entry: Path, key: str, kind: np.dtype) -> TokenizedSplit | None:
    """The entry, or None if it is absent, another's or damaged."""
    tokens = entry / "tokens.bin"
    try:
        header = read_json(entry / "header.json")
        whole = header.pop("digest", None) == _hash(header) and header["key"] == key
        if not whole or digest(tokens) != header["tokens"]:
            return None
        return _split(np.memmap(tokens, kind, mode="r"), header)
    except (OSError, ValueError):
        return None


def _build(entry: Path, key: str, kind: np.dtype, write: Callable) -> TokenizedSplit:
    partial = entry.with_name(f"{entry.name}{PARTIAL}{uuid.uuid4().hex}")
    with placing(entry.parent, "a folder that can be written to"):
        partial.mkdir(parents=True)
    try:
        _write(partial, key, write)
        # Mapped before the rename: it stays readable even if another process replaces the entry.
        loaded = _load(partial, key, kind)
        if loaded is None:
            raise OSError(f"{partial}: what was written to it cannot be read back")
        _install(partial, entry, key, kind)
        return loaded
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, key: str, write: Callable[[Callable], dict[str, Any]]) -> None:
    with writing(folder / "tokens.bin") as file:
        header = write(file.write)
    header |= {"key": key, "tokens": digest(folder / "tokens.bin")}
    write_json(folder / "header.json", {"digest": _hash(header), **header}, indent=None)


def _install(partial: Path, entry: Path, key: str, kind: np.dtype) -> None:
    """Rename into place unless another process was first; what is damaged there is removed."""
    if os.path.lexists(entry) and _load(entry, key, kind) is None:
        away = entry.with_name(f"{partial.name}-damaged")
        with contextlib.suppress(FileNotFoundError):  # another process did it
            os.rename(entry, away)
        if away.is_dir() and not away.is_symlink():
            shutil.rmtree(away, ignore_errors=True)
        else:
            away.unlink(missing_ok=True)
    try:
        os.rename(partial, entry)
    except OSError:
        if _load(entry, key, kind) is None:
            raise
