"""Conversations as segments: the document first, then who says what (SPEC §7).

    <doc> document <eos>  <speaker1> utterance <eos>  <speaker2> utterance <eos>  …

Every token has a type: the <doc> or <speaker> that it stands behind. The embedding of the type is
added to the token's own. Loss is taken on the utterances after the first, each with its <eos>; the
<speaker> tokens are given, not predicted.

`Layout` chooses how a document reaches the model. It goes through the memory, segment after
segment, or, for models without a memory, its beginning (a window) opens every segment.

Dimension letters: n tokens of a conversation, W segments of T tokens.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from experiments.dialogue.records import Conversation
from inf_former_jax.data.tokens import Tokenizer, kept
from inf_former_jax.fields import Checked, Natural
from inf_former_jax.require import require, require_at_least

NUM_CONTROLS = 3
"""<doc> and two <speaker> tokens are added to a tokeniser's; <eos> is the tokeniser's own end."""


@dataclasses.dataclass(frozen=True)
class Layout(Checked):
    """What of a conversation is read, and what of it is scored.

    Raises:
        ValueError: on construction, for an unknown choice or a window without a document.
    """

    document: Literal["whole", "section", "none"] = "whole"
    """whole: all of it, before the first turn. section: the one that the turns refer to, before the
    first of them and wherever it changes. none: no document."""
    window: Natural = 0
    """Every segment begins with so many tokens of the document, <doc> and <eos> included, and its
    rest is not read; 0 = the document is read once, segment after segment."""
    scored: Literal["both", "readers"] = "both"
    """Speakers whose utterances count: both, or readers, who saw the document."""

    def __post_init__(self):
        super().__post_init__()
        if self.window:
            require(
                self.window >= 3 and self.document != "none",
                "window",
                f"{self.window} with document {self.document}",
                "0, or 3 or more with a document",
            )

    @property
    def streams_document(self) -> bool:
        """Whether the document is read once, so that a memory must carry it to the turns."""
        return not self.window and self.document != "none"


class Controls(NamedTuple):
    """Ids of the control tokens. They follow the tokeniser's ids, so no text is encoded to them."""

    end: int  # <eos>, the tokeniser's
    doc: int
    speakers: tuple[int, int]

    @property
    def vocab_size(self) -> int:
        """Embeddings that a model needs."""
        return self.speakers[1] + 1


def controls(tokenizer: Tokenizer) -> Controls:
    """The tokeniser's end and the three ids after its last one."""
    first = tokenizer.vocab_size
    return Controls(tokenizer.end, first, (first + 1, first + 2))


class Span(NamedTuple):
    """Where a turn stands among the tokens of its conversation."""

    turn: int  # its number in the conversation
    start: int  # the place of its <speaker>
    end: int  # the place after its <eos>


class Encoded(NamedTuple):
    """A conversation in tokens, in reading order."""

    tokens: Int32[np.ndarray, " n"]
    types: Int32[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]  # whether loss is taken where the token is the target
    documents: tuple[tuple[int, int], ...]  # [start, end) of each <doc> … <eos>
    turns: tuple[Span, ...]


