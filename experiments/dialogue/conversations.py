"""Conversations of two speakers about a document: a split read whole, and what is in it.

A folder is the release of CMU-DoG (`dialogue_release`) or has JSON lines: `train.jsonl`,
`valid.jsonl` or `validation.jsonl`, and `test.jsonl`, in which a line is

    {"document": "text" or ["section", …], "turns": [{"speaker": "user1" or "user2" or 0 or 1,
     "text": "…", "section": 0}, …], "title": "…", "saw": [true, true], "rating": 3}

Only the document and the speakers and texts of turns have to be there.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from experiments.dialogue import records
from experiments.dialogue import release as dialogue_release
from experiments.dialogue.records import Conversation, Odd, Turn, field
from inf_former_jax.data.text import SPLITS, num_words
from inf_former_jax.require import require_at_least

_LINES = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
_KEYS = records.Keys("turns", "speaker", "section")
_NAMED = 5  # odd files in an error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a split is read: what is left out of it, and what a turn is."""

    min_rating: int = 0
    """Conversations of a lower rating, and if it is not 0 those of none, are left out."""
    merge: bool = True
    """Utterances of one speaker in a row are one turn; else each is one."""
    skip_odd: bool = False
    """What can't be read is left out, each named in a warning of the log; else it is an error."""

    def __post_init__(self):
        require_at_least("min_rating", self.min_rating, 0)


def read(path: str | Path, split: str, reading: Reading = Reading()) -> list[Conversation]:
    """Conversations of a split, in the order of their file names or lines.

    White space in an utterance becomes single spaces, and an empty one is left out. A merged turn
    refers to the section of its first utterance. A conversation may have a single turn: it can be
    read, and whether there is anything to predict in it is for those to say who predict.

    Raises:
        ValueError: an unknown split, a folder of neither or both layouts, a split without files,
            nothing left of it; unless skipped, odd files or lines, all counted and the first 5
            named: invalid UTF-8 or JSON, a wrong type, a missing key, an unknown speaker, an index
            that no document or section has, no utterance.
    """
    where = f"{path}: split {split!r}"
    found = list(_found(Path(path), split))
    odd = [one for one in found if isinstance(one, Odd)]
    if odd and not reading.skip_odd:
        named = [f"{one.name}: {one.message}" for one in odd[:_NAMED]]
        more = [f"{len(odd) - _NAMED} more"] if len(odd) > _NAMED else []
        raise ValueError(
            f"{where}: {len(odd)} odd (skip_odd leaves out): {'; '.join(named + more)}"
        )
    for one in odd:
        log.warning("skipped %s: %s", one.name, one.message)
    good = [one for one in found if isinstance(one, Conversation)]
    least = reading.min_rating
    kept = [one for one in good if (one.rating or 0) >= least]
    if not kept:
        ratings = ", ".join(map(str, sorted({one.rating for one in good} - {None}))) or "none"
        raise ValueError(
            f"{where}: found {len(good)} conversations rated {ratings}, accepted: at least one"
            + (f" rated {least} or more" if least else "")
        )
    return [one._replace(turns=_merged(one.turns)) if reading.merge else one for one in kept]


def _found(folder: Path, split: str) -> Iterator[Conversation | Odd]:
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, accepted: {', '.join(SPLITS)}")
    names = {f"{name}.jsonl" for name in _LINES[split]} | {"Conversations", "WikiData"}
    there = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in there if name in names]
    if found in (["Conversations"], ["WikiData"], ["Conversations", "WikiData"]):
        return dialogue_release.conversations(folder, split)
    if len(found) == 1:
        return _lines(folder / found[0])
    some = ", ".join(found or there[:8]) or "an empty folder"
    raise ValueError(
        f"{folder}: found {some if folder.is_dir() else 'no folder'}, accepted: a folder with "
        f"Conversations and WikiData (the release of CMU-DoG) or with {split}.jsonl"
    )


def _lines(file: Path) -> Iterator[Conversation | Odd]:
    offset = 0
    with open(file, "rb") as lines:
        for number, raw in enumerate(lines, 1):
            if raw.strip():
                yield records.attempt(f"{file}: line {number}", _line, raw, offset, number)
            offset += len(raw)


def _line(raw: bytes, offset: int, number: int) -> Conversation:
    record = records.parse(raw, offset)
    sections = field(record, "document", _is_document, "a text, or a list of texts, none empty")
    sections = (sections,) if isinstance(sections, str) else tuple(sections)
    turns = records.utterances(record, _KEYS, len(sections), section=0)
    title = field(record, "title", records.is_text, "a text", default="")
    saw = tuple(field(record, "saw", _is_pair, "two of true, false", default=(True, True)))
    rating = records.rating(record, default=None)
    return Conversation(f"line {number}", title, sections, turns, saw, rating, len(turns))


def _is_document(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and bool(texts) and all(map(records.is_full, texts))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(entry) for entry in value] == [bool, bool]


def _merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Those of one speaker in a row as one, of the section of the first of them."""
    groups = [list(group) for _, group in groupby(turns, lambda turn: turn.speaker)]
    return tuple(one[0]._replace(text=" ".join(turn.text for turn in one)) for one in groups)


class Statistics(NamedTuple):
    """What is in a corpus or a split of it; None = unknown."""

    conversations: int
    documents: int  # different ones
    utterances: int | None
    turns: int | None
    turns_per_conversation: float
    words_per_turn: float | None  # separated by white space
    ratings: dict[int | None, int]  # conversations of each; None = rated by nobody


PUBLISHED = Statistics(
    conversations=4112, documents=30, utterances=130_000, turns=None, turns_per_conversation=21.43,
    words_per_turn=None, ratings={1: 1443, 2: 2142, 3: 527},
)  # fmt: skip
"""What CMU-DoG's paper and its read-me say of the three splits together."""

RELEASED = {"train": 3373, "valid": 229, "test": 619}
"""Files of the release of CMU-DoG in each split: 109 more than were published."""


def statistics(conversations: Sequence[Conversation]) -> Statistics:
    """Counts over conversations, of which there has to be one.

    Raises:
        ValueError: no conversation.
    """
    require_at_least("conversations", len(conversations), 1)
    turns = [turn for one in conversations for turn in one.turns]
    utterances = [one.utterances for one in conversations]
    ratings = Counter(one.rating for one in conversations)
    return Statistics(
        conversations=len(conversations),
        documents=len({one.sections for one in conversations}),
        utterances=None if None in utterances else sum(utterances),
        turns=len(turns),
        turns_per_conversation=len(turns) / len(conversations),
        words_per_turn=sum(num_words(turn.text) for turn in turns) / len(turns),
        ratings=dict(sorted(ratings.items(), key=lambda rated: rated[0] or 0)),
    )
