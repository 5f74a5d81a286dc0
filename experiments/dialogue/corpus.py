"""The conversations of a run: read from a folder, counted, and turned into tokens and segments.

The folder is the release of CMU-DoG (`release`), or it holds JSON lines (`records.read_lines`):
`train.jsonl`, `valid.jsonl` or `validation.jsonl`, and `test.jsonl`.
"""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from experiments.dialogue import release
from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.records import DEFAULT, Conversation, Reading, Source, Turn, read_lines
from experiments.dialogue.stream import (
    Encoded,
    Encoder,
    Layout,
    Marks,
    Segments,
    control_marks,
    segments,
    template_marks,
)
from experiments.language_modeling import start
from inf_former_jax.data.chat import load_chat
from inf_former_jax.data.text import SPLITS, num_words
from inf_former_jax.data.tokens import Tokenizer, told
from inf_former_jax.files import printable
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.require import require, require_at_least

log = logging.getLogger(__name__)

SAMPLE = Path(__file__).parent / "sample"
"""Conversations made up for this project, about works that do not exist."""

_FILES = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
_NAMED = 5  # odd files that an error names


class Split(NamedTuple):
    """Conversations as they were read, in tokens and in segments: three lists of equal length."""

    conversations: list[Conversation]
    encoded: list[Encoded]
    segments: list[Segments]


class Corpus(NamedTuple):
    """The three splits, and the encoder that made their tokens."""

    name: str
    encoder: Encoder
    train: Split
    valid: Split
    test: Split
    skipped: Mapping[str, list[str]] = MappingProxyType({})  # split → why each was left out
    shared: Mapping[str, int] = MappingProxyType({})  # see `shared`, with "left out of train"
    dropped: int = 0  # characters that no token can express, which were left out

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


@functools.lru_cache(maxsize=1)  # the check of a config makes it before the run does
def corpus_of(cfg: DialogueConfig) -> Corpus:
    """The conversations that a config asks for; ValueError as the functions below."""
    name, folder = folder_of(cfg.data)
    skipped: dict[str, list[str]] = {split: [] for split in SPLITS}
    conversations = {split: read(folder, split, cfg.reading, skipped[split]) for split in SPLITS}
    same, train = shared(conversations), conversations["train"]
    if not cfg.keep_shared:
        conversations["train"] = _unseen(conversations)
    same["left out of train"] = len(train) - len(conversations["train"])
    size = cfg.model.vocab_size - cfg.layout.new_ids
    tokenizer = tokenizer_of(cfg.tokenizer, conversations["train"], size, cfg.cache)
    marks = marks_of(cfg.layout, tokenizer, cfg.tokenizer)
    for split, count in (("valid", cfg.valid_conversations), ("test", cfg.test_conversations)):
        conversations[split] = _evenly(conversations[split], count)
    corpus = encoded(name, conversations, tokenizer, cfg.layout, cfg.model, marks)
    return corpus._replace(skipped=skipped, shared=same)


