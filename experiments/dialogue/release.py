"""The release of CMU-DoG: `Conversations/{train,valid,test}/*.json` about `WikiData/*.json`.

A conversation names its document by `wikiDocumentIdx`, and each utterance names one of the
document's four sections by `docIdx`: facts about a film, then three passages of its plot.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from experiments.dialogue import records
from experiments.dialogue.records import SPEAKERS, Conversation, Source, field
from inf_former_jax.files import printable, read_json

# Index → title and sections.
_Documents = dict[int, tuple[str, tuple[str, ...]]]

_PASSAGES = ("1", "2", "3")

# The keys of section "0" and their labels, in the order in which they are written.
_FACTS = {
    "movieName": "Movie",
    "year": "Year",
    "genre": "Genre",
    "director": "Director",
    "cast": "Cast",
    "rating": "Rating",
    "introduction": "Introduction",
    "critical_response": "Critical response",
}


def conversations(folder: Path, split: str) -> Iterator[Source]:
    """The documents, then the split's conversations by file name, one turn an utterance.

    A conversation about an odd document is odd too.

    Raises:
        ValueError: no JSON file in WikiData or for the split.
    """
    wiki, spoken = folder / "WikiData", folder / "Conversations" / split
    for part in (wiki, spoken):
        if not any(part.glob("*.json")):
            found = "no such file in it" if part.is_dir() else "no such folder"
            raise ValueError(f"{part}: found {found}, accepted: a folder with *.json")
    documents: _Documents = {}  # filled while the first of these sources are read
    for part, read in ((wiki, _document), (spoken, _conversation)):
        for file in sorted(part.glob("*.json")):
            yield partial(_named, read, file, documents)


def _named(read: Callable, file: Path, documents: _Documents) -> Conversation | None:
    record = read_json(file)
    with records.named(str(file)):
        return read(record, documents, printable(file.name))


def _document(record: Mapping[str, Any], documents: _Documents, name: str) -> None:
    """Add a document under an index that no other file has."""

    def is_free(value: Any) -> bool:
        return records.is_integer(value) and value not in documents

    index = field(record, "wikiDocumentIdx", is_free, "an integer from 0 that no other file has")
    facts = field(record, "0", lambda value: isinstance(value, dict), "an object of facts")
    title, first = _written(facts)
    passages = [field(record, key, records.is_full, "a text").strip() for key in _PASSAGES]
    documents[index] = title, (first, *passages)


def _written(facts: Mapping[str, Any]) -> tuple[str, str]:
    """The film's name, and the facts as lines `Label: text`; `; ` separates a list's entries."""
    if facts.keys() != _FACTS.keys():
        found = ", ".join(sorted(facts)) or "nothing"
        raise ValueError(f"0: found {found}, accepted: {', '.join(sorted(_FACTS))}")

    def is_fact(value: Any) -> bool:
        return records.is_text(value) or records.is_list(records.is_text)(value)

    texts = {}
    for key in _FACTS:
        fact = field(facts, key, is_fact, "a text or a list of texts", where="0.")
        entries = [fact] if isinstance(fact, str) else fact
        texts[key] = "; ".join(" ".join(entry.split()) for entry in entries)
    lines = [f"{label}: {texts[key]}" for key, label in _FACTS.items()]
    return texts["movieName"], "\n".join(lines)


def _conversation(record: Mapping[str, Any], documents: _Documents, name: str) -> Conversation:
    span = f"{min(documents)}..{max(documents)}" if documents else "none"
    known = records.is_one_of(documents)
    index = field(record, "wikiDocumentIdx", known, f"an index that WikiData has ({span})")
    title, sections = documents[index]
    is_speakers = records.is_list(records.is_one_of(SPEAKERS))
    readers = field(record, "whoSawDoc", is_speakers, "a list of user1, user2")
    saw = {SPEAKERS[reader] for reader in readers}
    turns = records.utterances(record, ("history", "uid", "docIdx"), len(sections))
    rating = field(record, "rating", records.is_integer, "an integer from 0")
    return Conversation(name, title, sections, turns, (0 in saw, 1 in saw), rating, len(turns))
