"""What a model answers at places of true conversations, and its replies as text.

Replies are sampled in batches. Each follows the true history: the model has read the document and
all turns before. The places are the same for every model and seed.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import Corpus, Split
from experiments.dialogue.stream import Encoder, Span, prompt
from experiments.language_modeling.sample import Writer
from inf_former_jax import generate
from inf_former_jax.generate import Sampling
from inf_former_jax.models.config import ModelConfig

#: Rows of a batch of replies.
_ROWS = 25

#: The seed from which all runs draw the places of their replies.
_PLACES = 0


@dataclasses.dataclass(frozen=True)
class Answering:
    """How a model answers."""

    count: int = 0
    """Replies, at places drawn once for all runs; 0 = all scored utterances."""
    reply_tokens: int = 50
    """At most so many tokens of a reply."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    emptied: bool = False
    """The memory is emptied before every segment."""
    seed: int = 0


def answering(cfg: DialogueConfig) -> Answering:
    """How the model of a run answers.

    Raises:
        ValueError: a temperature or top_p out of range.
    """
    sampling = Sampling(cfg.temperature, cfg.top_p)
    emptied = cfg.objective.empty_memory
    return Answering(cfg.replies, cfg.reply_tokens, sampling, emptied, cfg.seed)


class Reply(NamedTuple):
    """A generated reply and the true one."""

    conversation: int  # its number in the split
    turn: Span
    reply: str
    true: str


def places(split: Split, count: int) -> list[tuple[int, Span]]:
    """(number of the conversation, turn) of `count` scored utterances in order; 0 = of all."""
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


def history(
    encoder: Encoder, split: Split, place: tuple[int, Span], model: ModelConfig, how: Answering
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and types that a model reads before a reply.

    With an emptied memory a model sees about this much: the open segment, and the one before it,
    which is written after the memory is emptied and before it is read. (What layers above the first
    found in the memory while they read the earlier segment is not reproduced.)
    """
    number, turn = place
    layout, length = encoder.layout, model.segment_len
    tokens, types = prompt(split.encoded[number], turn, model, layout, how.reply_tokens)
    if how.emptied and layout.streamed(model):
        first = max(0, (turn.said - 1) // length - 1) * length
        return tokens[first:], types[first:]
    return tokens, types


def replies(model: Writer, corpus: Corpus, split: Split, how: Answering) -> list[Reply]:
    """The model's replies at `places` of a split, in their order.

    Those of a batch follow histories of about one length: a shorter one is read with padding.
    """
    encoder, cfg, found = corpus.encoder, model.decoder.cfg, {}
    chosen = places(split, how.count)
    histories = [history(encoder, split, place, cfg, how) for place in chosen]
    by_length = sorted(range(len(chosen)), key=lambda one: len(histories[one][0]))
    rows = min(_ROWS, len(chosen))
    for first in range(0, len(chosen), rows):
        some = by_length[first : first + rows]
        # The last batch is filled up, so that one program serves all.
        prompts = [histories[one] for one in some + some[-1:] * (rows - len(some))]
        key = jax.random.fold_in(jax.random.key(how.seed), first)
        tokens = _sampled(model, prompts, how, key, encoder.marks.typed)
        for one, ids in zip(some, tokens, strict=False):
            number, turn = chosen[one]
            true = split.conversations[number].turns[turn.turn].text
            found[one] = Reply(number, turn, decoded(encoder, ids), true)
    return [found[one] for one in range(len(chosen))]


def _sampled(
    model: Writer,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    how: Answering,
    key: jax.Array,
    typed: bool,
) -> np.ndarray:
    """Tokens [B, reply_tokens] after prompts of unequal length, each ending with its mark."""
    rows, lengths = len(prompts), np.array([len(tokens) for tokens, _ in prompts])
    tokens, types = np.zeros((2, rows, lengths.max()), np.int32)
    for row, (ids, kinds) in enumerate(prompts):
        tokens[row, : len(ids)], types[row, : len(ids)] = ids, kinds
    options: dict[str, Any] = {"lengths": lengths, "sampling": how.sampling}
    if typed:
        options |= {"types": types, "reply_types": types[np.arange(rows), lengths - 1]}
    state = generate.start(model.decoder, rows)
    sampled, _ = model.write(state, tokens, how.reply_tokens, key, **options)
    return sampled


def decoded(encoder: Encoder, tokens: np.ndarray) -> str:
    """The text of a reply up to its first <eos>."""
    ends = np.flatnonzero(tokens == encoder.marks.end)
    return encoder.tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens).strip()


def as_json(replies: list[Reply], split: Split) -> list[dict[str, Any]]:
    """Replies as a result holds them, each with the turn before it."""
    rows = []
    for one in replies:
        conversation, number = split.conversations[one.conversation], one.turn.turn
        rows.append(
            {
                "conversation": conversation.name,
                "title": conversation.title,
                "turn": number,
                "before": conversation.turns[number - 1].text,
                "true": one.true,
                "reply": one.reply,
            }
        )
    return rows