class Encoder:
    """Turns conversations into tokens; a document that many of them share is encoded once.

    Attributes:
        dropped: the characters of conversations that no token can express; they are left out.
    """

    def __init__(self, tokenizer: Tokenizer, layout: Layout):
        self.tokenizer, self.layout, self.controls = tokenizer, layout, controls(tokenizer)
        self.dropped: Counter[str] = Counter()
        self._known: dict[str, np.ndarray] = {}  # document → ids

    def __call__(self, conversation: Conversation) -> Encoded:
        """The conversation's tokens. A control token that is spelled out in a text stays text."""
        ids, layout = self.controls, self.layout
        parts: list[tuple[int, np.ndarray, bool]] = []  # (type, text, scored)
        read = None
        for number, turn in enumerate(conversation.turns):
            document = self._document(conversation, turn.section)
            if document is not None and document != read:
                parts.append((ids.doc, self._document_ids(document), False))
                read = document
            scored = number > 0 and (layout.scored == "both" or conversation.saw[turn.speaker])
            parts.append((ids.speakers[turn.speaker], self._ids(turn.text), scored))
        return self._joined(parts)

    def _document(self, conversation: Conversation, section: int) -> str | None:
        if self.layout.document == "none" or not conversation.sections:
            return None
        if self.layout.document == "section":
            return conversation.sections[section]
        return "\n".join(conversation.sections)

    def _document_ids(self, text: str) -> np.ndarray:
        if text not in self._known:
            self._known[text] = self._ids(text)
        return self._known[text]

    def _ids(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(kept(self.tokenizer, text, self.dropped))

    def _joined(self, parts: list[tuple[int, np.ndarray, bool]]) -> Encoded:
        """The parts one after the other, each between its type and <eos>."""
        kinds, texts, counts = zip(*parts, strict=True)
        pieces = [([kind], text, [self.controls.end]) for kind, text, _ in parts]
        tokens = np.concatenate([ids for piece in pieces for ids in piece]).astype(np.int32)
        sizes = np.array([len(text) + 2 for text in texts])
        ends = np.cumsum(sizes)
        starts = ends - sizes
        scored = np.repeat(counts, sizes)
        scored[starts] = False
        spans = list(zip(kinds, starts.tolist(), ends.tolist(), strict=True))
        documents = [(start, end) for kind, start, end in spans if kind == self.controls.doc]
        turns = [(start, end) for kind, start, end in spans if kind != self.controls.doc]
        return Encoded(
            tokens,
            np.repeat(np.array(kinds, np.int32), sizes),
            scored,
            tuple(documents),
            tuple(Span(number, *place) for number, place in enumerate(turns)),
        )


class Segments(NamedTuple):
    """A conversation as a model reads it; the last segment is right-padded."""

    tokens: Int32[np.ndarray, "W T"]
    targets: Int32[np.ndarray, "W T"]
    weights: Float32[np.ndarray, "W T"]
    valid: Bool[np.ndarray, "W T"]
    types: Int32[np.ndarray, "W T"]


_TYPES = (np.int32, np.int32, np.float32, bool, np.int32)


def segments(encoded: Encoded, segment_len: int, window: int = 0) -> Segments:
    """Cut a conversation into segments, in which each scored token is predicted once.

    Args:
        window: as in `Layout`.

    Raises:
        ValueError: a window that leaves less than two tokens of a segment to the turns.
    """
    require_at_least("segment_len", segment_len, 2)
    most = segment_len - 2
    accepted = f"at most {most}, which leaves two tokens of a segment to the turns"
    require(window <= most, "window", window, accepted)
    cut = _windowed(encoded, segment_len, window) if window else _streamed(encoded, segment_len)
    pieces = list(cut)
    result = Segments(*(np.zeros((len(pieces), segment_len), dtype) for dtype in _TYPES))
    for w, (before, inputs, targets) in enumerate(pieces):
        read = np.concatenate([before, inputs])
        result.tokens[w, : len(read)] = encoded.tokens[read]
        result.types[w, : len(read)] = encoded.types[read]
        result.valid[w, : len(read)] = True
        predicting = slice(len(before), len(read))
        result.targets[w, predicting] = encoded.tokens[targets]
        result.weights[w, predicting] = encoded.scored[targets]
    return result


# Places of a segment's (window of the document, inputs, targets of these inputs).
_Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def _streamed(encoded: Encoded, segment_len: int) -> Iterator[_Places]:
    places = np.arange(len(encoded.tokens) - 1)
    for first in range(0, len(places), segment_len):
        inputs = places[first : first + segment_len]
        yield places[:0], inputs, inputs + 1


def _windowed(encoded: Encoded, segment_len: int, window: int) -> Iterator[_Places]:
    spoken = np.flatnonzero(~in_documents(encoded))
    first = 0
    while first < len(spoken) - 1:
        before = window_before(encoded, int(spoken[first]), window)
        last = min(first + segment_len - len(before), len(spoken) - 1)
        yield before, spoken[first:last], spoken[first + 1 : last + 1]
        first = last


def in_documents(encoded: Encoded) -> Bool[np.ndarray, " n"]:
    """Which tokens belong to a document, <doc> and <eos> included."""
    within = np.zeros(len(encoded.tokens), bool)
    for start, end in encoded.documents:
        within[start:end] = True
    return within


def window_before(encoded: Encoded, place: int, window: int) -> Int64[np.ndarray, " m"]:
    """Places of at most `window` tokens of the document that was read last before `place`.

    They are its first tokens. If the document is longer, the last of them is replaced by its <eos>.
    """
    start, end = ([(0, 0)] + [span for span in encoded.documents if span[0] < place])[-1]
    if end - start <= window:
        return np.arange(start, end)
    return np.append(np.arange(start, start + window - 1), end - 1)


def prompt(
    encoded: Encoded, turn: Span, segment_len: int, layout: Layout, room: int
) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " m"]]:
    """Tokens and types that a model reads before it says a turn, the turn's <speaker> included.

    A model that streams the document reads everything. Any other reads the window, if there is one,
    and the last turns that fit into a segment beside it and `room` tokens of the reply.
    """
    places = np.arange(turn.start + 1)
    if not layout.streams_document:
        before = window_before(encoded, turn.start, layout.window)
        spoken = np.flatnonzero(~in_documents(encoded)[: turn.start + 1])
        spoken = spoken[-max(1, segment_len - room - len(before)) :]
        places = np.concatenate([before, spoken])
    return encoded.tokens[places], encoded.types[places]
