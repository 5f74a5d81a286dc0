"""A conversation about a document, and how it is taken from JSON with every field checked.

Errors of this module name the field, what it holds and what is accepted; `named` adds the file.
The functions that read give a `Source` for each file or line, so that one that cannot be read does
not hide the others.

A file of JSON lines (`read_lines`) has one conversation a line:

    {"document": "text" or ["section", …], "turns": [{"speaker": "user1" or "user2" or 0 or 1,
     "text": "…", "section": 0}, …], "title": "…", "saw": [true, true], "rating": 3}

Only the document and the speaker and text of each turn are required.
"""

import contextlib
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from inf_former_jax.data.text import EmptyError, Skip
from inf_former_jax.fields import Natural
from inf_former_jax.files import read_json_lines

SPEAKERS = {"user1": 0, "user2": 1, 0: 0, 1: 1}
REQUIRED = object()
"""The default of a field that must be there."""

_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which JSON can escape


class Turn(NamedTuple):
    """What one speaker says until the other one does."""

    speaker: int  # 0 or 1
    text: str  # one or more utterances, joined by a space
    section: int  # the section of the document that the turn's first utterance refers to


class Conversation(NamedTuple):
    """A document and what two speakers say about it."""

    name: str  # the file or line that it was read from, unique in a split
    title: str  # the document's; "" = unknown
    sections: tuple[str, ...]  # the document is "\n".join(sections)
    turns: tuple[Turn, ...]
    saw: tuple[bool, bool]  # whether speaker 0, speaker 1 saw the document
    rating: int | None
    utterances: int | None = None  # how many the turns were made of; None = unknown


Source = Callable[[], Conversation | None]
"""How to read a file or line: a conversation, None for a document that others are about, or an
error that names it."""


@dataclass(frozen=True)
class Reading(Skip):
    """How a split is read: which conversations are left out, and what a turn is."""

    min_rating: Natural = 0
    """Conversations with a lower rating are left out, and unless it is 0 those without a rating."""
    merge: bool = True
    """Successive utterances of one speaker are one turn; otherwise each utterance is a turn."""


DEFAULT = Reading()


def read_lines(file: Path) -> Iterator[Source]:
    """The conversations of a file of JSON lines, one turn an utterance; blank lines are skipped."""
    for number, read in read_json_lines(file):
        yield partial(_line, read, f"{file}: line {number}", f"line {number}")


def _line(read: Callable[[], dict[str, Any]], where: str, name: str) -> Conversation:
    record = read()
    with named(where):
        return _conversation(record, name)


def _conversation(record: Mapping[str, Any], name: str) -> Conversation:
    sections = field(record, "document", _is_document, "a text, or a list of texts, none empty")
    sections = (sections,) if isinstance(sections, str) else tuple(sections)
    turns = utterances(record, ("turns", "speaker", "section"), len(sections), section=0)
    title = field(record, "title", is_text, "a text", default="")
    saw = tuple(field(record, "saw", _is_pair, "two of true, false", default=(True, True)))
    rating = field(record, "rating", is_integer, "an integer from 0", default=None)
    return Conversation(name, title, sections, turns, saw, rating, len(turns))


def _is_document(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and bool(texts) and all(map(is_full, texts))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(entry) for entry in value] == [bool, bool]


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Put the name of a file or line before an error about what is in it."""
    try:
        yield
    except ValueError as error:
        raise type(error)(f"{where}: {error}") from None


def field(
    record: Mapping[str, Any],
    key: str,
    valid: Callable[[Any], bool],
    accepted: str,
    default: Any = REQUIRED,
    where: str = "",
) -> Any:
    """record[key]; `default` if the key is absent or null.

    Args:
        where: what the error puts before the key.

    Raises:
        ValueError: the value is not `valid`, or it is required and absent.
    """
    value = record.get(key)
    if value is None and default is not REQUIRED:
        return default
    if value is None or not valid(value):
        found = "nothing" if value is None else reprlib.repr(value)
        raise ValueError(f"{where}{key}: found {found}, accepted: {accepted}")
    return value


def is_text(value: Any) -> bool:
    """Whether the value is a string that UTF-8 can hold."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def is_full(value: Any) -> bool:
    """Whether the value is a text with more than white space."""
    return is_text(value) and bool(value.strip())


def is_integer(value: Any) -> bool:
    """Whether the value is an integer ≥ 0; true and false are not."""
    return type(value) is int and value >= 0


def is_one_of(values: Collection[Any]) -> Callable[[Any], bool]:
    """A check: a string or integer among `values`. A bool or float that equals one fails."""
    return lambda value: type(value) in (str, int) and value in values


def is_list(valid: Callable[[Any], bool] = lambda entry: True) -> Callable[[Any], bool]:
    """A check: a list, possibly empty, whose entries are all `valid`."""
    return lambda value: isinstance(value, list) and all(map(valid, value))


def utterances(
    record: Mapping[str, Any],
    keys: tuple[str, str, str],
    num_sections: int,
    section: Any = REQUIRED,
) -> tuple[Turn, ...]:
    """The turns of a conversation, one an utterance.

    White space becomes single spaces. Utterances without words are left out.

    Args:
        keys: the layout's names for the list of turns, for the speaker and for the section.
        section: the section of an utterance that names none.

    Raises:
        ValueError: a wrong type, a missing key, an unknown speaker, a section that the document
            does not have, or no utterance at all.
    """
    turns_key, speaker_key, section_key = keys
    within = is_one_of(range(num_sections))
    turns = []
    for number, item in enumerate(field(record, turns_key, is_list(), "a list of objects")):
        where = f"{turns_key}[{number}]"
        if not isinstance(item, dict):
            raise ValueError(f"{where}: found {reprlib.repr(item)}, accepted: an object")
        where += "."
        accepted = "user1, user2, 0, 1"
        speaker = field(item, speaker_key, is_one_of(SPEAKERS), accepted, where=where)
        words = field(item, "text", is_text, "a text", where=where).split()
        place = field(item, section_key, within, f"0..{num_sections - 1}", section, where)
        if words:
            turns.append(Turn(SPEAKERS[speaker], " ".join(words), place))
    if not turns:
        raise EmptyError(f"{turns_key}: found no utterance with words, accepted: at least one")
    return tuple(turns)
