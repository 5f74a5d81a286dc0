"""The passkey task against a hand-written document, and what must hold of every one."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.passkey import data as passkey
from experiments.passkey import needles
from experiments.passkey.data import Sizes
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.text import SPLITS
from inf_former_jax.data.tokens import Bytes

SMALL = Sizes(distances=(1, 3), digits=2)
ASKED = " What is the pass key? The pass key is"
T = 44  # 42 bytes are the question's, 34 the statement's

# The first training document of seed 0 from TEXT.
GOLDEN = [
    "EFGHIJKLMN The pass key is 0 5. Remember it.",
    "OPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF",
    "GHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWX",
    "YZ What is the pass key? The pass key is 0 5",
]


def split_of(*sizes):
    """Documents of so many capital letters, alphabetic and counted on through all of them."""
    tokens, starts = [], [0]
    for size in sizes:
        tokens += [65 + (len(tokens) + i) % 26 for i in range(size)] + [256]
        starts.append(len(tokens))
    count = np.array(sizes, np.int64)
    names = tuple(map(str, range(len(sizes))))
    return TokenizedSplit(
        np.array(tokens, np.uint16), np.array(starts, np.int64), names, count, count
    )


TEXT = split_of(30, 250, 7, 200)


def made(indices, *, cfg=SMALL, seed=0, split="train", length=T, text=TEXT, distance=None):
    return passkey.generate(seed, split, indices, cfg, length, text, Bytes(), distance)


def said(documents, row=0):
    return Bytes().decode(documents.tokens[row])


@st.composite
def sizes(draw):
    """(distances, digits, segment_len) of any task that fits."""
    distances = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True))
    digits = draw(st.integers(1, 6))
    return tuple(distances), digits, 38 + 2 * digits + draw(st.integers(0, 20))


@given(sizes(), st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 2**40))
def test_every_document_states_its_key_and_asks_for_it(of, seed, split, index):
    """Once, whole in the segment `distance` before the question's; the rest is one stretch."""
    distances, digits, length = of
    cfg = Sizes(distances, digits)
    document = made([index], cfg=cfg, seed=seed, split=split, length=length, text=split_of(500))
    text, distance = said(document), int(document.distances[0])
    key = text[-2 * cfg.digits :]
    statement, question = f" The pass key is{key}. Remember it.", f"{ASKED}{key}"
    assert len(text) == (max(cfg.distances) + 1) * length and distance in cfg.distances
    assert text.endswith(question) and text.count(statement) == 1
    begin = text.index(statement)
    last = len(text) // length - 1
    assert begin // length == (begin + len(statement) - 1) // length == last - distance
    filler = text.replace(statement, "").removesuffix(question)
    steps = np.diff(np.frombuffer(filler.encode(), np.uint8).astype(int)) % 26
    assert (steps == 1).all()
    batch = passkey.batch(document, length, 0.25)
    weights, targets = batch.weights.ravel(), batch.targets.ravel()
    answer = weights == 1
    assert bytes(targets[answer].astype(np.uint8)).decode() == key[1::2]
    assert answer.nonzero()[0].tolist() == list(range(len(text) - len(key), len(text), 2))
    of_text = [chr(target) for target in targets[weights == 0.25]]
    assert of_text == list(filler)[0 if begin == 0 else 1 :]
    assert set(weights) <= {0, 0.25, 1}


def test_a_document_by_hand():
    """The same on every machine."""
    document = made([0])
    assert document.distances.tolist() == [3]
    assert [said(document)[begin : begin + T] for begin in range(0, 4 * T, T)] == GOLDEN
    assert document.answers[0].nonzero()[0].tolist() == [4 * T - 4, 4 * T - 2]


def test_targets_and_weights_of_a_document_by_hand():
    """Two tokens of text, a digit announced by one token of ours and answered by the next."""
    tokens = np.array([[65, 66, 63, 55]], np.int32)
    answers = np.array([[False, False, True, False]])
    text = np.array([[True, False, False, False]])
    document = passkey.Documents(tokens, answers, text, np.array([1], np.int32))
    batch = passkey.batch(document, 2, 0.5)
    assert batch.tokens.tolist() == [[[65, 66], [63, 55]]]
    assert batch.targets[0].tolist() == [[66, 63], [55, 65]]
    assert batch.weights.tolist() == [[[0.5, 0], [1, 0]]]
    assert passkey.batch(document, 2).weights.tolist() == [[[0, 0], [1, 0]]]
    assert batch.resets.tolist() == [[True, False]] and batch.valid is None


def test_a_document_depends_on_its_own_index_only():
    together = made([4, 0, 9])
    for row, index in enumerate([4, 0, 9]):
        alone = made(np.array([index]))
        for leaf, of_one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(leaf[row], of_one[0])


def test_an_index_has_its_key_and_text_at_every_distance():
    """What is drawn with one of them is what is made at it when asked for."""
    drawn = made(range(6))
    assert set(drawn.distances.tolist()) == {1, 3}
    at = {distance: made(range(6), distance=distance) for distance in (1, 2, 3)}
    for row, distance in enumerate(drawn.distances.tolist()):
        np.testing.assert_array_equal(drawn.tokens[row], at[distance].tokens[row])
        texts = [said(documents, row) for documents in at.values()]
        places = [text.index(" The pass key is") for text in texts]
        assert [a - b for a, b in itertools.pairwise(places)] == [T, T]
        without = {text[:i] + text[i + 34 :] for text, i in zip(texts, places, strict=True)}
        assert len(without) == 1
    assert all((of.distances == distance).all() for distance, of in at.items())


