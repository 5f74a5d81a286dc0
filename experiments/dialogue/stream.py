"""Conversations as segments: the document first, then who says what (SPEC §7).

    <doc> document <eos>  <speaker1> utterance <eos>  <speaker2> utterance <eos>  …

Every token has a type: the <doc> or <speaker> that it stands behind. The embedding of the type is
added to the token's own. Loss is taken on the utterances after the first, each with its <eos>; the
<speaker> tokens are given, not predicted.

A model that was tuned on conversations has marks of its own, which its chat template writes. It
reads the document as the system's message, and knows the speakers as user and assistant. Then there
are no types, and nothing new has to be learned:

    <|im_start|>system ↵ document <|im_end|> ↵ <|im_start|>user ↵ utterance <|im_end|> ↵ …

`Layout` chooses the marks, and how a document reaches the model. It goes through the memory,
segment after segment, or, for models without a memory, its beginning (a window) opens every
segment.

Dimension letters: n tokens of a conversation, W segments of T tokens.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from experiments.dialogue.records import Conversation
from inf_former_jax.data.chat import Chat, Role
from inf_former_jax.data.tokens import Tokenizer, kept
from inf_former_jax.fields import Checked, Natural
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.require import require, require_at_least

NUM_CONTROLS = 3
"""<doc> and two <speaker> tokens are added to a tokeniser's, unless a template has marks; <eos> is
the tokeniser's own end."""


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
    marks: Literal["types", "template"] = "types"
    """What says who speaks. types: three new tokens (paper). Their embeddings are added to those of
    the tokens behind them. template: the marks of a tuned model's chat template, in which
    the document is the system's message, the first speaker the user, the second the assistant."""

    def __post_init__(self):
        super().__post_init__()
        found = "template with document section"
        fits = self.marks == "types" or self.document != "section"
        require(fits, "marks", found, "document whole or none there")
        if self.window:
            require(
                self.window >= 3 and self.document != "none",
                "window",
                f"{self.window} with document {self.document}",
                "0, or 3 or more with a document",
            )

    @property
    def new_ids(self) -> int:
        """How many ids the marks add to the tokeniser's."""
        return NUM_CONTROLS if self.marks == "types" else 0

    def streamed(self, model: ModelConfig) -> bool:
        """Whether a model reads a conversation once, and carries its memory from turn to turn.

        Any other begins each reply anew, with what fits into a segment.
        """
        return not self.window and (self.document != "none" or remembers(model))


def remembers(model: ModelConfig) -> bool:
    """Whether anything of a segment reaches the next one."""
    return bool(model.long_term or model.compressed or model.mem_len)


class Marks(NamedTuple):
    """Ids around what is said. No text is encoded to the end, so that nobody writes one."""

    end: int  # <eos>, the tokeniser's
    doc: tuple[int, ...]  # before a document
    speakers: tuple[tuple[int, ...], tuple[int, ...]]  # before what each of them says
    # the speakers' of a first turn without a document, where they are others
    first: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    typed: bool = True  # the marks' embeddings are added to those of the tokens behind them

    def of(self, speaker: int, first: bool) -> tuple[int, ...]:
        """The mark of a speaker, 0 or 1.

        Args:
            first: nothing was read before.
        """
        return (self.first if first and self.first else self.speakers)[speaker]


def control_marks(tokenizer: Tokenizer) -> Marks:
    """The tokeniser's end, and the three ids after its last one."""
    first = tokenizer.vocab_size
    return Marks(tokenizer.end, (first,), ((first + 1,), (first + 2,)))


def template_marks(chat: Chat) -> Marks:
    """The marks of a chat template.

    Raises:
        ValueError: a template that does not end each message with the tokeniser's end, that
            writes a later message of the same role differently, or that does not say who speaks.
    """
    end = chat.tokenizer.end
    first, *after = (tuple(map(int, ids)) for ids in chat.around(_ROLES))
    accepted = "one that ends every message with the tokeniser's end"
    for ids in after:
        require(end in ids, chat.where, "a message without an end", accepted)
    user, assistant, *later = (ids[ids.index(end) + 1 :] for ids in after[:-1])
    same = later == [user, assistant]
    accepted = "one that begins all messages of a role alike"
    require(same, chat.where, "messages that begin in several ways", accepted)
    accepted = "one with marks of who speaks"
    require(bool(first and user and assistant), chat.where, "messages without marks", accepted)
    # Before a user who speaks first there may be a text's first token, or a default message.
    alone, _ = (tuple(map(int, ids)) for ids in chat.around(_ROLES[1:2]))
    begin = alone[: -len(user)] if alone[-len(user) :] == user else ()
    return Marks(end, first, (user, assistant), (alone, begin + assistant), typed=False)


