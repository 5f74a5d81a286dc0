"""A conversation about a document, and how its parts are taken from JSON with every field checked.

Errors here say what was found in which field; `attempt` adds the file's name and keeps them as
values, so that one odd file hides no other.
"""

import json
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

SPEAKERS = {"user1": 0, "user2": 1, 0: 0, 1: 1}
REQUIRED = object()
"""As a default: there is none."""

_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which JSON can escape
_T = TypeVar("_T")


class Turn(NamedTuple):
    """What one speaker says until the other one does."""

    speaker: int  # 0 or 1
    text: str  # one or more utterances, joined by a space
    section: int  # of the document, that it refers to; of several utterances, the first one's


class Conversation(NamedTuple):
    """A document and what two speakers say about it."""

    name: str  # file or line that it was read from, unique in a split
    title: str  # of the document; "" = unknown
    sections: tuple[str, ...]  # the document, which is "\n".join(sections)
    turns: tuple[Turn, ...]
    saw: tuple[bool, bool]  # whether speaker 0, speaker 1 saw the document
    rating: int | None
    utterances: int | None = None  # that the turns were made of; None = unknown


class Odd(NamedTuple):
    """A file or line that can't be read, and why: what was found and what is accepted."""

    name: str
    message: str


class Keys(NamedTuple):
    """What a layout calls its turns, and the speaker and the section of one."""

    turns: str
    speaker: str
    section: str


def attempt(name: str, make: Callable[..., _T], *args: Any) -> _T | Odd:
    """make(*args), or the Odd file or line `name` with the ValueError's message."""
    try:
        return make(*args)
    except ValueError as error:
        return Odd(name, str(error))


def parse(raw: bytes, offset: int = 0) -> dict[str, Any]:
    """The JSON object that `raw` is.

    Raises:
        ValueError: invalid UTF-8 or JSON, naming the byte counted from `offset`; no object.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        place, byte = offset + error.start, raw[error.start]
        raise ValueError(f"byte {place}: found 0x{byte:02x}, accepted: UTF-8") from error
    except json.JSONDecodeError as error:
        place = offset + len(text[: error.pos].encode())
        message = f"byte {place}: found no JSON ({error.msg}), accepted: a JSON object"
        raise ValueError(message) from error
    except RecursionError as error:
        raise ValueError("found JSON nested too deeply, accepted: a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"found {reprlib.repr(value)}, accepted: a JSON object")
    return value


def field(
    record: Mapping[str, Any],
    key: str,
    valid: Callable[[Any], bool],
    accepted: str,
    default: Any = REQUIRED,
    where: str = "",
) -> Any:
    """record[key], or `default` where there is none or null.

    Raises:
        ValueError: not `valid`, or required and not there: found X, accepted: `accepted`.
    """
    value = record.get(key)
    if value is None and default is not REQUIRED:
        return default
    if value is None or not valid(value):
        found = "nothing" if value is None else reprlib.repr(value)
        raise ValueError(f"{where}{key}: found {found}, accepted: {accepted}")
    return value


def is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can hold."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def is_full(value: Any) -> bool:
    """Whether it is a text that says something."""
    return is_text(value) and bool(value.strip())


def is_integer(value: Any) -> bool:
    """Whether it is an integer that is not negative; true and false are none."""
    return type(value) is int and value >= 0


def is_one_of(values: Collection[Any]) -> Callable[[Any], bool]:
    """Whether it is a string or integer among `values`: a bool or a float equal to one is not."""
    return lambda value: type(value) in (str, int) and value in values


def is_list(of: Callable[[Any], bool] = lambda entry: True) -> Callable[[Any], bool]:
    """Whether it is a list of such entries; it may be empty."""
    return lambda value: isinstance(value, list) and all(map(of, value))


def rating(record: Mapping[str, Any], default: Any = REQUIRED) -> int | None:
    """How good the conversation is, by the corpus's own scale.

    Raises ValueError as `field` does.
    """
    return field(record, "rating", is_integer, "an integer from 0", default)


def utterances(
    record: Mapping[str, Any], keys: Keys, num_sections: int, section: Any = REQUIRED
) -> tuple[Turn, ...]:
    """One turn an utterance; white space becomes single spaces, what is only that is left out.

    Args:
        section: that an utterance refers to if it does not say.

    Raises:
        ValueError: a wrong type or missing key, an unknown speaker, a section that the document
            has not, or no utterance at all.
    """
    within = is_one_of(range(num_sections))
    turns = []
    for number, item in enumerate(field(record, keys.turns, is_list(), "a list of objects")):
        where = f"{keys.turns}[{number}]"
        if not isinstance(item, dict):
            raise ValueError(f"{where}: found {reprlib.repr(item)}, accepted: an object")
        where += "."
        speaker = field(item, keys.speaker, is_one_of(SPEAKERS), "user1, user2, 0, 1", where=where)
        words = field(item, "text", is_text, "a text", where=where).split()
        place = field(item, keys.section, within, f"0..{num_sections - 1}", section, where)
        if words:
            turns.append(Turn(SPEAKERS[speaker], " ".join(words), place))
    if not turns:
        raise ValueError(f"{keys.turns}: found no utterance with words, accepted: at least one")
    return tuple(turns)