def folder_of(data: str) -> tuple[str, Path]:
    """(name for people, folder) of a corpus; "" is the sample.

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
    return printable(Path(data).resolve().name), Path(data)


def read(
    path: str | Path, split: str, reading: Reading = DEFAULT, skipped: list[str] | None = None
) -> list[Conversation]:
    """The conversations of a split, in the order of their file names or lines.

    White space in an utterance becomes single spaces, and empty utterances are left out. A merged
    turn refers to the section of its first utterance. A conversation may have a single turn.

    Args:
        skipped: receives the reason of each file or line that `reading` leaves out.

    Raises:
        ValueError: an unknown split, a folder of neither or both layouts, a split without files, or
            no conversation left. Unless `reading` skips them, also odd files or lines, and empty
            ones, which have no utterance with words; the message counts them and names the first 5.
            Odd are invalid UTF-8 or JSON, a wrong type, a missing key, an unknown speaker, and an
            index that no document or section has.
    """
    where = f"{path}: split {split!r}"
    skipped = [] if skipped is None else skipped
    good, odd = [], []
    for source in _sources(Path(path), split):
        try:
            good += [source()]
        except (ValueError, FileNotFoundError) as error:
            (skipped if reading.leaves_out(error) else odd).append(str(error))
    if odd:
        more = [f"{len(odd) - _NAMED} more"] if len(odd) > _NAMED else []
        named = "; ".join(odd[:_NAMED] + more)
        raise ValueError(f"{where}: {len(odd)} odd (skip_odd leaves out): {named}")
    good = [one for one in good if one is not None]
    kept = [one for one in good if (one.rating or 0) >= reading.min_rating]
    if not kept:
        ratings = {one.rating for one in good if one.rating is not None}
        rated = ", ".join(map(str, sorted(ratings))) or "none"
        least = f" rated {reading.min_rating} or more" if reading.min_rating else ""
        raise ValueError(
            f"{where}: found {len(good)} conversations rated {rated}, accepted: at least one{least}"
        )
    return [one._replace(turns=_merged(one.turns)) if reading.merge else one for one in kept]


def _sources(folder: Path, split: str) -> Iterator[Source]:
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, accepted: {', '.join(SPLITS)}")
    names = {f"{name}.jsonl" for name in _FILES[split]} | {"Conversations", "WikiData"}
    there = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    known = [name for name in there if name in names]
    if known in (["Conversations"], ["WikiData"], ["Conversations", "WikiData"]):
        return release.conversations(folder, split)
    if len(known) == 1:
        return read_lines(folder / known[0])
    some = ", ".join(known or there[:8]) or "an empty folder"
    raise ValueError(
        f"{folder}: found {some if folder.is_dir() else 'no folder'}, accepted: a folder with "
        f"Conversations and WikiData (the release of CMU-DoG) or with {split}.jsonl"
    )


def _merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Successive turns of one speaker as one turn, which has the section of the first."""
    groups = [list(group) for _, group in groupby(turns, lambda turn: turn.speaker)]
    return tuple(group[0]._replace(text=" ".join(turn.text for turn in group)) for group in groups)


def shared(conversations: Mapping[str, list[Conversation]]) -> dict[str, int]:
    """How many conversations of a split stand in another one, as "test in train": 63.

    They are the same if the same speakers say the same, whatever the document.
    """
    said = {split: set(map(_said, some)) for split, some in conversations.items()}
    return {
        f"{other} in {split}": sum(_said(one) in said[split] for one in conversations[other])
        for split, other in combinations(SPLITS, 2)
    }


def _said(one: Conversation) -> tuple[tuple[int, str], ...]:
    return tuple((turn.speaker, turn.text) for turn in one.turns)


def _unseen(conversations: Mapping[str, list[Conversation]]) -> list[Conversation]:
    """The training conversations that stand in no other split."""
    judged = {_said(one) for split in ("valid", "test") for one in conversations[split]}
    kept = [one for one in conversations["train"] if _said(one) not in judged]
    found = f"{len(conversations['train'])} training conversations, all in valid or test too"
    require(bool(kept), "data", found, "others, or --keep-shared")
    return kept


def _evenly(conversations: list[Conversation], count: int) -> list[Conversation]:
    """`count` conversations at equal distances; 0 = all."""
    if not 0 < count < len(conversations):
        return conversations
    places = np.linspace(0, len(conversations) - 1, count).round().astype(int)
    return [conversations[place] for place in places]


