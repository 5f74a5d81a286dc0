"""Conversations as segments: the document first, then who says what (SPEC §7).

    <doc> document <eos>  <speaker1> utterance <eos>  <speaker2> utterance <eos>  …

Every token has a type, the <doc> or <speaker> it stands behind, whose embedding is added to its
own. Loss is on the utterances after the first, each with its end; that a speaker begins is given.

How a document reaches the model is a choice (`Layout`): through the memory, segment after segment,
or, for models without one, as the beginning of every segment, cut to a window.

Dimension letters: n tokens of a conversation, W segments of T tokens.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from experiments.dialogue.conversations import Conversation
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.require import require_at_least

DOCUMENTS = ("whole", "section", "none")
SCORED = ("both", "readers")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What of a conversation is read, and what of it is scored.

    Raises:
        ValueError: on construction, for an unknown choice or a window without a document.
    """

    document: str = "whole"
    """whole: before the first turn; section: the one that a turn refers to, before the first such
    turn and after every change; none."""
    window: int = 0
    """Every segment begins with so many tokens of the document, <doc> and <eos> included, which is
    not read otherwise; 0 = it is read once, segment after segment."""
    scored: str = "both"
    """Speakers whose utterances count: both, or readers, who saw the document."""

    def __post_init__(self):
        for name, accepted in (("document", DOCUMENTS), ("scored", SCORED)):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, accepted: {', '.join(accepted)}"
                )
        if self.window and (self.window < 3 or self.document == "none"):
            raise ValueError(
                f"window: found {self.window} with document {self.document}, accepted: 0, or 3 or "
                f"more with a document"
            )


class Controls(NamedTuple):
    """Ids that no text is encoded to: those of the tokeniser come before them."""

    end: int  # of the tokeniser
    doc: int
    speakers: tuple[int, int]

    @property
    def vocab_size(self) -> int:
        """Embeddings that a model needs."""
        return self.speakers[1] + 1


def controls(tokenizer: Tokenizer) -> Controls:
    """The three ids after those of the tokeniser, and its end."""
    first = tokenizer.vocab_size
    return Controls(tokenizer.end, first, (first + 1, first + 2))


class Span(NamedTuple):
    """An utterance in the tokens of its conversation."""

    turn: int  # its number in the conversation
    start: int  # of its <speaker>
    end: int  # behind its <eos>


class Encoded(NamedTuple):
    """A conversation in tokens, in reading order."""

    tokens: Int32[np.ndarray, " n"]
    types: Int32[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]  # as a target
    documents: tuple[tuple[int, int], ...]  # [start, end) of <doc> … <eos>
    turns: tuple[Span, ...]


class Encoder:
    """Conversations in tokens; a document that many of them share is encoded once."""

    def __init__(self, tokenizer: Tokenizer, layout: Layout):
        self.tokenizer, self.layout, self.controls = tokenizer, layout, controls(tokenizer)
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, conversation: Conversation) -> Encoded:
        """The conversation's tokens; control tokens that a text spells out are text."""
        ids = self.controls
        parts: list[tuple[int, np.ndarray, bool]] = []  # (type, text, scored)
        read = None
        for number, turn in enumerate(conversation.turns):
            document = self._document(conversation, turn.section)
            if document is not None and document != read:
                parts.append((ids.doc, self._document_ids(document), False))
                read = document
            counts = number > 0 and (self.layout.scored == "both" or conversation.saw[turn.speaker])
            text = self.tokenizer.encode(turn.text)
            parts.append((ids.speakers[turn.speaker], text, counts))
        return self._joined(parts)

    def _document(self, conversation, section):
        if self.layout.document == "none" or not conversation.sections:
            return None
        if self.layout.document == "section":
            return conversation.sections[section]
        return "\n".join(conversation.sections)

    def _document_ids(self, text):
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(text)
        return self._known[text]

    def _joined(self, parts):
        ids, end = self.controls, np.array([self.controls.end], np.int32)
        tokens, types, scored, documents, turns = [], [], [], [], []
        at = 0
        for kind, text, counts in parts:
            size = len(text) + 2
            tokens += [np.array([kind], np.int32), text, end]
            types.append(np.full(size, kind, np.int32))
            scored.append(np.arange(size) > 0 if counts else np.zeros(size, bool))
            if kind == ids.doc:
                documents.append((at, at + size))
            else:
                turns.append(Span(len(turns), at, at + size))
            at += size
        tokens, types, scored = map(np.concatenate, (tokens, types, scored))
        return Encoded(tokens, types, scored, tuple(documents), tuple(turns))


