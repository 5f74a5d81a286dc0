"""The passkey probe: a number stated once in the text of a book, asked for many segments later.

A document has W segments of T tokens. It is a stretch of one text with one more sentence in it,
which states the key. The question and its answer stand at the end, so that a reader is
teacher-forced. The statement begins exactly `distance` segments before the question; each of them
lies in one segment. Digits are tokenised one by one.

    … filler … The pass key is 7 3 1 4 2. Remember it. … filler … | … filler …
    What is the pass key? The pass key is 7 3 1 4 2

Text and key of a document are the same at every distance, so that accuracies differ by it alone.

Dimension letters: B rows, W segments of T tokens, S = W T tokens of a document.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Integer

from experiments.run.examples import generators
from inf_former_jax.data.batches import Batch, segment
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.fields import Checked, Count, NonEmpty, NonNegative
from inf_former_jax.require import require, require_at_least

STATEMENT = (" The pass key is", ". Remember it.")
"""Before and after the digits where the key is stated."""
QUESTION = " What is the pass key? The pass key is"
"""Before the digits at the end of the document."""

CHANCE = 1 / 10
"""Accuracy of a uniform guess of a digit; of a whole key it is CHANCE ** digits."""


@dataclasses.dataclass(frozen=True)
class Sizes(Checked):
    """Sizes of the task.

    Raises:
        ValueError: on construction, for distances or digits that no document can have.
    """

    distances: NonEmpty[Count] = (1, 2, 4, 8, 16, 32, 64)
    """Segments from the statement's to the question's; equally likely in training."""
    digits: Count = 5
    """Digits of a key, each of ten equally likely."""
    text_weight: NonNegative = 0.0
    """Loss weight of a token of the text beside 1 of a digit of the answer."""

    def __post_init__(self):
        super().__post_init__()
        different = len(set(self.distances)) == len(self.distances)
        require(different, "distances", self.distances, "all different")

    @property
    def segments(self) -> int:
        """W, of every document: as many as the longest distance needs."""
        return max(self.distances) + 1


class Sentences(NamedTuple):
    """The sentences about a key, in tokens. The ten digits differ in one of their P tokens."""

    before: Int32[np.ndarray, " before"]
    after: Int32[np.ndarray, " after"]
    question: Int32[np.ndarray, " question"]
    digits: Int32[np.ndarray, "10 P"]
    telling: int  # the one that differs


class Documents(NamedTuple):
    """Documents and what they ask for."""

    tokens: Int32[np.ndarray, "B S"]
    answers: Bool[np.ndarray, "B S"]  # the next token is a digit of the answer
    text: Bool[np.ndarray, "B S"]  # the next token is of the text
    distances: Int32[np.ndarray, " B"]


def sentences(tokenizer: Tokenizer) -> Sentences:
    """The statement, the question and the ten digits in tokens, each encoded by itself.

    Raises:
        ValueError: a tokeniser whose digits do not differ in exactly one token.
    """
    before, after, question = (tokenizer.encode(part) for part in (*STATEMENT, QUESTION))
    pieces = [tokenizer.encode(f" {digit}") for digit in range(10)]
    if len({len(piece) for piece in pieces}) == 1:
        digits = np.stack(pieces)
        different = [len(set(place)) for place in digits.T.tolist()]
        if sorted(different) == [1] * (len(different) - 1) + [10]:
            return Sentences(before, after, question, digits, different.index(10))
    found = [piece.tolist() for piece in pieces]
    raise ValueError(f"tokenizer: found {found}, accepted: digits that differ in one token each")


def check_fits(cfg: Sizes, segment_len: int, words: Sentences) -> None:
    """Raise ValueError unless a segment has room for the statement, and for the question."""
    statement, question = _lengths(cfg, words)
    least = max(statement, question)
    accepted = f"{least} or more: the statement has {statement} tokens, the question {question}"
    require(segment_len >= least, "segment_len", segment_len, accepted)


def generate(
    seed: int,
    split: str,
    indices: Sequence[int] | Integer[np.ndarray, " B"],
    cfg: Sizes,
    segment_len: int,
    text: TokenizedSplit,
    tokenizer: Tokenizer,
    distance: int | None = None,
) -> Documents:
    """Make the documents `indices` of a split: W segments of tokens each.

    A document depends on (seed, split, index), the sizes and the text only, so that any host makes
    any one. An index has the same key and the same stretch of text at every distance.

    Args:
        text: the split's; every stretch of the length needed, within one text, is equally likely.
        distance: of all rows; None = drawn from `cfg.distances`, each equally likely.

    Raises:
        ValueError: an unknown split, a negative seed or index, a distance without room, a segment
            or all texts too short, or a tokeniser that `sentences` refuses.
    """
    possible = distance is None or 1 <= distance < cfg.segments
    require(possible, "distance", distance, f"1..{cfg.segments - 1}")
    words = sentences(tokenizer)
    check_fits(cfg, segment_len, words)
    size = cfg.segments * segment_len
    statement, question = _lengths(cfg, words)
    length = size - statement - question  # of the stretch
    before = _stretches(text, length)
    tokens, distances = np.zeros((len(indices), size), np.int32), np.zeros(len(indices), np.int32)
    answers, of_text = np.zeros((2, len(indices), size), bool)
    for row, random in enumerate(generators(seed, split, indices)):
        key = random.integers(10, size=cfg.digits)
        filler = _stretch(random, text, before, length)
        offset = random.integers(segment_len - statement + 1)
        distances[row] = distance or random.choice(cfg.distances)
        place = (cfg.segments - 1 - distances[row]) * segment_len + offset
        tokens[row], answers[row], of_text[row] = _document(words, key, filler, place)
    return Documents(tokens, answers, of_text, distances)


def _lengths(cfg: Sizes, words: Sentences) -> tuple[int, int]:
    """Tokens of the statement, and of the question with its answer."""
    key = cfg.digits * words.digits.shape[1]
    return len(words.before) + key + len(words.after), len(words.question) + key


def _stretches(text: TokenizedSplit, length: int) -> Int[np.ndarray, " documents+1"]:
    """How many stretches of `length` tokens begin before each document; an end is in none."""
    sizes = np.diff(text.starts) - 1
    found = f"{sizes.max(initial=0)} tokens in the longest of {len(sizes)} documents"
    require(bool((sizes >= length).any()), "text", found, f"{length} or more, the end not counted")
    return np.append(0, np.cumsum(np.maximum(sizes - length + 1, 0)))


def _stretch(
    random: np.random.Generator,
    text: TokenizedSplit,
    before: Int[np.ndarray, " documents+1"],
    length: int,
) -> Int32[np.ndarray, " length"]:
    """One of the stretches, each equally likely."""
    number = random.integers(before[-1])
    document = np.searchsorted(before, number, side="right") - 1
    begin = text.starts[document] + number - before[document]
    return text.at(slice(begin, begin + length))


def _document(
    words: Sentences,
    key: Int[np.ndarray, " digits"],
    filler: Int32[np.ndarray, " length"],
    place: int,
) -> tuple[Int32[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
    """Tokens; for each place, whether the next token is of the answer, and whether of the text."""
    digits = words.digits[key].ravel()
    statement = np.concatenate([words.before, digits, words.after])
    question = np.concatenate([words.question, digits])
    tokens = np.concatenate([filler[:place], statement, filler[place:], question])
    of_text = np.ones(len(tokens), bool)
    of_text[place : place + len(statement)] = of_text[-len(question) :] = False
    answers = np.zeros(len(tokens), bool)
    answers[len(tokens) - len(digits) + words.telling :: words.digits.shape[1]] = True
    return tokens, np.append(answers[1:], False), np.append(of_text[1:], False)


def batch(documents: Documents, segment_len: int, text_weight: float = 0.0) -> Batch:
    """Model input in segments: target the next token, weight 1 where it is a digit of the answer.

    Args:
        text_weight: where it is a token of the text; elsewhere the weight is 0.

    Raises:
        ValueError: segment_len < 1.
    """
    targets = np.roll(documents.tokens, -1, axis=1)
    weights = documents.answers + np.float32(text_weight) * documents.text
    return segment(documents.tokens, targets, weights.astype(np.float32), segment_len)


def lookup_accuracy(window: int, distance: int) -> float:
    """Expected accuracy of a digit by exact look-up in the last `window` segments, else by chance.

    Raises:
        ValueError: a negative window, or a distance below 1.
    """
    require_at_least("window", window, 0)
    require_at_least("distance", distance, 1)
    return 1.0 if distance <= window else CHANCE
