"""What a model answers at places of true conversations, and its replies as text.

Replies are sampled in batches of conversations. Each follows the true history: the model has read
the document and all turns before. The places are the same for every model and seed.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import Corpus, Split
from experiments.dialogue.stream import Encoder, Span, prompt
from experiments.language_modeling.sample import Writer
from inf_former_jax import generate
from inf_former_jax.generate import DecodeState, Sampling
from inf_former_jax.models.config import ModelConfig

#: Conversations that are answered at once.
_ROWS = 50

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

    A row of a batch is a conversation. It reads on from one place to the next, so that what comes
    before several replies is read once.
    """
    turns: dict[int, list[Span]] = collections.defaultdict(list)
    for number, turn in places(split, how.count):
        turns[number].append(turn)
    chosen, results = list(turns.items()), []
    rows = min(_ROWS, len(chosen))
    for first in range(0, len(chosen), rows):
        some = chosen[first : first + rows]
        # The last batch is filled up, so that one program serves all.
        filled = some + some[-1:] * (rows - len(some))
        key = jax.random.fold_in(jax.random.key(how.seed), first)
        results += _answered(model, corpus.encoder, split, filled, how, key)[: len(some)]
    return [reply for of_conversation in results for reply in of_conversation]


def _answered(
    model: Writer,
    encoder: Encoder,
    split: Split,
    rows: Sequence[tuple[int, Sequence[Span]]],
    how: Answering,
    key: jax.Array,
) -> list[list[Reply]]:
    """The replies of each row, a conversation's number and the turns that are said by the model."""
    fresh = generate.start(model.decoder, len(rows))
    state, known = fresh, [np.zeros(0, np.int32) for _ in rows]
    found: list[list[Reply]] = [[] for _ in rows]
    for step in range(max(len(turns) for _, turns in rows)):
        # A row without a further turn stays where it is, and what it says is not kept.
        said = [turns[min(step, len(turns) - 1)] for _, turns in rows]
        at = [(number, turn) for (number, _), turn in zip(rows, said, strict=True)]
        prompts = [history(encoder, split, place, model.decoder.cfg, how) for place in at]
        if not all(map(_begins, prompts, known)):  # of a window, or an emptied memory
            state, known = fresh, [np.zeros(0, np.int32) for _ in rows]
        rest = [
            (tokens[len(before) :], types[len(before) :])
            for (tokens, types), before in zip(prompts, known, strict=True)
        ]
        known = [tokens for tokens, _ in prompts]
        marks = [types[-1] for _, types in prompts] if encoder.marks.typed else None
        tokens, state = _sampled(model, state, rest, marks, how, jax.random.fold_in(key, step))
        for row, ((number, turns), ids) in enumerate(zip(rows, tokens, strict=True)):
            if step < len(turns):
                true = split.conversations[number].turns[turns[step].turn].text
                found[row].append(Reply(number, turns[step], decoded(encoder, ids), true))
    return found


def _begins(prompt: tuple[np.ndarray, np.ndarray], known: np.ndarray) -> bool:
    """Whether what is read before a reply begins with what has been read."""
    return np.array_equal(prompt[0][: len(known)], known)


def _sampled(
    model: Writer,
    state: DecodeState,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    marks: Sequence[int] | None,
    how: Answering,
    key: jax.Array,
) -> tuple[np.ndarray, DecodeState]:
    """Tokens [B, reply_tokens] that follow, and the state that has read the prompts alone.

    Args:
        prompts: tokens and types that each row reads first, of unequal lengths.
        marks: types of what each row says; None = without types.
    """
    rows, lengths = len(prompts), np.array([len(tokens) for tokens, _ in prompts])
    tokens, types = np.zeros((2, rows, lengths.max()), np.int32)
    for row, (ids, kinds) in enumerate(prompts):
        tokens[row, : len(ids)], types[row, : len(ids)] = ids, kinds
    reading, saying = jax.random.split(key)
    typed: dict[str, Any] = {} if marks is None else {"types": types}
    _, state = model.write(state, tokens, 0, reading, lengths=lengths, **typed)
    if marks is not None:
        typed = {"types": types[:, :0], "reply_types": np.asarray(marks)}
    options = {"sampling": how.sampling, **typed}
    sampled, _ = model.write(state, tokens[:, :0], how.reply_tokens, saying, **options)
    return sampled, state


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