class Segments(NamedTuple):
    """A conversation as a model reads it; the last segment is right-padded."""

    tokens: Int32[np.ndarray, "W T"]
    targets: Int32[np.ndarray, "W T"]
    weights: Float32[np.ndarray, "W T"]
    valid: Bool[np.ndarray, "W T"]
    types: Int32[np.ndarray, "W T"]


def segments(encoded: Encoded, segment_len: int, window: int = 0) -> Segments:
    """Cut a conversation: each scored token is predicted once.

    Args:
        window: see `Layout`.

    Raises:
        ValueError: a window that leaves less than two tokens of a segment to the turns.
    """
    require_at_least("segment_len", segment_len, 2)
    if window > segment_len - 2:
        raise ValueError(
            f"window: found {window}, accepted: at most {segment_len - 2}, which leaves two tokens "
            f"of a segment to the turns"
        )
    pieces = list(
        _windows(encoded, segment_len, window) if window else _whole(encoded, segment_len)
    )
    made = Segments(*(np.zeros((len(pieces), segment_len), leaf) for leaf in _TYPES))
    for w, (before, inputs, targets) in enumerate(pieces):
        read = np.concatenate([before, inputs])
        made.tokens[w, : len(read)] = encoded.tokens[read]
        made.types[w, : len(read)] = encoded.types[read]
        made.valid[w, : len(read)] = True
        here = slice(len(before), len(read))
        made.targets[w, here] = encoded.tokens[targets]
        made.weights[w, here] = encoded.scored[targets]
    return made


_TYPES = (np.int32, np.int32, np.float32, bool, np.int32)


def _whole(encoded, segment_len) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(nothing, places of inputs, places of targets) of each segment."""
    places = np.arange(len(encoded.tokens) - 1)
    for first in range(0, len(places), segment_len):
        inputs = places[first : first + segment_len]
        yield places[:0], inputs, inputs + 1


def _windows(encoded, segment_len, window) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(places of the document's beginning, of inputs, of targets) of each segment."""
    said = np.flatnonzero(~of_documents(encoded))
    first = 0
    while first < len(said) - 1:
        before = window_of(encoded, int(said[first]), window)
        last = min(first + segment_len - len(before), len(said) - 1)
        yield before, said[first:last], said[first + 1 : last + 1]
        first = last


def of_documents(encoded: Encoded) -> Bool[np.ndarray, " n"]:
    """Which tokens are a document's, <doc> and <eos> included."""
    within = np.zeros(len(encoded.tokens), bool)
    for start, end in encoded.documents:
        within[start:end] = True
    return within


def window_of(encoded: Encoded, place: int, window: int) -> Int64[np.ndarray, " m"]:
    """Places of what is left of the document that was read last before `place`: its beginning,
    and its <eos>; at most `window`."""
    start, end = ([(0, 0)] + [one for one in encoded.documents if one[0] < place])[-1]
    if end - start <= window:
        return np.arange(start, end)
    return np.append(np.arange(start, start + window - 1), end - 1)


def prompt(
    encoded: Encoded, turn: Span, segment_len: int, layout: Layout, room: int
) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " m"]]:
    """Tokens and types that a model reads before it says a turn, its <speaker> included.

    Args:
        room: tokens of the segment left for the reply where a document's window, or no document,
            is read: the last turns that fit beside them.
    """
    if layout.window or layout.document == "none":
        before = window_of(encoded, turn.start, layout.window) if layout.window else np.arange(0)
        said = np.flatnonzero(~of_documents(encoded)[: turn.start + 1])
        said = said[-max(1, segment_len - room - len(before)) :]
        places = np.concatenate([before, said])
    else:
        places = np.arange(turn.start + 1)
    return encoded.tokens[places], encoded.types[places]
