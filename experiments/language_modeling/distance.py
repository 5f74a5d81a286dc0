"""How well a word is predicted, by how far back in its document it last occurred.

A memory can only gain where the window cannot see. So the loss of every token of a word is sorted
by the tokens since the word's last occurrence: within a window's length, 1 to 4 such lengths back,
4 to 16, 16 to 64, more, or never. Words that no other document of the split has (names, above all)
are counted apart: a model knows the others without having read this document.
"""

import collections
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int8

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


def words_of(pieces: list[str]) -> Words:
    """The words of a document, from the text of each token: what letters and digits stand together.

    Upper and lower case count alike. All tokens of a word have the same distance, from its first
    token to the first token of the word's last occurrence.
    """
    spans, begin, open_word = [], 0, False
    for i, piece in enumerate(pieces):
        lettered = any(map(_in_word, piece))
        if open_word and not (lettered and _in_word(piece[0])):
            spans.append((begin, i))
            open_word = False
        if lettered and not open_word:
            begin, open_word = i, True
        if open_word and not _in_word(piece[-1]):  # "Emma,": the word ends inside the token
            spans.append((begin, i + 1))
            open_word = False
    if open_word:
        spans.append((begin, len(pieces)))
    back, word = np.full((2, len(pieces)), -1)
    numbers: dict[str, int] = {}
    last: dict[int, int] = {}
    for first, end in spans:
        text = "".join(filter(_in_word, "".join(pieces[first:end]))).casefold()
        number = numbers.setdefault(text, len(numbers))
        back[first:end] = first - last[number] if number in last else 0
        word[first:end], last[number] = number, first
    return Words(back, list(numbers), word)


def _in_word(letter: str) -> bool:
    """Letters and digits; also the sign in the place of a part of a letter's bytes."""
    return letter.isalnum() or letter == "\ufffd"


class ByDistance:
    """Sums of a split's losses by distance, for all words and for those of one document only."""

    def __init__(self, split: TokenizedSplit, tokenizer: Tokenizer, window: int):
        """Find the words of all documents.

        Args:
            window: tokens that count as one length of the window.
        """
        ids = np.arange(tokenizer.vocab_size)[:, None]
        texts = [tokenizer.decode(one) for one in ids]
        self._starts, self._documents = split.starts, split.names
        self._window, total = window, int(split.starts[-1])
        self._class = np.full(total, -1, np.int8)
        self._rare = np.zeros(total, bool)
        found, documents = [], collections.Counter()
        for first, end in zip(split.starts[:-1], split.starts[1:], strict=True):
            words = words_of([texts[i] for i in split.at(slice(first, end)).tolist()])
            found.append(words)
            documents.update(words.names)
        for first, words in zip(split.starts[:-1].tolist(), found, strict=True):
            here = slice(first, first + len(words.back))
            self._class[here] = classes(words.back, window)
            only = np.array([documents[name] == 1 for name in words.names] + [False])
            self._rare[here] = only[words.word]  # the last place is -1's
        self._tokens, self._nats = np.zeros((2, 2, len(split.names), len(CLASSES)))

    def add(
        self,
        documents: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
        losses: Float[np.ndarray, " n"],
    ) -> None:
        """Add the losses of tokens, each predicted at a position of a document."""
        targets = self._starts[documents] + positions + 1
        kinds, rare = self._class[targets], self._rare[targets]
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
        documents = list(self._documents)
        return {"window": self._window, "classes": list(CLASSES), "documents": documents} | found


#: Which words: all, and those that no other document of the split has.
WORDS = ("all words", "words of one document")


def classes(back: Int[np.ndarray, " n"], window: int) -> Int8[np.ndarray, " n"]:
    """Places in CLASSES of distances in tokens, -1 of tokens that belong to no word."""
    found = np.searchsorted(np.array(_ENDS) * window, back, side="left").astype(np.int8)
    found[back == 0] = NEVER
    found[back < 0] = -1
    return found
