"""The words of `questions.data`, from phrases.toml: names, relations and filler sentences."""

import tomllib
from pathlib import Path
from typing import NamedTuple

from inf_former_jax.files import read_text


class Relation(NamedTuple):
    """What may be stated of a person: {name}, {value}, and {a} for the value's article."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


_FILE = tomllib.loads(read_text(Path(__file__).with_suffix(".toml")))

FIRST: tuple[str, ...] = tuple(_FILE["first_names"].split())
LAST: tuple[str, ...] = tuple(_FILE["last_names"].split())

RELATIONS = {
    name: Relation(
        tuple(given["values"].split()), tuple(given["statements"]), tuple(given["questions"])
    )
    for name, given in _FILE["relations"].items()
}
"""Name → relation; a document draws some of the values, all equally likely."""

SLOTS = {slot: tuple(words.split()) for slot, words in _FILE["slots"].items()}
"""What the braces in `FILLER` stand for, each word equally likely."""

FILLER = tuple(_FILE["filler"]["sentences"].splitlines())
"""Sentences about nobody."""
