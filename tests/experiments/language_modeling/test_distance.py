"""Words and how far back they last were: a document by hand, and sums against a plain loop."""

import collections
import itertools

import numpy as np
import pytest

from experiments.language_modeling.distance import (
    CLASSES,
    WORDS,
    ByDistance,
    classes,
    index,
    texts_of,
    words_of,
)
from experiments.run.gains import gain
from inf_former_jax.data.splits import TokenizedSplit


def test_words_of_a_document_by_hand():
    """Pieces of a word belong together, case does not count, and marks end a word."""
    pieces = ["Em", "ma", " met", " emma", ",", " and", " E", "MMA", "'s", " met", "\n", "x1"]
    words = words_of(pieces)
    assert words.names == ["emma", "met", "and", "s", "x1"]
    assert words.word.tolist() == [0, 0, 1, 0, -1, 2, 0, 0, 3, 1, -1, 4]
    assert words.back.tolist() == [0, 0, 0, 3, -1, 0, 3, 3, 0, 7, -1, 0]


@pytest.mark.parametrize(
    ("pieces", "names"),
    [
        ([], []),
        (["...", " "], []),
        (["Emma, ", "dear"], ["emma", "dear"]),
        (["Emma,", "dear"], ["emma", "dear"]),
        (["caf", "é", "", "s"], ["cafés"]),
        ([" “", "", "Em", "ma", "”", ""], ["emma"]),
        (["a\ufffd", "b"], ["a", "b"]),
    ],
)
def test_what_ends_a_word(pieces, names):
    assert words_of(pieces).names == names


def test_parts_of_a_character_are_decoded_together():
    """By bytes, of which two or three make a letter or a quotation mark."""
    text = "“Emma” said Emma—Émile’s é"
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    known = [bytes([i]).decode(errors="replace") for i in range(256)]

    def decode(ids):
        return bytes(ids.tolist()).decode(errors="replace")

    pieces = texts_of(ids, known, decode)
    assert "".join(pieces) == text and len(pieces) == len(ids)
    assert words_of(pieces).names == ["emma", "said", "émile", "s", "é"]


def test_classes_of_distances():
    """A word one window back is still in the window; one never seen, and what is no word, apart."""
    back = np.array([-1, 0, 1, 4, 5, 16, 17, 64, 65, 256, 257, 10**6])
    assert classes(back, 4).tolist() == [-1, 5, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


class Letters:
    """A token a letter, of which 26 is a space and 27 the end."""

    vocab_size = 28

    def decode(self, ids):
        return "".join("abcdefghijklmnopqrstuvwxyz "[i] for i in ids.tolist() if i < 27)


def test_sums_are_those_of_a_loop_over_words():
    """Two documents of random words of letters; half of them are in both."""
    rng, tokens, starts = np.random.default_rng(0), [], [0]
    for document in range(2):
        for word in rng.integers(0, 12, 60) + 6 * document:
            tokens += [word, word, 26]
        starts.append(len(tokens) + 1)
        tokens.append(27)
    split = TokenizedSplit(
        np.array(tokens, np.uint16), np.array(starts), ("a", "b"), np.ones(2, int), np.ones(2, int)
    )
    found, losses = ByDistance(index(split, Letters(), 6)), rng.random(len(tokens))
    expected = collections.Counter()
    for document, (first, end) in enumerate(itertools.pairwise(starts)):
        last = {}
        for i in range(end - first):
            token = tokens[first + i]
            if token < 26 and i % 3 == 0:
                back = i - last[token] if token in last else None
                last[token] = i
            if i == 0 or token >= 26:
                continue
            ends = [6, 24, 96, 384]
            kind = 5 if back is None else sum(back > end for end in ends)
            for which in (0, 1) if (token < 6 or token >= 12) else (0,):
                expected[which, document, kind, "tokens"] += 1
                expected[which, document, kind, "nats"] += losses[first + i]
        positions = np.arange(end - first - 1)
        for piece in (positions[:50], positions[50:]):
            found.add(np.full(len(piece), document), piece, losses[first + piece + 1])
    result = found.result()
    for which, name in enumerate(WORDS):
        for document, kind in itertools.product(range(2), range(len(CLASSES))):
            for unit in ("tokens", "nats"):
                value = result[name][unit][document][kind]
                np.testing.assert_allclose(value, expected[which, document, kind, unit])
    assert expected[1, 0, 0, "tokens"] > 5 and expected[0, 0, 2, "tokens"] > 5


def test_gain_is_a_ratio_of_sums_with_its_error():
    """Equal gains a token have no error; else it is that of a mean, if documents are alike."""
    tokens, rng = np.array([5, 10, 20, 0]), np.random.default_rng(0)
    reference = np.array([7.0, 8.0, 30.0, 0.0])
    same = gain(reference - 0.25 * tokens, reference, tokens)
    np.testing.assert_allclose(same[:2], [0.25, 0], atol=1e-12)
    assert same.tokens == 35
    each = rng.normal(size=50)
    found = gain(-10 * each, np.zeros(50), np.full(50, 10))
    np.testing.assert_allclose(found[:2], [each.mean(), each.std(ddof=1) / 50**0.5])
    assert np.isnan(gain(reference[:1], reference[:1], tokens[:1]).error)
    assert gain(np.zeros(2), np.zeros(2), np.zeros(2, int)).tokens == 0
