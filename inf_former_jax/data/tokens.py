"""Text to token ids and back, exactly: bytes, GPT-2's byte-level BPE, or one trained on the text.

The rest of `data` knows a tokeniser as a `Tokenizer` only.

Some published vocabularies have no token for a few control characters and unassigned ones
(`Tokenizer.lost`). No id stands for these, so something has to be said of them. A prompt is
refused, since its author is there to correct it. A corpus is read without them, and their number is
reported (`kept`): a stray control character is no reason to stop after minutes of reading.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Integer

from inf_former_jax.data.batches import check_tokens
from inf_former_jax.data.byte_symbols import code, missing
from inf_former_jax.files import (
    parse_json,
    read_json,
    read_lines,
    read_text,
    write_json,
    write_text,
)
from inf_former_jax.require import require, require_at_least, require_package

END = "<|endoftext|>"
"""GPT-2's token at the end of a document."""

_CONFIG = "tokenizer_config.json"


@runtime_checkable
class Tokenizer(Protocol):
    """Ids for text, without loss: decode(encode(text)) == text for all that UTF-8 can express.

    A text with `lost` characters has no ids.
    """

    vocab_size: int
    """Ids are in 0..vocab_size-1, the end's id included."""
    end: int
    """Id that ends a document; no text encodes to it."""
    fingerprint: str
    """Hash of everything that decides on the ids: stored tokens belong to one fingerprint."""

    def lost(self, text: str) -> list[str]:
        """The text's characters that no token can express, as often as they stand there."""
        ...

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The text's ids [n], without an end; ValueError for one with `lost` characters."""
        ...

    def decode(self, ids: Integer[np.ndarray, " n"]) -> str:
        """The ids' text, ends left out and invalid UTF-8 replaced; ValueError for other ids."""
        ...


class Bytes:
    """The bytes of UTF-8, ids 0..255, and the end."""

    vocab_size = 257
    end = 256
    fingerprint = "bytes"

    def lost(self, text: str) -> list[str]:
        """None: every character is bytes."""
        return []

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The text's bytes [n]."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids: Integer[np.ndarray, " n"]) -> str:
        """The ids' text, ends left out and invalid UTF-8 replaced; ValueError for other ids."""
        check_tokens(ids, self.vocab_size, "ids")
        return ids[ids != self.end].astype(np.uint8).tobytes().decode("utf-8", errors="replace")


class ByteLevelBpe:
    """Byte-level byte-pair encoding (GPT-2), by the `tokenizers` library; see `load_bpe`.

    A text that spells the end is encoded like any other text.
    """

    vocab_size: int
    end: int
    end_token: str
    """What the end is called in the vocabulary."""
    fingerprint: str

    def __init__(self, definition: str, where: str, end: str | int = END):
        """From the text of a tokenizer.json; `where` is named in errors.

        Args:
            end: the token that ends a text, or its id.

        Raises:
            ValueError: no such definition, one that would lose text, or without the end.
        """
        accepted = "a tokenizer.json"
        _check_model(parse_json(definition, where, accepted).get("model"), where)
        library = _library()
        with _refusals(where, accepted):
            self._tokenizer = library.Tokenizer.from_str(definition)
        spec = json.loads(self._tokenizer.to_str())
        _check_lossless(spec, where)
        self._missing = missing(spec["model"]["vocab"])
        self._without = self._missing.characters
        vocab = self._tokenizer.get_vocab()
        by_id = {index: token for token, index in vocab.items()}
        known = end in vocab or end in by_id
        require(known, where, f"{len(vocab)} tokens", f"a vocabulary with {end!r}")
        _check_ids(vocab, where)
        self._definition = definition
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # as ordinary text, that is
        self.vocab_size = max(by_id) + 1
        self.end_token = end if isinstance(end, str) else by_id[end]
        self.end = vocab[self.end_token]
        spelled = self._tokenizer.decode([self.end], skip_special_tokens=False)
        found = f"{self.end_token!r}, to which the text {spelled!r} is encoded"
        require(self.end not in self.encode(spelled), where, found, "an end that is no text's")
        self.fingerprint = _fingerprint(spec, vocab, self.end)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json from which `load_bpe` makes the same tokeniser, or nothing.

        An end other than GPT-2's is told by a tokenizer_config.json beside it.
        """
        if self.end_token != END:
            write_json(Path(path).with_name(_CONFIG), {"eos_token": self.end_token})
        write_text(path, self._definition)

    def lost(self, text: str) -> list[str]:
        """The text's characters that no token can express, as often as they stand there.

        They can only be control characters other than tab and line ends, and unassigned ones: a
        vocabulary that lacks others is refused.
        """
        return self._without.findall(text) if self._without else []

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The text's ids [n], without an end.

        Raises:
            ValueError: the text has `lost` characters; the first of them, and where it is.
        """
        if self._without and (found := self._without.search(text)):
            where, character = f"text: character {found.start()}", code(found[0])
            accepted = f"any but {self._missing}"
            require(False, where, f"{character}, for which there is no token", accepted)
        # The batch of one is the variant that computes no offsets.
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoded.ids, np.int32)

    def encode_marked(self, text: str) -> Int32[np.ndarray, " n"]:
        """The ids of a text in which special tokens stand for themselves, as in a chat template."""
        self._tokenizer.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._tokenizer.encode_special_tokens = True

    def decode(self, ids: Integer[np.ndarray, " n"]) -> str:
        """The ids' text, ends left out and invalid UTF-8 replaced; ValueError for other ids."""
        check_tokens(ids, self.vocab_size, "ids")
        return self._tokenizer.decode(ids[ids != self.end].tolist(), skip_special_tokens=False)


