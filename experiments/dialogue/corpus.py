"""Conversations of a run: where they are read, in which tokens, and what is made of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.dialogue import conversations as dialogue
from experiments.dialogue.conversations import Conversation, Reading
from experiments.dialogue.stream import Encoded, Encoder, Layout, Segments, segments
from inf_former_jax.data import tokens
from inf_former_jax.data.tokens import Tokenizer

SAMPLE = Path(__file__).parent / "sample"
"""Conversations made up for this project, about works that do not exist."""

SPLITS = ("train", "valid", "test")


class Split(NamedTuple):
    """Conversations, in tokens and in segments; all of equal length."""

    conversations: list[Conversation]
    encoded: list[Encoded]
    segments: list[Segments]


class Corpus(NamedTuple):
    """The splits, and the tokens they are in."""

    name: str
    encoder: Encoder
    train: Split
    valid: Split
    test: Split


def folder_of(data: str) -> tuple[str, Path]:
    """(name for people, folder) of a corpus; the sample if data is "".

    Raises:
        ValueError: data is no folder.
    """
    if not data:
        return "made-up sample", SAMPLE
    if not Path(data).is_dir():
        raise ValueError(
            f"data: found {data}, accepted: a folder, of CMU-DoG's release or with train.jsonl, "
            f"valid.jsonl and test.jsonl"
        )
    return Path(data).resolve().name, Path(data)


def tokenizer_of(
    kind: str, conversations: Sequence[Conversation], vocab_size: int, cache: str | Path
) -> Tokenizer:
    """The tokeniser that an option names.

    Args:
        kind: "bytes", a tokenizer.json, a folder with one or with vocab.json and merges.txt, a run
            folder of ours, or "" for a byte-level BPE trained on the conversations, once.
    """
    from experiments.language_modeling import start as language_modeling_init

    if kind == "bytes":
        return tokens.Bytes()
    if kind and language_modeling_init.is_run(kind):
        return language_modeling_init.tokenizer_of_run(kind)
    if kind:
        return tokens.load_bpe(kind)
    texts = sorted({text for one in conversations for text in one.sections})
    texts += [turn.text for one in conversations for turn in one.turns]
    digest = hashlib.sha256(str(vocab_size).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = Path(cache) / f"dialogue-bpe-{digest.hexdigest()[:16]}" / "tokenizer.json"
    if path.is_file():
        return tokens.load_bpe(path)
    return tokens.train_bpe(texts, vocab_size, path)


def corpus(
    data: str,
    kind: str,
    vocab_size: int,
    cache: str | Path,
    reading: Reading,
    layout: Layout,
    segment_len: int,
    limits: dict[str, int],
) -> Corpus:
    """The splits of a corpus as a model reads them.

    Args:
        kind, vocab_size: of the tokeniser, see `tokenizer_of`; with the three control tokens, which
            come after its own, it must not need more than vocab_size ids.
        limits: split → so many conversations of it, evenly chosen; 0 = all.

    Raises:
        ValueError: as reading, encoding and cutting do, or for a tokeniser with too many tokens.
    """
    name, folder = folder_of(data)
    read = {split: dialogue.read(folder, split, reading) for split in SPLITS}
    tokenizer = tokenizer_of(kind, read["train"], vocab_size - 3, cache)
    some = {split: _evenly(of, limits.get(split, 0)) for split, of in read.items()}
    return encoded(name, some, tokenizer, vocab_size, layout, segment_len)


def encoded(
    name: str,
    read: dict[str, list[Conversation]],
    tokenizer: Tokenizer,
    vocab_size: int,
    layout: Layout,
    segment_len: int,
) -> Corpus:
    """The splits of given conversations as a model reads them.

    Args:
        read: split → its conversations.

    Raises:
        ValueError: as encoding and cutting do, or for a tokeniser with too many tokens.
    """
    encoder = Encoder(tokenizer, layout)
    if encoder.controls.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer: found one of {tokenizer.vocab_size:,} tokens, accepted: at most "
            f"{vocab_size - 3:,}, model.vocab_size less the 3 control tokens"
        )
    made = {}
    for split, conversations in read.items():
        ids = [encoder(one) for one in conversations]
        cut = [segments(one, segment_len, layout.window) for one in ids]
        made[split] = Split(conversations, ids, cut)
    return Corpus(name, encoder, **made)


def swapped(split: Split, encoder: Encoder) -> Split:
    """Each conversation with a document of another one that is not about the same.

    The control of what a document is good for: if nothing changes, nobody has read it. Empty where
    there is one document only.
    """
    sections = list(dict.fromkeys(one.sections for one in split.conversations))
    if len(sections) < 2:
        return Split([], [], [])
    other = dict(zip(sections, sections[1:] + sections[:1], strict=True))
    made = []
    for one in split.conversations:
        document = other[one.sections]
        turns = (turn._replace(section=turn.section % len(document)) for turn in one.turns)
        made.append(one._replace(sections=document, turns=tuple(turns)))
    encoded = [encoder(one) for one in made]
    length = split.segments[0].tokens.shape[1]
    return Split(made, encoded, [segments(e, length, encoder.layout.window) for e in encoded])


def _evenly(items, count):
    if not 0 < count < len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
