"""How well a word is predicted, by how far back in its document it last occurred.

A memory can only gain where the window cannot see. So the loss of every token of a word is sorted
by the tokens since the word's last occurrence: within a window's length, 1 to 4 such lengths back,
4 to 16, 16 to 64, more, or never. Words that no other document of the split has (names, above all)
are counted apart: a model knows the others without having read this document.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.tokens import Tokenizer

#: Ends of the classes in lengths of a window; what is beyond the last has a class of its own.
_ENDS = (1, 4, 16, 64)
CLASSES = ("in the window", "1–4 windows back", "4–16", "16–64", "64 or more", "never before")
NEVER = len(CLASSES) - 1


class Words(NamedTuple):
    """What the tokens of a document are parts of."""

    back: Int[np.ndarray, " n"]  # tokens since the word's last occurrence; 0: never, -1: no word
    names: list[str]  # the document's words, each once
    word: Int[np.ndarray, " n"]  # of each token, a place in `names`; -1: no word


def words_of(pieces: Sequence[str]) -> Words:
    """The words of a document, from the text of each token: what letters and digits stand together.

    Upper and lower case count alike. All tokens of a word have the same distance, from its first
    token to the first token of the word's last occurrence.

    Args:
        pieces: "" for a token whose text is that of the one before it (`texts_of`).
    """
    spans, begin, open_word = [], 0, False
    for i, piece in enumerate(pieces):
        if not piece:
            continue
        lettered = any(map(str.isalnum, piece))
        if open_word and not (lettered and piece[0].isalnum()):
            spans.append((begin, i))
            open_word = False
        if lettered and not open_word:
            begin, open_word = i, True
        if open_word and not piece[-1].isalnum():  # "Emma,": the word ends inside the token
            spans.append((begin, i + 1))
            open_word = False
    if open_word:
        spans.append((begin, len(pieces)))
    back, word = np.full((2, len(pieces)), -1)
    numbers: dict[str, int] = {}
    last: dict[int, int] = {}
    for first, end in spans:
        text = "".join(filter(str.isalnum, "".join(pieces[first:end]))).casefold()
        number = numbers.setdefault(text, len(numbers))
        back[first:end] = first - last[number] if number in last else 0
        word[first:end], last[number] = number, first
    return Words(back, list(numbers), word)


def texts_of(
    ids: Int[np.ndarray, " n"], known: Sequence[str], decode: Callable[[Any], str]
) -> list[str]:
    """The text of each token of a document.

    Neighbours that hold parts of a character are decoded together. The first of them has the text
    of all, and the others have "".

    Args:
        known: id → its text alone, with the sign U+FFFD for a part of a character.
    """
    found = [known[int(i)] for i in ids]
    begin = None
    for i, text in enumerate([*found, ""]):
        if _PART in text:
            begin = i if begin is None else begin
        elif begin is not None:
            found[begin:i] = [decode(ids[begin:i])] + [""] * (i - begin - 1)
            begin = None
    return found


#: What a decoder has in the place of bytes that are no whole character.
_PART = "\ufffd"


class Index(NamedTuple):
    """What the tokens of a split are parts of, document after document."""

    documents: tuple[str, ...]
    starts: Int[np.ndarray, " documents+1"]
    window: int  # tokens that count as one length of the window
    kinds: Int8[np.ndarray, " total"]  # places in CLASSES; -1: no word
    rare: Bool[np.ndarray, " total"]  # of a word that no other document has


def index(split: TokenizedSplit, tokenizer: Tokenizer, window: int) -> Index:
    """Find the words of all documents of a split."""
    known = [tokenizer.decode(np.array([i])) for i in range(tokenizer.vocab_size)]
    found, documents = [], collections.Counter[str]()
    for first, end in zip(split.starts[:-1], split.starts[1:], strict=True):
        words = words_of(texts_of(split.at(slice(first, end)), known, tokenizer.decode))
        found.append(words)
        documents.update(words.names)
    # A word's number is -1 where there is none: the last place.
    only = [np.array([documents[name] == 1 for name in one.names] + [False]) for one in found]
    return Index(
        split.names,
        split.starts,
        window,
        np.concatenate([classes(one.back, window) for one in found]),
        np.concatenate([which[one.word] for which, one in zip(only, found, strict=True)]),
    )


class ByDistance:
    """Sums of a split's losses by distance, for all words and for those of one document only."""

    def __init__(self, words: Index):
        self._words = words
        self._tokens, self._nats = np.zeros((2, 2, len(words.documents), len(CLASSES)))

    def add(
        self,
        documents: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
        losses: Float[np.ndarray, " n"],
    ) -> None:
        """Add the losses of tokens, each predicted at a position of a document."""
        targets = self._words.starts[documents] + positions + 1
        kinds, rare = self._words.kinds[targets], self._words.rare[targets]
        for which, chosen in enumerate((kinds >= 0, (kinds >= 0) & rare)):
            at: Any = (which, documents[chosen], kinds[chosen])
            np.add.at(self._tokens, at, 1)
            np.add.at(self._nats, at, losses[chosen])

    def result(self) -> dict[str, Any]:
        """As JSON: tokens and nats of each document and class."""
        found = {
            name: {"tokens": tokens.astype(int).tolist(), "nats": nats.tolist()}
            for name, tokens, nats in zip(WORDS, self._tokens, self._nats, strict=True)
        }
        told = {"window": self._words.window, "classes": list(CLASSES)}
        return told | {"documents": list(self._words.documents)} | found


#: Which words: all, and those that no other document of the split has.
WORDS = ("all words", "words of one document")


def classes(back: Int[np.ndarray, " n"], window: int) -> Int8[np.ndarray, " n"]:
    """Places in CLASSES of distances in tokens, -1 of tokens that belong to no word."""
    found = np.searchsorted(np.array(_ENDS) * window, back, side="left").astype(np.int8)
    found[back == 0] = NEVER
    found[back < 0] = -1
    return found