def kept(tokenizer: Tokenizer, text: str, dropped: Counter[str]) -> str:
    """The part of a corpus's text that has tokens.

    Args:
        dropped: the tokeniser's `lost` characters, which are left out, are added to this count.
    """
    lost = tokenizer.lost(text)
    dropped.update(lost)
    return text.translate(dict.fromkeys(map(ord, lost))) if lost else text


def told(dropped: Counter[str]) -> str:
    """What was left out of a corpus, in one line."""
    kinds = [f"{code(character)} {count:,} times" for character, count in dropped.most_common()]
    return f"left out {dropped.total():,} characters without a token: {', '.join(kinds)}"


def load_bpe(path: str | Path, end: str | int | None = None) -> ByteLevelBpe:
    """Byte-level BPE from a tokenizer.json, or a folder with one or with vocab.json and merges.txt.

    Args:
        end: the token that ends a text, or its id; None = what the files beside it say (`end_of`).

    Raises:
        ValueError: none of these found, or as `ByteLevelBpe` does.
    """
    path = Path(path)
    end = end_of(path if path.is_dir() else path.parent) if end is None else end
    file = path / "tokenizer.json" if path.is_dir() else path
    pair = path / "vocab.json", path / "merges.txt"
    if file.is_file():
        return ByteLevelBpe(read_text(file, "a tokenizer.json"), str(file), end)
    accepted = "tokenizer.json, or a folder with it or with vocab.json and merges.txt"
    require(all(part.is_file() for part in pair), str(path), "no tokeniser", accepted)
    return ByteLevelBpe(_from_pair(*pair), str(path), end)


def end_of(folder: Path) -> str | int:
    """The end that a model's files name: its token, or its id; GPT-2's where none does.

    The first of these counts: eos_token in tokenizer_config.json, and eos_token_id in
    generation_config.json and in config.json.

    Raises:
        ValueError: a file is damaged, or names no token.
    """
    for file, field, kind in (
        (folder / _CONFIG, "eos_token", str),
        (folder / "generation_config.json", "eos_token_id", int),
        (folder / "config.json", "eos_token_id", int),
    ):
        found = read_json(file).get(field) if file.is_file() else None
        # A token may come with how it is matched, and an id in a list.
        token: Any = found.get("content") if isinstance(found, dict) else found
        token = token[0] if isinstance(token, list) and len(token) == 1 else token
        if found is not None:
            accepted = "one token" if kind is str else "the id of one token"
            require(type(token) is kind, f"{file}: {field}", repr(found), accepted)
            return token
    return END


def train_bpe(texts: Iterable[str], vocab_size: int, path: str | Path) -> ByteLevelBpe:
    """Train a byte-level BPE, split into words as GPT-2 does, and write it to `path`.

    Args:
        vocab_size: with the 256 bytes and the end; a small text may give fewer.
        path: where the tokenizer.json is written, whole or not at all.

    Raises:
        ValueError: vocab_size < 257.
    """
    library = _library()
    require_at_least("vocab_size", vocab_size, 257)
    tokenizer = _byte_level(library.Tokenizer(library.models.BPE()))
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_text(path, tokenizer.to_str(pretty=True))
    return load_bpe(path)


def _library() -> Any:
    """The package tokenizers, an extra."""
    accepted = "bytes, or any after pip install 'inf_former_jax[text]'"
    return require_package("tokenizers", "tokenizer", accepted)


