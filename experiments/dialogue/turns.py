"""A conversation with a model about a document, held in one of two ways.

Where the model reads the whole stream (`carried`), its state goes on from turn to turn: a turn
costs what its own tokens do. For one that reads a window of the document, or none, all tokens are
kept, and a reply begins anew from the window and the last turns that fit
(`dialogue_stream.prompt`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.dialogue.stream import Encoded, Encoder, Span, prompt
from inf_former_jax import generate
from inf_former_jax.generate.decoding import DecodeState
from inf_former_jax.models.decoder import Decoder, operators


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """Whom to talk to, about what, and how it answers."""

    run: str = ""
    """A run folder of experiments.dialogue."""
    document: str = ""
    """A text file in UTF-8, of any length, read before the first turn."""
    reply_tokens: int = 50
    """At most so many tokens of a reply."""
    temperature: float = 1.0
    """0 = always the likeliest token."""
    top_p: float = 0.9
    """Sample from the likeliest tokens whose probabilities sum to this; 1 = all."""
    top_k: int = 0
    """Sample from so many of the likeliest tokens; 0 = all."""
    speaker: int = 1
    """Which of the two speakers the person is, 1 or 2; the model is the other one."""
    memory_in: str = ""
    """A file of --memory-out: go on from what was read then, in place of --document."""
    memory_out: str = ""
    """File (.npz) for what was read: the document and the conversation."""
    seed: int = 0


def carried(encoder: Encoder) -> bool:
    """Whether a model reads the whole stream, so that its state holds the conversation."""
    return not encoder.layout.window and encoder.layout.document != "none"


class Chat:
    """One conversation; the person is speaker `cfg.speaker`, the model the other one.

    Args:
        state: to go on from, that of another conversation at its end; None = nothing is read yet.
    """

    def __init__(
        self, cfg: ChatConfig, decoder: Decoder, params: Any, encoder: Encoder,
        state: DecodeState | None = None,
    ):  # fmt: skip
        self.carried, self.tokenizer = carried(encoder), encoder.tokenizer
        self.state = generate.start(decoder, 1) if state is None else state
        self._cfg, self._decoder, self._params, self._encoder = cfg, decoder, params, encoder
        self._ops = jax.device_put(operators(decoder.cfg))
        self._tokens = self._types = np.zeros(0, np.int32)  # carried: none
        self._documents: tuple[tuple[int, int], ...] = ()

    @property
    def place(self) -> int:
        """Tokens of the stream so far: read into the state, or kept."""
        return int(self.state.memory.seen[0] + self.state.position[0]) + len(self._tokens)

    def read(self, document: str) -> int:
        """Read a document, from <doc> to <eos>; the number of its tokens.

        Nothing is read by a model that was trained without documents.
        """
        if self._encoder.layout.document == "none":
            return 0
        tokens = self._spoken(self._encoder.controls.doc, self.tokenizer.encode(document))
        self._keep(tokens, self._encoder.controls.doc)
        self._documents = ((0, len(tokens)),)
        return len(tokens)

    def answer(self, text: str) -> Iterator[int]:
        """The tokens of the reply to an utterance as they come, at most `reply_tokens`.

        Both are in the stream once all are taken, each with its <eos>, also where the reply was cut
        before it; until then neither is.
        """
        ids, cfg = self._encoder.controls, self._cfg
        person, model = ids.speakers[cfg.speaker - 1], ids.speakers[2 - cfg.speaker]
        heard = self._spoken(person, self.tokenizer.encode(text))
        tokens, types = self._before(heard, person, model)
        steps = generate.stream(
            self._decoder, self._params, self.state, tokens[None], cfg.reply_tokens, self._key(),
            temperature=cfg.temperature, top_p=cfg.top_p, top_k=cfg.top_k, stop=(ids.end,),
            vocab_size=self.tokenizer.vocab_size, operators=self._ops, types=types[None],
            reply_types=np.array([model]),
        )  # fmt: skip
        said = []
        while True:
            try:
                token = int(next(steps)[0])
            except StopIteration as end:
                state = end.value
                break
            said.append(token)
            yield token
        missing = [] if said[-1] == ids.end else [ids.end]
        if self.carried:
            self.state = state
            self._keep(np.array(missing, np.int32), model)
        else:
            self._keep(heard, person)
            self._keep(np.array([model, *said, *missing], np.int32), model)

    def _spoken(self, kind, text):
        return np.concatenate([[kind], text, [self._encoder.controls.end]]).astype(np.int32)

    def _before(self, heard, person, model):
        """Tokens and types that the state has not read when the model is to speak."""
        tokens = np.concatenate([self._tokens, heard, [model]]).astype(np.int32)
        types = [self._types, np.full(len(heard), person, np.int32), [model]]
        types = np.concatenate(types).astype(np.int32)
        if self.carried:
            return tokens, types
        stream = Encoded(tokens, types, np.zeros(len(tokens), bool), self._documents, ())
        length = self._decoder.cfg.segment_len
        room = min(self._cfg.reply_tokens, length // 2)
        turn = Span(0, len(tokens) - 1, len(tokens))
        return prompt(stream, turn, length, self._encoder.layout, room)

    def _keep(self, tokens, kind):
        """Tokens of one type join the stream."""
        types = np.full(len(tokens), kind, np.int32)
        if not self.carried:
            self._tokens = np.append(self._tokens, tokens)
            self._types = np.append(self._types, types)
        elif len(tokens):
            _, self.state = generate.generate(
                self._decoder, self._params, self.state, tokens[None], 0, self._key(),
                operators=self._ops, types=types[None],
            )  # fmt: skip

    def _key(self):
        """By the seed and the place: a conversation that goes on says what an unbroken one does."""
        return jax.random.fold_in(jax.random.key(self._cfg.seed), self.place)
