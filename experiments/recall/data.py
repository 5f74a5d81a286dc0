"""Associative recall: key–value pairs are given early and asked for late (a probe of memory).

A document has W segments of T tokens. Segments 0..W-2, the context, hold pairs, a key followed by
its value, at random places among noise; no key is given twice. The last segment asks: an asked key
is followed by its value, so that a reader is teacher-forced. The age of a question is the number of
segments between it and its pair. Unlike sorting it needs single facts, not the whole sequence, and
its accuracy can be told by age.

Token ids: keys first, then values, then noise.

Dimension letters: B rows, W segments of T tokens, S = W T tokens of a document, A = W - 1 ages.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Integer

from experiments.run.examples import generators
from inf_former_jax.data.batches import Batch, segment
from inf_former_jax.fields import Checked, Count, Range
from inf_former_jax.require import require, require_at_least


@dataclasses.dataclass(frozen=True)
class Sizes(Checked):
    """Sizes of the task.

    Raises:
        ValueError: on construction, for a combination that no document can have.
    """

    num_keys: Count = 8
    """Different keys; at least as many as a document has pairs."""
    num_values: Annotated[int, Range(2)] = 8
    """Different values, each equally likely for every key: chance is 1 / num_values."""
    num_noise: Count = 1
    """Different noise tokens between the pairs."""
    pairs_per_segment: Count = 1
    """Pairs in each segment but the last."""
    questions: Count = 7
    """Pairs that the last segment asks for, all different, every age equally likely."""
    segments: Annotated[int, Range(2)] = 8
    """W, segments of a document, the one with the questions included."""

    def __post_init__(self):
        super().__post_init__()
        pairs = f"{self.num_pairs}, pairs_per_segment {self.pairs_per_segment} in each segment but "
        accepted = f"at least {pairs}the last, since no key is given twice"
        require(self.num_keys >= self.num_pairs, "num_keys", self.num_keys, accepted)
        accepted = f"at most {pairs}the last, since no pair is asked for twice"
        require(self.questions <= self.num_pairs, "questions", self.questions, accepted)

    @property
    def num_pairs(self) -> int:
        """Pairs of a document."""
        return self.pairs_per_segment * (self.segments - 1)

    @property
    def num_tokens(self) -> int:
        """Size of the model's vocabulary."""
        return self.num_keys + self.num_values + self.num_noise

    @property
    def ages(self) -> range:
        """1 … W-1, the ages that questions have."""
        return range(1, self.segments)


class Documents(NamedTuple):
    """Documents and what they ask for."""

    tokens: Int32[np.ndarray, "B S"]
    ages: Int32[np.ndarray, "B S"]  # at an asked key the question's age, elsewhere 0


def check_fits(cfg: Sizes, segment_len: int) -> None:
    """Raise ValueError naming the option unless a segment has room for its pairs and questions."""
    require_at_least("segment_len", segment_len, 2)
    room = segment_len // 2
    for name in ("pairs_per_segment", "questions"):
        found, accepted = getattr(cfg, name), f"at most {room}, with segments of {segment_len}"
        require(found <= room, name, found, accepted)


def generate(
    seed: int,
    split: str,
    indices: Sequence[int] | Integer[np.ndarray, " B"],
    cfg: Sizes,
    segment_len: int,
) -> Documents:
    """Make the documents `indices` of a split: tokens and ages [B, S].

    A document depends on (seed, split, index) and the sizes only, so that any host makes any one.

    Raises:
        ValueError: an unknown split, a negative seed or index, sizes that do not fit segment_len.
    """
    check_fits(cfg, segment_len)
    tokens, ages = np.zeros((2, len(indices), cfg.segments * segment_len), np.int32)
    for row, random in enumerate(generators(seed, split, indices)):
        tokens[row], ages[row] = _document(random, cfg, segment_len)
    return Documents(tokens, ages)


def _document(
    random: np.random.Generator, cfg: Sizes, segment_len: int
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """Tokens and ages of one document."""
    noise = cfg.num_keys + cfg.num_values
    tokens = random.integers(noise, cfg.num_tokens, size=(cfg.segments, segment_len))
    ages = np.zeros_like(tokens)
    keys = random.permutation(cfg.num_keys)[: cfg.num_pairs]
    values = random.integers(cfg.num_keys, noise, size=cfg.num_pairs)
    segments = np.arange(cfg.num_pairs) // cfg.pairs_per_segment  # of each pair
    places = _places(random, cfg, segment_len).ravel()
    tokens[segments, places], tokens[segments, places + 1] = keys, values
    asked = random.permutation(cfg.num_pairs)[: cfg.questions]
    tokens[-1, : 2 * cfg.questions : 2] = keys[asked]
    tokens[-1, 1 : 2 * cfg.questions : 2] = values[asked]
    ages[-1, : 2 * cfg.questions : 2] = cfg.segments - 1 - segments[asked]
    return tokens.ravel(), ages.ravel()


def _places(
    random: np.random.Generator, cfg: Sizes, segment_len: int
) -> Int[np.ndarray, "A pairs"]:
    """Where the pairs of each segment of the context begin; every arrangement is equally likely."""
    pairs = cfg.pairs_per_segment
    # Places are drawn as if a pair took one token. Then each pair moves the later ones by a place.
    order = random.random((cfg.segments - 1, segment_len - pairs)).argsort(axis=1, kind="stable")
    return np.sort(order[:, :pairs], axis=1) + np.arange(pairs)


def batch(documents: Documents, segment_len: int) -> Batch:
    """Model input in segments: target the next token, weight 1 at asked keys, 0 elsewhere.

    Raises:
        ValueError: arrays of different shapes, or segment_len < 1.
    """
    targets = np.roll(documents.tokens, -1, axis=1)
    weights = (documents.ages > 0).astype(np.float32)
    return segment(documents.tokens, targets, weights, segment_len)


def chance(cfg: Sizes) -> float:
    """Accuracy of a uniform guess among the values."""
    return 1 / cfg.num_values


def lookup_accuracy(cfg: Sizes, window: int, age: int | None = None) -> float:
    """Expected accuracy of exact look-up in the last `window` segments, chance beyond them.

    Args:
        age: of this age only; None = of all questions.

    Raises:
        ValueError: a negative window, or an age that no question has.
    """
    require_at_least("window", window, 0)
    if age is None:
        return sum(lookup_accuracy(cfg, window, one) for one in cfg.ages) / len(cfg.ages)
    require(age in cfg.ages, "age", age, f"1..{cfg.segments - 1}")
    return 1.0 if age <= window else chance(cfg)


def counting_accuracy(cfg: Sizes, documents: Documents, segment_len: int) -> float:
    """Accuracy, in [0, 1], of a reader that counts the values but binds none to its key.

    At each question it predicts the value that the document has given most often, the answers so
    far deducted; ties go to the smaller id. Above this a model has associated, not counted.

    Raises:
        ValueError: documents that cannot be cut into `cfg.segments` segments of segment_len.
    """
    rows, size = documents.tokens.shape
    accepted = f"{cfg.segments} segments of {segment_len} tokens"
    require(size == cfg.segments * segment_len, "documents", f"{size} tokens", accepted)
    values = documents.tokens - cfg.num_keys
    given = values[:, :-segment_len, None] == np.arange(cfg.num_values)
    left, every, hits = given.sum(axis=1), np.arange(rows), 0
    for i in range(0, 2 * cfg.questions, 2):
        right = values[:, size - segment_len + i + 1]
        hits += np.count_nonzero(left.argmax(axis=1) == right)
        left[every, right] -= 1
    return hits / (rows * cfg.questions)
