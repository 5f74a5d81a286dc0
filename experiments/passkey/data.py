"""The passkey probe: a key or a fact stated once in the text of a book, asked for segments later.

A document has W segments of T tokens. It is a stretch of one text with one more sentence in it,
which states the key (`needles`). The question and its answer stand at the end, so that a reader is
teacher-forced. The statement begins exactly `distance` segments before the question; each of them
lies in one segment. Others of its kind, if there are any, stand in segments of their own.

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

from experiments.passkey import needles
from experiments.passkey.needles import Kind, Needle
from experiments.run.examples import generators
from inf_former_jax.data.batches import Batch, segment
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.fields import Checked, Count, Natural, NonEmpty, NonNegative
from inf_former_jax.require import require, require_at_least


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
    """Loss weight of a token of the text, beside 1 of a token that tells the answer."""
    kind: Kind = "key"
    """What is asked for. key: digits; fact: a fact about a person, from `questions`."""
    others: Natural = 0
    """Keys of other names, or facts about other people, that the document states as well."""

    def __post_init__(self):
        super().__post_init__()
        different = len(set(self.distances)) == len(self.distances)
        require(different, "distances", self.distances, "all different")
        most = max(self.distances) - 1
        accepted = f"at most {most}, one in each other segment before the question's"
        require(self.others <= most, "others", self.others, accepted)
        most = needles.most_others(self.kind)
        accepted = f"at most {most}, for whom there are names and values"
        require(self.others <= most, "others", self.others, accepted)
        found = f"{self.digits} with kind fact"
        fits = self.kind == "key" or self.digits == type(self).digits
        require(fits, "digits", found, f"only its default {type(self).digits} there")

    @property
    def segments(self) -> int:
        """W, of every document: as many as the longest distance needs."""
        return max(self.distances) + 1


class Documents(NamedTuple):
    """Documents and what they ask for."""

    tokens: Int32[np.ndarray, "B S"]
    answers: Bool[np.ndarray, "B S"]  # the next token tells the answer, or a digit of it
    text: Bool[np.ndarray, "B S"]  # the next token is of the text
    distances: Int32[np.ndarray, " B"]


def check_fits(cfg: Sizes, segment_len: int, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless a segment has room for the statement, and for the question."""
    statement, question = needles.longest(cfg.kind, cfg.digits, cfg.others, tokenizer)
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
            or all texts too short, or a tokeniser that `needles.digits_of` refuses.
    """
    possible = distance is None or 1 <= distance < cfg.segments
    require(possible, "distance", distance, f"1..{cfg.segments - 1}")
    check_fits(cfg, segment_len, tokenizer)
    size = cfg.segments * segment_len
    # Without names the stretch is what the sentences leave. With names these differ in length, and
    # the stretch is as long as the whole document, of which the end is not used.
    longest = needles.longest(cfg.kind, cfg.digits, cfg.others, tokenizer)
    named = cfg.kind == "fact" or cfg.others > 0
    length = size if named else size - sum(longest)
    before = _stretches(text, length)
    tokens, distances = np.zeros((len(indices), size), np.int32), np.zeros(len(indices), np.int32)
    answers, of_text = np.zeros((2, len(indices), size), bool)
    for row, random in enumerate(generators(seed, split, indices)):
        some = needles.drawn(random, cfg.kind, cfg.digits, cfg.others, tokenizer)
        filler = _stretch(random, text, before, length)
        offsets = [random.integers(segment_len - len(one.statement) + 1) for one in some]
        elsewhere = random.permutation(cfg.segments - 1) if cfg.others else []
        distances[row] = distance or random.choice(cfg.distances)
        own = cfg.segments - 1 - distances[row]
        segments = [own, *(number for number in elsewhere if number != own)][: len(some)]
        places = [number * segment_len + at for number, at in zip(segments, offsets, strict=True)]
        tokens[row], answers[row], of_text[row] = _document(some, filler, places, size)
    return Documents(tokens, answers, of_text, distances)


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
    some: list[Needle], filler: Int32[np.ndarray, " length"], places: list[int], size: int
) -> tuple[Int32[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
    """Tokens; for each place, whether the next token is of the answer, and whether of the text.

    Args:
        some: the needle that is asked for, and others.
        places: where the statement of each begins.
    """
    question = some[0].question
    tokens, of_text = np.zeros(size, np.int32), np.ones(size, bool)
    for one, place in zip(some, places, strict=True):
        tokens[place : place + len(one.statement)] = one.statement
        of_text[place : place + len(one.statement)] = False
    tokens[size - len(question) :], of_text[size - len(question) :] = question, False
    tokens[of_text] = filler[: of_text.sum()]
    answers = np.append(np.zeros(size - len(question), bool), some[0].answer)
    return tokens, np.append(answers[1:], False), np.append(of_text[1:], False)


def batch(documents: Documents, segment_len: int, text_weight: float = 0.0) -> Batch:
    """Model input in segments: target the next token, weight 1 where it tells the answer.

    Args:
        text_weight: where it is a token of the text; elsewhere the weight is 0.

    Raises:
        ValueError: segment_len < 1.
    """
    targets = np.roll(documents.tokens, -1, axis=1)
    weights = documents.answers + np.float32(text_weight) * documents.text
    return segment(documents.tokens, targets, weights.astype(np.float32), segment_len)


def lookup_accuracy(window: int, distance: int, chance: float) -> float:
    """Expected accuracy by exact look-up in the last `window` segments, and else by chance.

    Raises:
        ValueError: a negative window, or a distance below 1.
    """
    require_at_least("window", window, 0)
    require_at_least("distance", distance, 1)
    return 1.0 if distance <= window else chance
