"""Keys with names and facts about people: stated among others of their kind, and asked for."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.passkey import needles
from experiments.passkey.config import PRESETS
from experiments.passkey.data import Sizes, batch, generate
from experiments.passkey.task import baselines
from experiments.questions.phrases import RELATIONS, worded
from inf_former_jax.data.text import SPLITS
from inf_former_jax.data.tokens import Bytes
from tests.experiments.passkey.test_data import split_of

T = 200
TEXT = split_of(3000)
KEY = re.compile(r" The pass key of (\w+ \w+) is((?: \d)+)\. Remember it\.")
ASKED = re.compile(r" What is the pass key of (\w+ \w+)\? The pass key of \1 is((?: \d)+)$")


def made(index, cfg, seed=0, split="train", distance=None):
    document = generate(seed, split, [index], cfg, T, TEXT, Bytes(), distance)
    return document, Bytes().decode(document.tokens[0])


def answer_of(document):
    """The bytes that the model has to say."""
    made_of = batch(document, T, 0.5)
    return bytes(made_of.targets[made_of.weights == 1].astype(np.uint8)).decode()


numbers = st.integers(0, 2**40)


@given(st.integers(1, 3), numbers, st.sampled_from(SPLITS), numbers)
def test_a_key_among_keys(others, seed, split, index):
    """Each has a name, digits and a segment of its own; the one asked for is `distance` back."""
    cfg = Sizes(distances=(1, 4), digits=3, others=others)
    document, text = made(index, cfg, seed, split)
    found = list(KEY.finditer(text))
    names, keys = zip(*(match.groups() for match in found), strict=True)
    assert len(found) == len(set(names)) == others + 1
    places = [match.start() // T for match in found]
    assert places == [(match.end() - 1) // T for match in found]
    assert len(set(places)) == others + 1 and max(places) < cfg.segments - 1
    asked = ASKED.search(text)
    number = names.index(asked.group(1))
    assert keys[number] == asked.group(2) and answer_of(document) == asked.group(2)[1::2]
    assert places[number] == cfg.segments - 1 - document.distances[0]
    # The rest is one stretch of the text.
    filler = text[: asked.start()]
    for match in found:
        filler = filler.replace(match.group(), "")
    steps = np.diff(np.frombuffer(filler.encode(), np.uint8).astype(int)) % 26
    assert len(text) == cfg.segments * T and (steps == 1).all()
    assert (batch(document, T, 0.5).weights == 0.5).sum() >= len(filler) - 1


@given(st.integers(0, 3), numbers, st.sampled_from(SPLITS), numbers)
def test_a_fact_among_facts(others, seed, split, index):
    """Of one relation, about different people with different values; one of them is asked for."""
    cfg = Sizes(distances=(1, 4), kind="fact", others=others)
    document, text = made(index, cfg, seed, split)
    stated = {}
    for relation in RELATIONS.values():
        for value in relation.values:
            for wording in relation.statements:
                pattern = re.escape(worded(wording, "NAME", value)).replace("NAME", r"(\w+ \w+)")
                for match in re.finditer(f" {pattern}", text):
                    stated[match.group(1)] = value, match.start() // T, relation
    values, places, relations = zip(*stated.values(), strict=True)
    assert len(stated) == len(set(values)) == len(set(places)) == others + 1
    assert all(relation is relations[0] for relation in relations)
    asked = [
        (value, place)
        for name, (value, place, relation) in stated.items()
        for question in relation.questions
        if text.endswith(
            f" {worded(question, name, value)} {worded(relation.answer, name, value)} {value}"
        )
    ]
    assert asked == [(answer_of(document)[1:], cfg.segments - 1 - document.distances[0])]


@pytest.mark.parametrize("kind", ["key", "fact"])
def test_an_index_says_the_same_at_every_distance(kind):
    """Sentences, question and text: only places differ."""
    cfg = Sizes(distances=(1, 4), kind=kind, others=2)
    for index in range(5):
        texts = [made(index, cfg, distance=distance)[1] for distance in (1, 2, 3, 4)]
        endings = {text[-60:] for text in texts}
        letters = {"".join(sorted(text)) for text in texts}
        assert len(endings) == len(letters) == 1 and len(set(texts)) == 4
        drawn, text = made(index, cfg)
        assert text == texts[drawn.distances[0] - 1]


def test_the_longest_sentences_are_long_enough():
    """The door's bound holds for what is drawn: no document needs more."""
    random = np.random.default_rng(0)
    for kind, others in (("key", 0), ("key", 2), ("fact", 0), ("fact", 3)):
        bound = needles.longest(kind, 5, others, Bytes())
        for _ in range(300):
            for one in needles.drawn(random, kind, 5, others, Bytes()):
                assert len(one.statement) <= bound[0] and len(one.question) <= bound[1]


def test_short_segments_are_refused():
    with pytest.raises(ValueError, match=r"^segment_len: found 60, accepted: .* or more"):
        generate(0, "test", [0], Sizes(distances=(2,), kind="fact"), 60, TEXT, Bytes())


def test_baselines_by_hand():
    """A guess among all values of a relation; among the stated ones, if there are others."""
    task = Sizes(distances=(1, 3), kind="fact", others=1)
    found = baselines(dataclasses.replace(PRESETS["infinity-former"][1], task=task))
    share = sum(1 / len(relation.values) for relation in RELATIONS.values()) / len(RELATIONS)
    assert found["chance"] == pytest.approx([share] * 2)
    assert found["what is stated, of anybody"] == [0.5, 0.5]
    assert found["exact look-up, short-term window"] == pytest.approx([1, share])