def tokenizer_of(
    kind: str, conversations: Sequence[Conversation], vocab_size: int, cache: str | Path
) -> Tokenizer:
    """The tokeniser that an option names.

    Args:
        kind: as for `start.tokenizer_of`, or "" for a byte-level BPE of vocab_size tokens. The BPE
            is trained on the conversations once and kept in the folder `cache`.
    """
    if kind:
        return start.tokenizer_of(kind)
    texts = sorted({text for one in conversations for text in one.sections})
    texts += [turn.text for one in conversations for turn in one.turns]
    digest = hashlib.sha256(str(vocab_size).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = Path(cache) / f"dialogue-bpe-{digest.hexdigest()[:16]}" / start.TOKENIZER
    return start.trained_tokenizer(texts, vocab_size, path)


def marks_of(layout: Layout, tokenizer: Tokenizer, folder: str | Path) -> Marks:
    """The marks that a layout asks for.

    Args:
        folder: where the tokeniser is from, and the chat template.

    Raises:
        ValueError: a template is asked for and there is none, or as `template_marks`.
    """
    if layout.marks == "types":
        return control_marks(tokenizer)
    return template_marks(load_chat(folder, tokenizer))


def encoded(
    name: str,
    conversations: Mapping[str, list[Conversation]],
    tokenizer: Tokenizer,
    layout: Layout,
    model: ModelConfig,
    marks: Marks | None = None,
) -> Corpus:
    """Given conversations by split, as a model reads them.

    Characters that no token can express are left out: a line in the log says which and how many.

    Args:
        marks: None = three new ids.

    Raises:
        ValueError: a tokeniser with too many tokens for the model, or as `segments` does.
    """
    encoder, new = Encoder(tokenizer, layout, marks), layout.new_ids
    require(
        tokenizer.vocab_size + new <= model.vocab_size,
        "tokenizer",
        f"one of {tokenizer.vocab_size:,} tokens",
        f"at most {model.vocab_size - new:,}, model.vocab_size less the {new} control tokens",
    )
    splits = {
        split: _encoded_split(some, encoder, model.segment_len)
        for split, some in conversations.items()
    }
    if encoder.dropped:
        log.warning("%s: %s", name, told(encoder.dropped))
    dropped = encoder.dropped.total()
    return Corpus(name, encoder, splits["train"], splits["valid"], splits["test"], dropped=dropped)


def _encoded_split(conversations: list[Conversation], encoder: Encoder, segment_len: int) -> Split:
    ids = [encoder(one) for one in conversations]
    cut = [segments(one, segment_len, encoder.layout.window) for one in ids]
    return Split(conversations, ids, cut)


def swapped(split: Split, encoder: Encoder) -> Split:
    """Each conversation with the document of another one, which is about something else.

    This is the control for what a document is good for: if the figures stay, no model has read it.
    The result is empty if all conversations share one document.
    """
    documents = list(dict.fromkeys(one.sections for one in split.conversations))
    if len(documents) < 2:
        return Split([], [], [])
    other = dict(zip(documents, documents[1:] + documents[:1], strict=True))
    conversations = []
    for one in split.conversations:
        sections = other[one.sections]
        turns = (turn._replace(section=turn.section % len(sections)) for turn in one.turns)
        conversations.append(one._replace(sections=sections, turns=tuple(turns)))
    return _encoded_split(conversations, encoder, split.segments[0].tokens.shape[1])


class Statistics(NamedTuple):
    """What is in a corpus or a split of it; None = unknown."""

    conversations: int
    documents: int  # different ones
    utterances: int | None
    turns: int | None
    turns_per_conversation: float
    words_per_turn: float | None  # words as white space separates them
    ratings: dict[int | None, int]  # rating → conversations; None = rated by nobody


PUBLISHED = Statistics(4112, 30, 130_000, None, 21.43, None, {1: 1443, 2: 2142, 3: 527})
"""What CMU-DoG's paper and its read-me say of the three splits together."""

RELEASED = {"train": 3373, "valid": 229, "test": 619}
"""Files in each split of CMU-DoG's release, 109 more than were published. 110 of them stand in two
splits: 45 of valid and 63 of test in train, and 2 of test in valid."""


def statistics(conversations: Sequence[Conversation]) -> Statistics:
    """Counts over one conversation or more.

    Raises:
        ValueError: no conversation.
    """
    require_at_least("conversations", len(conversations), 1)
    turns = [turn for one in conversations for turn in one.turns]
    utterances = [one.utterances for one in conversations if one.utterances is not None]
    ratings = Counter(one.rating for one in conversations)
    return Statistics(
        conversations=len(conversations),
        documents=len({one.sections for one in conversations}),
        utterances=sum(utterances) if len(utterances) == len(conversations) else None,
        turns=len(turns),
        turns_per_conversation=len(turns) / len(conversations),
        words_per_turn=sum(num_words(turn.text) for turn in turns) / len(turns),
        ratings=dict(sorted(ratings.items(), key=lambda rated: rated[0] or 0)),
    )
