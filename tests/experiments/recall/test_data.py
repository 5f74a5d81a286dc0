"""The recall task against a hand-written document, and what must hold of every one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.recall import data as recall
from experiments.recall.data import Sizes
from inf_former_jax.data.text import SPLITS

SMALL = Sizes(num_keys=6, num_values=3, num_noise=2, pairs_per_segment=2, questions=3, segments=3)
# The first training document of seed 0, in segments of 7. Keys 0..5, values 6..8, noise 9 and 10.
GOLDEN = [[9, 1, 8, 4, 6, 9, 9], [2, 6, 10, 9, 10, 5, 7], [4, 6, 1, 8, 5, 7, 10]]


@st.composite
def sizes(draw):
    """(config, segment_len) of any task that fits."""
    segments, pairs = draw(st.integers(2, 7)), draw(st.integers(1, 4))
    total = pairs * (segments - 1)
    questions = draw(st.integers(1, total))
    cfg = Sizes(
        num_keys=total + draw(st.integers(0, 5)),
        num_values=draw(st.integers(2, 6)),
        num_noise=draw(st.integers(1, 3)),
        pairs_per_segment=pairs,
        questions=questions,
        segments=segments,
    )
    return cfg, 2 * max(pairs, questions) + draw(st.integers(0, 5))


def slow_pairs(cfg, document):
    """key → (value, segment) of every pair that the context [W-1, T] gives, each key once."""
    found = {}
    for number, tokens in enumerate(document):
        tokens = tokens.tolist()
        here = [i for i, token in enumerate(tokens) if token < cfg.num_keys]
        assert len(here) == cfg.pairs_per_segment
        for i in here:
            assert tokens[i] not in found
            found[tokens[i]] = (tokens[i + 1], number)
        values = {
            i for i, t in enumerate(tokens) if cfg.num_keys <= t < cfg.num_keys + cfg.num_values
        }
        assert values == {i + 1 for i in here}
    return found


@given(sizes(), st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 2**40))
def test_every_question_has_one_answer_of_its_age(of, seed, split, index):
    """What is asked was given once, with that value, so long ago; nothing else is asked."""
    cfg, length = of
    documents = recall.generate(seed, split, [index], cfg, length)
    made = recall.batch(documents, length)
    assert (
        made.tokens.shape == made.targets.shape == made.weights.shape == (1, cfg.segments, length)
    )
    assert made.tokens.min() >= 0 and made.tokens.max() < cfg.num_tokens
    assert made.valid is None and made.resets.tolist() == [[True] + [False] * (cfg.segments - 1)]
    pairs = slow_pairs(cfg, made.tokens[0, :-1])
    ages = documents.ages.reshape(cfg.segments, length)
    asked = np.argwhere(made.weights[0] > 0)
    assert asked.tolist() == [[cfg.segments - 1, 2 * i] for i in range(cfg.questions)]
    assert made.weights.sum() == cfg.questions
    keys = made.tokens[0, -1, : 2 * cfg.questions : 2].tolist()
    assert len(set(keys)) == cfg.questions
    for i, key in enumerate(keys):
        value, given_in = pairs[key]
        assert made.targets[0, -1, 2 * i] == made.tokens[0, -1, 2 * i + 1] == value
        assert ages[-1, 2 * i] == cfg.segments - 1 - given_in >= 1
    assert np.count_nonzero(ages) == cfg.questions
    noise = made.tokens[0, -1, 2 * cfg.questions :]
    assert (noise >= cfg.num_keys + cfg.num_values).all()


def test_a_document_by_hand():
    """The same on every machine; keys 0..5, values 6..8, noise 9 and 10, three segments of 7."""
    tokens, ages = recall.generate(0, "train", [0], SMALL, 7)
    assert tokens.reshape(3, 7).tolist() == GOLDEN
    assert ages.reshape(3, 7).tolist() == [[0] * 7, [0] * 7, [2, 0, 2, 0, 1, 0, 0]]


def test_targets_and_weights_of_a_document_by_hand():
    """4 → 7 was given two segments ago, 0 → 6 one segment ago."""
    tokens = np.array([[9, 4, 7, 9, 0, 6, 9, 9, 0, 6, 4, 7]], np.int32)
    ages = np.array([[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0]], np.int32)
    made = recall.batch(recall.Documents(tokens, ages), 4)
    assert made.tokens.tolist() == [[[9, 4, 7, 9], [0, 6, 9, 9], [0, 6, 4, 7]]]
    assert made.weights.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]]
    assert made.targets[0, 2, [0, 2]].tolist() == [6, 7]


def test_a_document_depends_on_its_own_index_only():
    made = recall.generate(1, "valid", [4, 0, 9], SMALL, 9)
    for row, index in enumerate([4, 0, 9]):
        alone = recall.generate(1, "valid", np.array([index]), SMALL, 9)
        np.testing.assert_array_equal(made.tokens[row], alone.tokens[0])
        np.testing.assert_array_equal(made.ages[row], alone.ages[0])


def test_seeds_splits_and_indices_are_different_streams():
    places = [(seed, split) for seed in (0, 1, 2**32) for split in SPLITS]
    rows = [recall.generate(*place, range(3), SMALL, 40).tokens for place in places]
    assert len({row.tobytes() for row in np.concatenate(rows)}) == 3 * len(places)


def test_ages_values_keys_and_places_are_uniform():
    """Counts over 3,000 documents within five standard deviations of equal shares."""
    cfg = Sizes(num_keys=9, num_values=4, num_noise=3, pairs_per_segment=2, questions=2, segments=4)
    documents = recall.generate(3, "train", range(3000), cfg, 6)
    tokens = documents.tokens.reshape(3000, 4, 6)
    context = tokens[:, :3]
    counts = {
        "ages": np.bincount(documents.ages[documents.ages > 0], minlength=4)[1:],
        "keys": np.bincount(context[context < 9], minlength=9),
        "asked": np.bincount(tokens[:, 3, [0, 2]].ravel(), minlength=9),
        "values": np.bincount(context[(context >= 9) & (context < 13)] - 9),
        "noise": np.bincount(tokens[tokens >= 13] - 13),
        # Two pairs in six places: (0,2) (0,3) (0,4) (1,3) (1,4) (2,4), all as often.
        "arrangements": np.unique(np.packbits(context < 9, axis=2), return_counts=True)[1],
    }
    assert len(counts["arrangements"]) == 6
    for name, found in counts.items():
        share = found.sum() / len(found)
        assert abs(found - share).max() < 5 * share**0.5, (name, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_keys": 3},
            r"^num_keys: found 3, accepted: at least 4, pairs_per_segment 2 in each segment",
        ),
        ({"questions": 5}, r"^questions: found 5, accepted: at most 4, "),
        ({"num_values": 1}, r"^num_values: found 1, accepted: a whole number ≥ 2$"),
        ({"segments": 1}, r"^segments: found 1, accepted: a whole number ≥ 2$"),
        ({"num_noise": 0}, r"^num_noise: found 0, accepted: a whole number ≥ 1$"),
        ({"pairs_per_segment": 0}, r"^pairs_per_segment: found 0, accepted: a whole number ≥ 1$"),
        ({"questions": 0}, r"^questions: found 0, accepted: a whole number ≥ 1$"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "dev", [0], SMALL, 8), r"^split: found 'dev', accepted: train, valid, test$"),
        ((-1, "test", [0], SMALL, 8), r"^seed: found -1, accepted: 0 or more$"),
        ((0, "test", [-2], SMALL, 8), r"^index: found -2, accepted: 0 or more$"),
        (
            (0, "test", [0], SMALL, 5),
            r"^questions: found 3, accepted: at most 2, .*segments of 5$",
        ),
        (
            (0, "test", [0], SMALL, 3),
            r"^pairs_per_segment: found 2, accepted: at most 1, .*of 3$",
        ),
    ],
)
def test_generate_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        recall.generate(*arguments)


def test_look_up_by_hand():
    """Right within the window, one value in three beyond it; ages 1 and 2 are asked alike often."""
    assert recall.chance(SMALL) == 1 / 3
    assert [recall.lookup_accuracy(SMALL, 1, age) for age in SMALL.ages] == [1, 1 / 3]
    assert recall.lookup_accuracy(SMALL, 1) == pytest.approx(2 / 3)
    assert recall.lookup_accuracy(SMALL, 0) == pytest.approx(1 / 3)
    assert recall.lookup_accuracy(SMALL, 9) == 1
    with pytest.raises(ValueError, match=r"^window: found -1, accepted: 0 or more$"):
        recall.lookup_accuracy(SMALL, -1)
    with pytest.raises(ValueError, match=r"^age: found 3, accepted: 1\.\.2$"):
        recall.lookup_accuracy(SMALL, 1, 3)


def test_counting_by_hand():
    """Values 7 7 6 8, asked 7 6: both right; 6 6 7 7, asked 7 7: neither, by the smaller id."""
    tokens = [[4, 7, 1, 7, 2, 6, 0, 8, 4, 7, 2, 6], [4, 6, 1, 6, 2, 7, 0, 7, 0, 7, 2, 7]]
    ages = [[0] * 8 + [2, 0, 1, 0], [0] * 8 + [1, 0, 1, 0]]
    documents = recall.Documents(np.array(tokens, np.int32), np.array(ages, np.int32))
    cfg = dataclasses.replace(SMALL, questions=2)
    assert recall.counting_accuracy(cfg, documents, 4) == 2 / 4
    with pytest.raises(
        ValueError, match=r"^documents: found 12 tokens, accepted: 3 segments of 5 t"
    ):
        recall.counting_accuracy(cfg, documents, 5)