def _byte_level(tokenizer: Any) -> Any:
    """The tokeniser with GPT-2's way from text to bytes and back."""
    library = _library()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def _from_pair(vocab: Path, merges: Path) -> str:
    """The text of a tokenizer.json from GPT-2's two files."""
    library = _library()
    accepted = "vocab.json and merges.txt"
    ids = read_json(vocab, accepted)
    lines = (line.rstrip("\r\n") for _, line in read_lines(merges))
    pairs = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
    _check_model({"vocab": ids, "merges": pairs}, str(merges))
    with _refusals(str(vocab.parent), accepted):
        model = library.models.BPE(ids, pairs)
    return _byte_level(library.Tokenizer(model)).to_str()


@contextlib.contextmanager
def _refusals(where: str, accepted: str) -> Iterator[None]:
    """Turn what the library raises, which is nothing more specific, into a ValueError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = str(error).partition("\n")[0]
        raise ValueError(f"{where}: found {found}, accepted: {accepted}") from None


def _check_ids(vocab: dict[str, Any], where: str) -> None:
    """Refuse ids that are none, that two tokens share, or that are far too large."""
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < _MOST:
            found, accepted = f"{token!r} with the id {number!r}", f"integers 0..{_MOST - 1}"
            raise ValueError(f"{where}: found {found}, accepted: {accepted}")
    distinct = len({*vocab.values()}) == len(vocab)
    require(distinct, where, "tokens that share an id", "an id for each token")


_MOST = 2**24  # the library takes minutes to count to an id of 2³¹


def _check_model(model: Any, where: str) -> None:
    """Refuse what makes the library panic, or busy for minutes, in place of an error."""
    if not isinstance(model, dict) or not isinstance(vocab := model.get("vocab"), dict):
        return  # no BPE, for which the library has an error
    merges = model.get("merges")
    _check_ids(vocab, where)
    for merge in merges if isinstance(merges, list) else ():
        parts: Any = merge.split(" ") if isinstance(merge, str) else merge
        pair = isinstance(parts, list | tuple) and [type(part) for part in parts] == [str, str]
        accepted = "pairs whose union is in the vocabulary"
        require(pair and "".join(parts) in vocab, where, f"the merge {merge!r}", accepted)
    prefix = model.get("continuing_subword_prefix")
    require(not prefix, where, "a mark of word ends or beginnings", "a byte-level BPE without loss")


#: Pre-tokenisers that leave every character where it is; the others drop white space or mark it.
_LOSSLESS = ("ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts")


def _check_lossless(spec: dict[str, Any], where: str) -> None:
    """Refuse what would make decode(encode(text)) another text, or random."""
    model, splitter = spec["model"], spec["pre_tokenizer"] or {}
    steps = splitter.get("pretokenizers", [splitter])
    needed = len(missing(model.get("vocab", ())).needed)
    kinds = [step.get("type") for step in steps]
    changes = [step.get("add_prefix_space") or step.get("behavior") == "Removed" for step in steps]
    changes += [kind not in _LOSSLESS for kind in kinds] + [kinds.count("ByteLevel") > 1]
    marks = model.get("end_of_word_suffix"), model.get("continuing_subword_prefix")
    losses = {
        "a model other than BPE": model["type"] != "BPE",
        "no byte-level decoder": (spec["decoder"] or {}).get("type") != "ByteLevel",
        "no byte-level pre-tokeniser": "ByteLevel" not in kinds,
        "a pre-tokeniser that changes the text": any(changes),
        "a normaliser": spec["normalizer"] is not None,
        "dropout": model.get("dropout"),
        "a mark of word ends or beginnings": any(marks),
        f"{needed} bytes of common characters without a token": needed,
        "added tokens that swallow spaces": any(
            token["lstrip"] or token["rstrip"] for token in spec["added_tokens"]
        ),
    }
    found = next((name for name, holds in losses.items() if holds), None)
    require(found is None, where, found, "a byte-level BPE without loss")


def _fingerprint(spec: dict[str, Any], vocab: dict[str, int], end: int) -> str:
    """A hash that is the same for tokenizer.json and for vocab.json with merges.txt.

    It does not depend on the form in which the library writes merges either.
    """
    merges = [one if isinstance(one, str) else " ".join(one) for one in spec["model"]["merges"]]
    added = [token["content"] for token in spec["added_tokens"] if not token["special"]]
    decisive = [vocab, merges, spec["pre_tokenizer"], spec["model"].get("ignore_merges"), added]
    return hashlib.sha256(json.dumps([decisive, end], sort_keys=True).encode()).hexdigest()
