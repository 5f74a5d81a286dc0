"""The words of `questions.data`, from phrases.toml: names, relations and filler sentences."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inf_former_jax.files import read_text


class Relation(NamedTuple):
    """What may be stated of a person: {name}, {value}, and {a} for the value's article."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    """What a sentence says before any value, where a passkey's document asks for a fact."""


_FILE = tomllib.loads(read_text(Path(__file__).with_suffix(".toml")))

FIRST: tuple[str, ...] = tuple(_FILE["first_names"].split())
LAST: tuple[str, ...] = tuple(_FILE["last_names"].split())

RELATIONS = {
    name: Relation(
        tuple(given["values"].split()),
        tuple(given["statements"]),
        tuple(given["questions"]),
        given["answer"],
    )
    for name, given in _FILE["relations"].items()
}
"""Name → relation; a document draws some of the values, all equally likely."""

SLOTS = {slot: tuple(words.split()) for slot, words in _FILE["slots"].items()}
"""What the braces in `FILLER` stand for, each word equally likely."""

FILLER = tuple(_FILE["filler"]["sentences"].splitlines())
"""Sentences about nobody."""


def several(random: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    """So many different words, each equally likely."""
    return [words[int(place)] for place in random.permutation(len(words))[:count]]


def full_names(random: np.random.Generator, count: int) -> list[str]:
    """Names of people, no two of whom share a first or a last name."""
    parts = [several(random, names, count) for names in (FIRST, LAST)]
    return list(map(" ".join, zip(*parts, strict=True)))


def one_of(random: np.random.Generator, wordings: Sequence[str]) -> str:
    """One of the wordings, each equally likely."""
    return wordings[int(random.integers(len(wordings)))]


def worded(wording: str, name: str, value: str) -> str:
    """A statement or question of a relation, with what its braces stand for."""
    return wording.format(name=name, value=value, a="an" if value[0] in "aeiou" else "a")