def test_seeds_splits_and_indices_are_different_streams():
    places = [(seed, split) for seed in (0, 1, 2**32) for split in SPLITS]
    rows = [made(range(3), seed=seed, split=split).tokens for seed, split in places]
    assert len({row.tobytes() for row in np.concatenate(rows)}) == 3 * len(places)


def test_distances_digits_offsets_and_stretches_are_uniform():
    """Counts over 3,000 documents within five standard deviations of equal shares."""
    text = split_of(30, 102, 7, 104)  # of 100 tokens: 3 stretches begin in one, 5 in another
    cfg = dataclasses.replace(SMALL, distances=(1, 2, 3))
    documents = made(range(3000), cfg=cfg, text=text)
    texts = [said(documents, row) for row in range(3000)]
    keys = np.array([[int(text[-1]), int(text[-3])] for text in texts])
    begins = np.array([text.index(" The pass key is") for text in texts])
    first = [text[0] if begin else text[34] for text, begin in zip(texts, begins, strict=True)]
    counts = {
        "distances": np.bincount(documents.distances)[1:],
        "last digit": np.bincount(keys[:, 0]),
        "first digit": np.bincount(keys[:, 1]),
        "offsets": np.bincount(begins % T),
        "stretches": np.unique(first, return_counts=True)[1],
    }
    assert [len(found) for found in counts.values()] == [3, 10, 10, T - 34 + 1, 8]
    for name, found in counts.items():
        share = found.sum() / len(found)
        assert abs(found - share).max() < 5 * share**0.5, (name, found)


class Pieces(Bytes):
    """Bytes, whose digits are encoded as the table says."""

    def __init__(self, **table):
        self._table = {name.replace("_", " "): ids for name, ids in table.items()}

    def encode(self, text):
        found = self._table.get(text)
        return super().encode(text) if found is None else np.array(found, np.int32)


def test_digits_of_other_tokenisers():
    """One token a digit, or the telling one first; refused where none tells, or two do."""
    whole = Pieces(**{f"_{digit}": [300 + digit] for digit in range(10)})
    words = needles.digits_of(whole)
    assert words.ids.tolist() == [[300 + digit] for digit in range(10)] and words.telling == 0
    first = Pieces(**{f"_{digit}": [300 + digit, 7] for digit in range(10)})
    assert needles.digits_of(first).telling == 0
    assert needles.digits_of(Bytes()).telling == 1
    document = passkey.generate(0, "test", [0], SMALL, T, TEXT, first)
    answers = document.answers[0].nonzero()[0]
    assert answers.tolist() == [4 * T - 5, 4 * T - 3]
    assert (document.tokens[0, answers + 1] >= 300).all()
    for table in ({"_3": [9, 9, 9]}, {"_3": [9, 51]}, {"_3": [32, 52]}):
        with pytest.raises(ValueError, match=r"^tokenizer: .* accepted: digits that differ in"):
            needles.digits_of(Pieces(**table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": ()}, r"^distances: found none, accepted: one or more$"),
        (
            {"distances": (2, 2)},
            r"^distances: found \(2, 2\), accepted: all different",
        ),
        ({"distances": (3, 0)}, r"^distances: found 0, accepted: a whole number ≥ 1$"),
        ({"digits": 0}, r"^digits: found 0, accepted: a whole number ≥ 1$"),
        ({"others": 3}, r"^others: found 3, accepted: at most 2, one in each other segment"),
        (
            {"distances": (99,), "others": 61},
            r"^others: found 61, accepted: at most 60, for whom there are names and values$",
        ),
        (
            {"distances": (99,), "digits": 5, "kind": "fact", "others": 30},
            r"^others: found 30, accepted: at most 29, for whom there are names and values$",
        ),
        ({"kind": "fact"}, r"^digits: found 2 with kind fact, accepted: only its default 5 there$"),
        ({"text_weight": -0.5}, r"^text_weight: found -0\.5, accepted: a number ≥ 0$"),
        ({"text_weight": float("nan")}, r"^text_weight: found nan, accepted: a number ≥ 0$"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"^split: found 'dev', accepted: train, valid, test$"),
        ({"seed": -1}, r"^seed: found -1, accepted: 0 or more$"),
        ({"indices": [-2]}, r"^index: found -2, accepted: 0 or more$"),
        ({"distance": 4}, r"^distance: found 4, accepted: 1\.\.3$"),
        ({"distance": 0}, r"^distance: found 0, accepted: 1\.\.3$"),
        (
            {"length": 41},
            r"^segment_len: found 41, accepted: 42 or more: .* 34 tokens, the question 42$",
        ),
        (
            {"text": split_of(99, 20)},
            r"^text: found 99 tokens in the longest of 2 documents, accepted: 100 or more",
        ),
    ],
)
def test_generate_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**{"indices": [0], **arguments})


def test_look_up_by_hand():
    assert [passkey.lookup_accuracy(2, distance, 0.1) for distance in (1, 2, 3)] == [1, 1, 0.1]
    with pytest.raises(ValueError, match=r"^window: found -1, accepted: 0 or more$"):
        passkey.lookup_accuracy(-1, 1, 0.1)
    with pytest.raises(ValueError, match=r"^distance: found 0, accepted: 1 or more$"):
        passkey.lookup_accuracy(1, 0, 0.1)
