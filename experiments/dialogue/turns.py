"""A conversation with a model about a document, turn by turn.

A model to which a conversation is streamed (`Layout.streamed`) carries its state from turn to turn,
so that a turn costs what its own tokens cost. For any other model all tokens of the turns are kept,
and each reply begins anew from the window and the last turns that fit (`stream.prompt`).
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.dialogue.replies import Answering
from experiments.dialogue.stream import Encoded, Encoder, Span, prompt
from experiments.language_modeling.sample import Writer, numbers
from inf_former_jax import generate
from inf_former_jax.generate import DecodeState


class Chat:
    """One conversation; the person is one of the two speakers, the model the other one.

    Args:
        speaker: the person, 1 or 2.
        state: a conversation's to go on from; None = nothing is read yet.
    """

    def __init__(
        self,
        model: Writer,
        encoder: Encoder,
        how: Answering,
        speaker: int = 1,
        state: DecodeState | None = None,
    ):
        self.encoder, self.carried = encoder, encoder.layout.streamed(model.decoder.cfg)
        self.state = generate.start(model.decoder, 1) if state is None else state
        self._how, self._writer = how, model
        self._speaker = speaker - 1
        self._partner = encoder.marks.speakers[2 - speaker]  # the model's mark
        self._tokens = self._types = np.zeros(0, np.int32)  # stay empty if the state is carried
        self._documents: tuple[tuple[int, int], ...] = ()

    @property
    def place(self) -> int:
        """Tokens of the stream so far: read into the state, or kept."""
        return int(self.state.memory.seen[0] + self.state.position[0]) + len(self._tokens)

    def save(self, path: str) -> None:
        """Keep what was read and said in a file."""
        self._writer.save(path, self.state)

    def read(self, document: str) -> int:
        """Read a document from <doc> to <eos>; returns the number of its tokens.

        A model that was trained without documents reads nothing.
        """
        if self.encoder.layout.document == "none":
            return 0
        doc = self.encoder.marks.doc
        tokens = self.encoder.spoken(doc, document)
        self._keep(tokens, doc)
        self._documents = ((0, len(tokens)),)
        return len(tokens)

    def answer(self, text: str) -> Iterator[int]:
        """The tokens of the reply to an utterance as they come, at most `reply_tokens`.

        Utterance and reply join the stream when the last token is taken, each with its <eos>, even
        if the reply was cut before it. Until then neither has joined.
        """
        end, how = self.encoder.marks.end, self._how
        person = self.encoder.marks.of(self._speaker, self.place == 0)
        utterance = self.encoder.spoken(person, text)
        tokens, types = self._unread(utterance, person)
        options: dict[str, Any] = {"sampling": how.sampling}
        if self.encoder.marks.typed:
            options |= {"types": types[None], "reply_types": np.array(self._partner[:1])}
        count, key = how.reply_tokens, self._key()
        steps = self._writer.stream(self.state, tokens[None], count, key, **options)
        reply: list[int] = []
        state = yield from numbers(steps, reply)
        missing = [] if reply[-1] == end else [end]
        if self.carried:
            self.state = state
            self._keep(np.array(missing, np.int32), self._partner)
        else:
            self._keep(utterance, person)
            self._keep(np.array([*self._partner, *reply, *missing], np.int32), self._partner)

    def _unread(
        self, utterance: np.ndarray, person: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and types that the state has not read when the model is to speak."""
        tokens = np.concatenate([self._tokens, utterance, self._partner]).astype(np.int32)
        new = [_typed(utterance, person), _typed(self._partner, self._partner)]
        types = np.concatenate([self._types, *new])
        if self.carried:
            return tokens, types
        stream = Encoded(tokens, types, np.zeros(len(tokens), bool), self._documents, ())
        model = self._writer.decoder.cfg
        room = min(self._how.reply_tokens, model.segment_len // 2)
        turn = Span(0, len(tokens) - len(self._partner), len(tokens), len(tokens))
        return prompt(stream, turn, model, self.encoder.layout, room)

    def _keep(self, tokens: np.ndarray, mark: tuple[int, ...]) -> None:
        """Tokens that stand behind one mark join the stream."""
        types = _typed(tokens, mark)
        if not self.carried:
            self._tokens = np.append(self._tokens, tokens)
            self._types = np.append(self._types, types)
        elif len(tokens):
            options = {"types": types[None]} if self.encoder.marks.typed else {}
            written = self._writer.write(self.state, tokens[None], 0, self._key(), **options)
            self.state = written[1]

    def _key(self) -> jax.Array:
        """By seed and place, so that a conversation that goes on says what an unbroken one does."""
        return jax.random.fold_in(jax.random.key(self._how.seed), self.place)


def _typed(tokens: np.ndarray | tuple[int, ...], mark: tuple[int, ...]) -> np.ndarray:
    """The type of each token behind a mark."""
    return np.full(len(tokens), mark[0], np.int32)