#: Of a conversation that shows all marks of a template.
_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "user", "assistant")


class Span(NamedTuple):
    """Where a turn stands among the tokens of its conversation."""

    turn: int  # its number in the conversation
    start: int  # the place of its mark's first token
    said: int  # the place after its mark: of its first word
    end: int  # the place after its <eos>


class Encoded(NamedTuple):
    """A conversation in tokens, in reading order."""

    tokens: Int32[np.ndarray, " n"]
    types: Int32[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]  # whether loss is taken where the token is the target
    documents: tuple[tuple[int, int], ...]  # [start, end) of each <doc> … <eos>
    turns: tuple[Span, ...]


class _Part(NamedTuple):
    """A document or a turn in tokens."""

    mark: tuple[int, ...]
    text: np.ndarray
    scored: bool
    document: bool = False


class Encoder:
    """Turns conversations into tokens; a document that many of them share is encoded once.

    Attributes:
        dropped: the characters of conversations that no token can express; they are left out.
    """

    def __init__(self, tokenizer: Tokenizer, layout: Layout, marks: Marks | None = None):
        self.tokenizer, self.layout = tokenizer, layout
        self.marks = control_marks(tokenizer) if marks is None else marks
        self.dropped: Counter[str] = Counter()
        self._known: dict[str, np.ndarray] = {}  # document → ids

    def __call__(self, conversation: Conversation) -> Encoded:
        """The conversation's tokens. A mark that is spelled out in a text stays text."""
        marks, layout = self.marks, self.layout
        parts: list[_Part] = []
        read = None
        for number, turn in enumerate(conversation.turns):
            document = self._document(conversation, turn.section)
            if document is not None and document != read:
                parts.append(_Part(marks.doc, self._document_ids(document), False, True))
                read = document
            scored = number > 0 and (layout.scored == "both" or conversation.saw[turn.speaker])
            mark = marks.of(turn.speaker, not parts)
            parts.append(_Part(mark, self._ids(turn.text), scored))
        return self._joined(parts)

    def spoken(self, mark: tuple[int, ...], text: str) -> Int32[np.ndarray, " n"]:
        """A text behind its mark, with its <eos>."""
        ids = self.tokenizer.encode(text)
        return np.concatenate([mark, ids, [self.marks.end]]).astype(np.int32)

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

    def _joined(self, parts: list[_Part]) -> Encoded:
        """The parts one after the other, each between its mark and <eos>."""
        tokens, types, scored = [], [], []
        documents: list[tuple[int, int]] = []
        turns: list[Span] = []
        place = 0
        for part in parts:
            said = place + len(part.mark)
            after = said + len(part.text) + 1
            tokens += [part.mark, part.text, [self.marks.end]]
            types += [np.full(after - place, part.mark[0])]
            scored += [np.zeros(said - place, bool), np.full(after - said, part.scored)]
            if part.document:
                documents.append((place, after))
            else:
                turns.append(Span(len(turns), place, said, after))
            place = after
        ids, of_types = (np.concatenate(some).astype(np.int32) for some in (tokens, types))
        places = tuple(documents), tuple(turns)
        return Encoded(ids, of_types, np.concatenate(scored), *places)


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
    encoded: Encoded, turn: Span, model: ModelConfig, layout: Layout, room: int
) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " m"]]:
    """Tokens and types that a model reads before it says a turn, the turn's mark included.

    A model to which the conversation is streamed (`Layout.streamed`) reads everything. Any other
    reads the window, if there is one, and the last turns that fit into a segment beside it and
    `room` tokens of the reply.
    """
    places = np.arange(turn.said)
    if not layout.streamed(model):
        before = window_before(encoded, turn.start, layout.window)
        spoken = np.flatnonzero(~in_documents(encoded)[: turn.said])
        spoken = spoken[-max(1, model.segment_len - room - len(before)) :]
        places = np.concatenate([before, spoken])
    return encoded.tokens[places], encoded.types[places]
