"""The questions task against a hand-written document, and what must hold of every one."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.dialogue.records import Turn
from experiments.questions import data as questions
from experiments.questions import phrases
from experiments.questions.data import Sizes
from experiments.questions.phrases import FILLER, FIRST, LAST, RELATIONS, SLOTS
from inf_former_jax.data.text import SPLITS

SMALL = Sizes(people=2, questions=3, sentences=8)

# The first training document of seed 0.
GOLDEN = (
    "Bruno Nowak was born in Denver. There were four chairs around the table. The instrument of "
    "Irene Hoffmann is the trumpet. The job of Bruno Nowak is that of a lawyer. Irene Hoffmann was "
    "born in Prague. In November the days grow noticeably shorter or longer. The instrument of "
    "Bruno Nowak is the clarinet. The job of Irene Hoffmann is that of a barber."
)
TURNS = (
    Turn(0, "Where was Bruno Nowak born?", 0),
    Turn(1, "Denver", 0),
    Turn(0, "What does Bruno Nowak do for a living?", 0),
    Turn(1, "lawyer", 0),
    Turn(0, "What is the instrument of Irene Hoffmann?", 0),
    Turn(1, "trumpet", 0),
)

RELATION_OF = {value: name for name, relation in RELATIONS.items() for value in relation.values}


def made(indices, *, cfg=SMALL, seed=0, split="train"):
    return questions.generate(seed, split, indices, cfg)


def sentences(document):
    """(where it begins, itself) of every sentence of the document."""
    (text,) = document.conversation.sections
    return [(match.start(), match[0]) for match in re.finditer(r"\S[^.]*\.", text)]


def tokens(text):
    return set(re.findall(r"\w+", text))


def stated(document):
    """(name, relation) → (value, where), by looking for names and values in each sentence."""
    facts = {}
    for begin, sentence in sentences(document):
        values = tokens(sentence) & RELATION_OF.keys()
        if not values:
            assert not tokens(sentence) & {*FIRST, *LAST}
            continue
        (value,) = values
        name = re.search(r"([A-Z]\w+) ([A-Z]\w+)(?= |\.)", sentence.replace(f"in {value}", ""))[0]
        assert set(name.split()[:1]) <= set(FIRST) and set(name.split()[1:]) <= set(LAST)
        assert (name, RELATION_OF[value]) not in facts
        facts[name, RELATION_OF[value]] = value, begin
    return facts


def asked(document):
    """The (name, relation) of each question, by its wording."""
    turns = document.conversation.turns
    found = []
    for question in turns[::2]:
        name = re.search(r"[A-Z]\w+ [A-Z]\w+", question.text.split(" ", 1)[1])[0]
        wording = question.text.replace(name, "{name}")
        (relation,) = [key for key, value in RELATIONS.items() if wording in value.questions]
        found.append((name, relation))
    return found


@st.composite
def sizes(draw):
    """What makes any task that fits, people in moderation."""
    relations = draw(st.lists(st.sampled_from(list(RELATIONS)), min_size=1, unique=True))
    people = draw(st.integers(2, 6))
    facts = people * len(relations)
    count = draw(st.integers(1, facts))
    return people, count, facts + draw(st.integers(0, 20)), tuple(relations)


@given(sizes(), st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 2**40))
def test_every_document_states_everything_once_and_its_answers_are_there(of, seed, split, index):
    """A reader that finds the sentence with the name and the relation answers every question."""
    cfg = Sizes(*of)
    (document,) = made([index], cfg=cfg, seed=seed, split=split)
    conversation, facts = document.conversation, stated(document)
    names = {name for name, _ in facts}
    assert len(sentences(document)) == cfg.sentences
    assert facts.keys() == set(itertools.product(names, cfg.relations))
    assert len(names) == len(set(" ".join(names).split())) / 2 == cfg.people
    assert len({value for value, _ in facts.values()}) == cfg.num_facts
    keys = asked(document)
    assert len(keys) == len(set(keys)) == cfg.questions
    assert list(zip(document.answers, document.facts, strict=True)) == [facts[key] for key in keys]
    assert tuple(turn.text for turn in conversation.turns[1::2]) == document.answers
    assert [turn.speaker for turn in conversation.turns] == [0, 1] * cfg.questions
    assert {turn.section for turn in conversation.turns} == {0}
    assert conversation.name == f"{split}-{index}" and conversation.title == ""
    assert conversation.saw == (False, True) and conversation.rating is None


def test_a_document_by_hand():
    """The same on every machine."""
    (document,) = made([0])
    assert document.conversation.sections == (GOLDEN,)
    assert document.conversation.turns == TURNS
    assert document.facts == (0, 122, 73)
    assert document.answers == ("Denver", "lawyer", "trumpet")


def test_a_document_depends_on_its_own_index_only():
    together = made([4, 0, 9])
    assert [made(np.array([index]))[0] for index in (4, 0, 9)] == together


def test_seeds_splits_and_indices_are_different_streams():
    places = [(seed, split) for seed in (0, 1, 2**32) for split in SPLITS]
    texts = [
        document.conversation.sections
        for seed, split in places
        for document in made(range(3), seed=seed, split=split)
    ]
    assert len(set(texts)) == 3 * len(places)


@pytest.fixture(scope="module")
def many():
    """2,000 documents of one relation and six sentences."""
    return made(range(2000), cfg=Sizes(2, 1, 6, ("instrument",)))


def even(found, kinds):
    """Whether `kinds` different things were found about equally often, within 5 deviations."""
    counts = collections.Counter(found)
    share = len(found) / kinds
    return len(counts) == kinds and all(
        abs(count - share) < 5 * share**0.5 for count in counts.values()
    )


def test_places_names_values_and_wordings_are_uniform(many):
    facts = [next(iter(stated(document).items())) for document in many]
    assert even([document.answers[0] for document in many], 30)
    assert even([key[0].split()[0] for key, _ in facts], len(FIRST))
    assert even([key[0].split()[1] for key, _ in facts], len(LAST))
    places, statements, fillers = [], [], []
    for document in many:
        at = dict(zip([begin for begin, _ in sentences(document)], range(6), strict=True))
        (name, _), (value, begin) = next(
            fact for fact in stated(document).items() if fact[1][1] == document.facts[0]
        )
        places.append(at[begin])
        sentence = dict(sentences(document))[begin]
        statements.append(sentence.replace(name, "{name}").replace(value, "{value}"))
        others = {begin for _, begin in stated(document).values()}
        fillers += [text for start, text in sentences(document) if start not in others]
    assert even(places, 6) and even(statements, 5)
    assert set(statements) == set(RELATIONS["instrument"].statements)
    turns = [document.conversation.turns[0].text for document in many]
    keys = [asked(document)[0][0] for document in many]
    wordings = [text.replace(key, "{name}") for text, key in zip(turns, keys, strict=True)]
    assert even(wordings, 3)
    # Every filler sentence is one of the list, with all its words about equally often.
    of_days = [text.split()[-1] for text in fillers if text.startswith("It had been raining since")]
    assert even(of_days, len(SLOTS["day"]))
    patterns = [re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(text)) for text in FILLER]
    kinds = [
        next(i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, text))
        for text in fillers
    ]
    assert even(kinds, len(FILLER))


def test_the_person_asked_for_is_no_matter_of_place(many):
    """To answer the first value stated, or the last, is to guess: right once in two people."""
    for end in (0, -1):
        values = [sorted(stated(one).values(), key=lambda fact: fact[1])[end][0] for one in many]
        hits = sum(value == one.answers[0] for value, one in zip(values, many, strict=True))
        expected = len(many) * questions.unbound_accuracy(Sizes(2, 1, 6, ("instrument",)))
        assert abs(hits - expected) < 5 * (expected / 2) ** 0.5


def test_all_facts_are_asked_for_alike():
    """By relation and by the order in which the document has them."""
    documents = made(range(1000), cfg=Sizes(2, 1, 6))
    assert even([asked(document)[0][1] for document in documents], 3)
    ranks = [
        sorted(begin for _, begin in stated(document).values()).index(document.facts[0])
        for document in documents
    ]
    assert even(ranks, 6)


def test_accuracies_by_hand():
    assert questions.chance(Sizes(4, 1, 30)) == pytest.approx((1 / 40 + 1 / 40 + 1 / 30) / 3)
    assert questions.chance(Sizes(4, 1, 30, ("instrument",))) == 1 / 30
    assert questions.unbound_accuracy(Sizes(4, 1, 30)) == 0.25
    assert questions.eliminating_accuracy(Sizes(4, 1, 30)) == 0.25
    two = Sizes(2, 2, 4, ("birthplace",))  # a guess, then what is left
    assert questions.eliminating_accuracy(two) == (1 / 2 + 1) / 2
    both = Sizes(2, 2, 4, ("birthplace", "instrument"))  # one of the three others is the same
    assert questions.eliminating_accuracy(both) == pytest.approx((1 / 2 + 2 / 3 / 2 + 1 / 3) / 2)


def test_words_name_one_thing_only():
    """No word is in two lists, in a filler sentence or in another value; slots are all filled."""
    lists = [FIRST, LAST, *(relation.values for relation in RELATIONS.values())]
    words = [word.lower() for one in lists for word in one]
    assert len(words) == len(set(words))
    assert not any(a in b for a, b in itertools.permutations([*RELATION_OF], 2))
    filler = " ".join([*FILLER, *itertools.chain(*SLOTS.values())]).lower()
    assert not tokens(filler) & set(words)
    wordings = [text for one in RELATIONS.values() for text in (*one.statements, *one.questions)]
    assert not tokens(" ".join(wordings).lower()) & set(words)
    assert set(re.findall(r"{(\w+)}", " ".join(FILLER))) == SLOTS.keys()
    assert all(text.count(".") == 1 and text.endswith(".") for text in FILLER)
    assert len(set(FILLER)) == len(FILLER) >= 60 and min(len(FIRST), len(LAST)) >= 60


@pytest.mark.parametrize("relation", phrases.RELATIONS.values(), ids=phrases.RELATIONS)
def test_wordings(relation):
    """Enough of them, all different, and each with the name and the value once."""
    assert len(set(relation.statements)) == len(relation.statements) >= 4
    assert len(set(relation.questions)) == len(relation.questions) >= 2
    for text in relation.statements:
        assert text.count("{name}") == text.count("{value}") == 1
        assert ("{a}" in text) == ("{a} {value}" in text)
    assert all(text.count("{name}") == 1 and "{value}" not in text for text in relation.questions)


def test_answers_begin_without_the_value():
    """Nor with its article, which would tell which values are possible."""
    for relation in RELATIONS.values():
        assert set(re.findall(r"{\w+}", relation.answer)) == {"{name}"}


def test_articles_fit():
    texts = " ".join(one.conversation.sections[0] for one in made(range(300)))
    assert "an architect" in texts and "a baker" in texts
    assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": 1}, r"^people: found 1, accepted: a whole number ≥ 2$"),
        (
            {"people": 31, "sentences": 999},
            r"^people: found 31, accepted: at most the 30 .* of birthplace, job, instrument$",
        ),
        ({"questions": 0}, r"^questions: found 0, accepted: a whole number ≥ 1$"),
        ({"questions": 7}, r"^questions: found 7, accepted: at most the 6 facts of"),
        ({"sentences": 5}, r"^sentences: found 5, accepted: 6 or more$"),
        ({"relations": ()}, r"^relations: found none, accepted: one or more"),
        ({"relations": ("job", "pet")}, r"^relations: found \('job', 'pet'\), accepted"),
        ({"relations": ("job", "job")}, r"^relations: found \('job', 'job'\), .* all different$"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_the_largest_sizes():
    """As many people as instruments; forty where none are stated."""
    assert len(made([0], cfg=Sizes(30, 90, 90))[0].facts) == 90
    assert len(stated(made([0], cfg=Sizes(40, 1, 40, ("job",)))[0])) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"^split: found 'dev', accepted: train, valid, test$"),
        ({"seed": -1}, r"^seed: found -1, accepted: 0 or more$"),
        ({"indices": [-2]}, r"^index: found -2, accepted: 0 or more$"),
    ],
)
def test_generate_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**{"indices": [0], **arguments})
