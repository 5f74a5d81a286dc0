"""What a model answers at places of true conversations, and how it is read aloud.

Replies are sampled in batches, from the true history, on cached keys and values with the memory of
everything before: the document and all turns. The places are the same for every model and seed.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import Corpus, Split
from experiments.dialogue.stream import Encoder, Span, prompt
from inf_former_jax import generate
from inf_former_jax.models.decoder import Decoder

#: Rows that speak at once.
_ROWS = 50

#: The place of every reply is drawn from this seed, whatever the run's.
_PLACES = 0


class Reply(NamedTuple):
    """One answer and the one that was given."""

    conversation: int  # in the split
    turn: Span
    reply: str
    true: str


def places(split: Split, count: int) -> list[tuple[int, Span]]:
    """(number of the conversation, turn) of `count` scored utterances; 0 = of all."""
    every = [
        (number, span)
        for number, encoded in enumerate(split.encoded)
        for span in encoded.turns
        if encoded.scored[span.end - 1]
    ]
    if not 0 < count < len(every):
        return every
    chosen = np.random.default_rng(_PLACES).choice(len(every), count, replace=False)
    return [every[i] for i in sorted(chosen)]


def asked(
    encoder: Encoder, split: Split, place: tuple[int, Span], segment_len: int, room: int,
    emptied: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Tokens and types before a reply.

    Args:
        emptied: about what a memory that is emptied before every segment leaves: the open segment
            and the one before, which is written before it is read. (What that one itself found in
            the memory, in layers above the first, is not there.)
    """
    number, turn = place
    layout = encoder.layout
    tokens, types = prompt(split.encoded[number], turn, segment_len, layout, room)
    if emptied and not layout.window and layout.document != "none":
        first = max(0, turn.start // segment_len - 1) * segment_len
        return tokens[first:], types[first:]
    return tokens, types


def replies(
    cfg: DialogueConfig, decoder: Decoder, params: Any, ops: Any, corpus: Corpus, split: Split,
    seed: int,
) -> list[Reply]:  # fmt: skip
    """The model's replies at `places`, `cfg.replies` of them."""
    encoder, made = corpus.encoder, []
    chosen = places(split, cfg.replies)
    length, room = decoder.cfg.segment_len, cfg.reply_tokens
    emptied = cfg.objective.empty_memory
    rows = min(_ROWS, len(chosen))
    for first in range(0, len(chosen), rows):
        some = chosen[first : first + rows]
        # The last batch is filled up: one program for all.
        filled = some + some[-1:] * (rows - len(some))
        pairs = [asked(encoder, split, place, length, room, emptied) for place in filled]
        key = jax.random.fold_in(jax.random.key(seed), first)
        said = speak(cfg, decoder, params, ops, encoder, pairs, key)
        for (number, turn), tokens in zip(some, said, strict=False):
            text = split.conversations[number].turns[turn.turn].text
            made.append(Reply(number, turn, decoded(encoder, tokens), text))
    return made


def speak(
    cfg: DialogueConfig, decoder: Decoder, params: Any, ops: Any, encoder: Encoder,
    pairs: list[tuple[np.ndarray, np.ndarray]], key: Any,
) -> np.ndarray:  # fmt: skip
    """Tokens [B, reply_tokens] after prompts of unequal length, each behind its <speaker>."""
    lengths = np.array([len(tokens) for tokens, _ in pairs])
    prompts, types = np.zeros((2, len(pairs), lengths.max()), np.int32)
    for row, (tokens, of_tokens) in enumerate(pairs):
        prompts[row, : len(tokens)] = tokens
        types[row, : len(tokens)] = of_tokens
    said, _ = generate.generate(
        decoder, params, generate.start(decoder, len(pairs)), prompts, cfg.reply_tokens, key,
        lengths=lengths, temperature=cfg.temperature, top_p=cfg.top_p,
        stop=(encoder.controls.end,), vocab_size=encoder.tokenizer.vocab_size, operators=ops,
        types=types, reply_types=prompts[np.arange(len(pairs)), lengths - 1],
    )  # fmt: skip
    return np.asarray(said)


def decoded(encoder: Encoder, tokens: np.ndarray) -> str:
    """The text of a reply, to its end."""
    ends = np.flatnonzero(tokens == encoder.controls.end)
    return encoder.tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens).strip()


def as_json(some: list[Reply], split: Split) -> list[dict[str, Any]]:
    """Replies as the result holds them, each with the turn before it."""
    made = []
    for one in some:
        conversation = split.conversations[one.conversation]
        before = conversation.turns[one.turn.turn - 1]
        made.append({
            "conversation": conversation.name, "title": conversation.title,
            "turn": one.turn.turn, "before": before.text, "true": one.true, "reply": one.reply,
        })  # fmt: skip
    return made
