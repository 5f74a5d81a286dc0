"""Questions about a document: facts about people, each stated once, asked for in a conversation.

A document is a text of sentences. It states every relation of each of N people once, in one of
several wordings, at random places among sentences about nobody. Then a speaker who has not read it
asks for some of the facts, and a speaker who has read it answers in the bare words.

    … The wind shook the ladder all night. The birthplace of Marta Lindqvist is Porto. It had …
    Where was Marta Lindqvist born? — Porto

In a document a relation has N different values, one for each person. An answer therefore needs the
name: a reader who binds values to no name guesses one among N.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Integer

from experiments.dialogue.records import Conversation, Turn
from experiments.questions.phrases import (
    FILLER,
    RELATIONS,
    SLOTS,
    full_names,
    one_of,
    several,
    worded,
)
from experiments.run.examples import generators
from inf_former_jax.fields import Checked, Count, NonEmpty, Range
from inf_former_jax.require import require, require_at_least


@dataclasses.dataclass(frozen=True)
class Sizes(Checked):
    """Sizes of the task.

    Raises:
        ValueError: on construction, for a combination that no document can have.
    """

    people: Annotated[int, Range(2)] = 8
    """N, people of a document, with different first and different last names."""
    questions: Count = 8
    """Facts asked for, all different, every one equally likely."""
    sentences: Count = 128
    """Sentences of a document, the facts among them: its length."""
    relations: NonEmpty[str] = tuple(RELATIONS)
    """What is stated of everybody: names in `phrases.RELATIONS`."""

    def __post_init__(self):
        super().__post_init__()
        different = len(set(self.relations)) == len(self.relations) > 0
        known = set(self.relations) <= RELATIONS.keys()
        accepted = f"one or more of {', '.join(RELATIONS)}, all different"
        require(different and known, "relations", self.relations, accepted)
        values = min(len(RELATIONS[relation].values) for relation in self.relations)
        accepted = f"at most the {values} values of each of {', '.join(self.relations)}"
        require(self.people <= values, "people", self.people, accepted)
        accepted = f"at most the {self.num_facts} facts of a document, each asked for once"
        require(self.questions <= self.num_facts, "questions", self.questions, accepted)
        require_at_least("sentences", self.sentences, self.num_facts)

    @property
    def num_facts(self) -> int:
        """Facts of a document."""
        return self.people * len(self.relations)


class Questions(NamedTuple):
    """A document with its conversation, whose turns are questions and answers in alternation."""

    conversation: Conversation
    facts: tuple[int, ...]  # for each question, where in sections[0] its sentence begins
    answers: tuple[str, ...]


class _Fact(NamedTuple):
    relation: str
    name: str
    value: str


def generate(
    seed: int, split: str, indices: Sequence[int] | Integer[np.ndarray, " B"], cfg: Sizes
) -> list[Questions]:
    """The documents `indices` of a split, each with its questions.

    A document depends on (seed, split, index) and the sizes only, so that any host can make it.

    Raises:
        ValueError: an unknown split, or a negative seed or index.
    """
    return [
        _document(random, f"{split}-{index}", cfg)
        for index, random in zip(indices, generators(seed, split, indices), strict=True)
    ]


def _document(random: np.random.Generator, name: str, cfg: Sizes) -> Questions:
    facts = _facts(random, cfg)
    places = random.permutation(cfg.sentences)[: cfg.num_facts].tolist()
    sentences = _filler(random, cfg.sentences)
    for place, fact in zip(places, facts, strict=True):
        sentences[place] = _said(random, RELATIONS[fact.relation].statements, fact)
    begins = [0, *itertools.accumulate(len(sentence) + 1 for sentence in sentences)]
    asked = random.permutation(cfg.num_facts)[: cfg.questions].tolist()
    turns = []
    for number in asked:
        fact = facts[number]
        question = _said(random, RELATIONS[fact.relation].questions, fact)
        turns += [Turn(0, question, 0), Turn(1, fact.value, 0)]
    text, saw = " ".join(sentences), (False, True)
    return Questions(
        Conversation(name, "", (text,), tuple(turns), saw, None),
        tuple(begins[places[number]] for number in asked),
        tuple(facts[number].value for number in asked),
    )


def _facts(random: np.random.Generator, cfg: Sizes) -> list[_Fact]:
    """Every relation of everybody."""
    names = full_names(random, cfg.people)
    return [
        _Fact(relation, name, value)
        for relation in cfg.relations
        for name, value in zip(
            names, several(random, RELATIONS[relation].values, cfg.people), strict=True
        )
    ]


def _filler(random: np.random.Generator, count: int) -> list[str]:
    drawn = random.integers(list(map(len, (FILLER, *SLOTS.values()))), size=(count, 1 + len(SLOTS)))
    sentences = []
    for number, *numbers in drawn.tolist():
        places = zip(SLOTS.items(), numbers, strict=True)
        words = {slot: words[place] for (slot, words), place in places}
        sentences.append(FILLER[number].format(**words))
    return sentences


def _said(random: np.random.Generator, wordings: Sequence[str], fact: _Fact) -> str:
    return worded(one_of(random, wordings), fact.name, fact.value)


def chance(cfg: Sizes) -> float:
    """Expected accuracy of a uniform guess among all values of the relation asked for."""
    shares = [1 / len(RELATIONS[relation].values) for relation in cfg.relations]
    return sum(shares) / len(shares)


def unbound_accuracy(cfg: Sizes) -> float:
    """Expected accuracy of a reader who knows what the document states but binds it to no name.

    It is 1 / N: such a reader guesses among the N values that are stated for the relation.
    """
    return 1 / cfg.people


def eliminating_accuracy(cfg: Sizes) -> float:
    """Expected accuracy of such a reader who does not give an answer that was given before.

    The true answers to earlier questions stand in the conversation. After m of them about the same
    relation, N - m values are left, so the guess is right with 1 / (N - m). Of two people who are
    both asked for, the second answer follows from the first. A model above this has bound values to
    names.
    """
    others, same = cfg.num_facts - 1, cfg.people - 1
    total = 0.0
    for earlier in range(cfg.questions):
        for m in range(min(earlier, same) + 1):
            ways = math.comb(same, m) * math.comb(others - same, earlier - m)
            total += ways / math.comb(others, earlier) / (cfg.people - m)
    return total / cfg.questions
