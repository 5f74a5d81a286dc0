"""What of a document a model's densities cover while it says a reply.

Each reply is read once more, after all that came before it. At the queries that predict its tokens,
each layer's densities are integrated over every token of the document. Only uniform memories can be
asked: a sticky memory does not keep where it put its past.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import Array

from experiments.dialogue.corpus import Corpus
from experiments.dialogue.replies import Reply
from experiments.language_modeling.sample import Writer, pieces
from inf_former_jax.memory.coverage import coverage
from inf_former_jax.memory.density import Density
from inf_former_jax.memory.long_term import Operators
from inf_former_jax.memory.state import Memory, init, long_term_of
from inf_former_jax.models.decoder import Decoder, Output
from inf_former_jax.require import require

_HISTORY = 4  # turns before a reply that are shown


class Covered(NamedTuple):
    """A generated reply, and the shares of its densities' mass that fall on the document."""

    name: str  # of the conversation and the turn
    history: Sequence[tuple[str, str]]  # (who, what) of the turns before, oldest first
    true_reply: str
    reply: str
    pieces: Sequence[str]  # the document's tokens as text; the document is "".join(pieces)
    mass: np.ndarray  # [layers, pieces]; a layer's shares and its `elsewhere` sum to 1
    elsewhere: np.ndarray  # [layers]: on earlier turns, on padding, outside of the signal


class Part(NamedTuple):
    """What densities cover in one of the segments in which a reply is read."""

    tokens: np.ndarray  # [layers, tokens written before]: mean mass over the segment's queries
    queries: int  # of the reply in the segment


def covered(model: Writer, corpus: Corpus, replies: Sequence[Reply]) -> list[Covered]:
    """The coverage of replies to test conversations."""
    encoder, split, results = corpus.encoder, corpus.test, []
    pieces_of: dict[tuple[int, ...], list[str]] = {}  # of documents, which conversations share
    for one in replies:
        encoded, talk = split.encoded[one.conversation], split.conversations[one.conversation]
        first = one.turn.said
        ids = encoder.tokenizer.encode(one.reply)
        tokens = np.concatenate([encoded.tokens[:first], ids, [encoder.marks.end]])
        types = np.append(encoded.types[:first], np.full(len(ids) + 1, encoded.types[first - 1]))
        parts = _parts(model, tokens, types, first)
        doc, after = [span for span in encoded.documents if span[0] < one.turn.start][-1]
        start, stop = doc + 1, after - 1  # without <doc> and <eos>
        document = tuple(encoded.tokens[start:stop].tolist())
        if document not in pieces_of:
            pieces_of[document] = list(pieces(encoder.tokenizer, document))[:-1]
        turns = talk.turns[max(0, one.turn.turn - _HISTORY) : one.turn.turn]
        results.append(
            Covered(
                f"{talk.title or talk.name}, turn {one.turn.turn + 1}",
                [(f"speaker {turn.speaker + 1}", turn.text) for turn in turns],
                one.true,
                one.reply,
                pieces_of[document],
                *on_document(parts, start, stop),
            )
        )
    return results


@partial(jax.jit, static_argnums=0)
def _read(
    decoder: Decoder, params: Any, memory: Memory, tokens: Array, types: Array, ops: Operators
) -> tuple[Memory, list[Density]]:
    """The memory after a segment, and the densities of each layer with a long-term memory."""
    out = decoder.apply({"params": params}, tokens[None], memory, operators=ops, types=types[None])
    out = cast(Output, out)
    return out.memory, [layer["density"] for layer in out.info if "density" in layer]


def _parts(model: Writer, tokens: np.ndarray, types: np.ndarray, first: int) -> list[Part]:
    """A part for each segment in which a token from `first` on is predicted."""
    cfg = model.decoder.cfg
    length, memory_cfg = cfg.segment_len, cfg.long_term
    memory, parts = init(cfg, 1), []
    assert memory_cfg is not None
    for begin in range(0, len(tokens) - 1, length):
        count = min(length, len(tokens) - begin)
        segment = np.zeros((2, length), np.int32)
        segment[:, :count] = tokens[begin : begin + count], types[begin : begin + count]
        memory, densities = _read(*model[:2], memory, *segment, model.operators)
        places = begin + np.arange(length)
        queries = (places >= first - 1) & (places < len(tokens) - 1)
        if not queries.any():
            continue
        written = long_term_of(memory)
        assert written is not None
        lengths, masses = [length] * int(written.writes[0]), np.zeros((len(densities), 0))
        if lengths:
            where = queries[None]
            masses = np.stack(
                [
                    coverage(memory_cfg, layer, lengths, segment_len=length, where=where).tokens[0]
                    for layer in densities
                ]
            )
        parts.append(Part(masses, int(queries.sum())))
    return parts


def on_document(
    parts: Sequence[tuple[np.ndarray, int]], start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mass [layers, stop - start], elsewhere [layers]) of a reply, as in `Covered`.

    A reply may be read in several segments, and more tokens are written between them. A token that
    is not written yet has no mass. The result is the mean over all queries of the reply.

    Args:
        start: place of the document's first token in the stream; stop: place after its last one.

    Raises:
        ValueError: no part, a part without queries, or no document.
    """
    counts = [count for _, count in parts]
    require(bool(counts and min(counts) > 0), "parts", f"of {counts} tokens", "each 1 or more")
    require(0 <= start < stop, "stop", stop, f"more than start = {start} ≥ 0")
    mass = np.zeros((len(parts[0][0]), stop))
    for tokens, count in parts:
        written = np.asarray(tokens, float)[:, :stop]
        mass[:, : written.shape[1]] += written * (count / sum(counts))
    mass = mass[:, start:]
    return mass, np.maximum(1 - mass.sum(1), 0)
