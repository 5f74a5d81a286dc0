"""A conversation in the terminal about a document that the model has read (paper §4.3).

    python -m experiments.dialogue chat --run FOLDER --document FILE [--options]

FOLDER is a run of `experiments.dialogue`, or a published model that was tuned on conversations. The
latter reads by its chat template, with the window, the cells or the trained memory that it is
given, and needs no document. FILE is a text in UTF-8. Each line of standard input,
typed or piped in, is a turn, which the model answers token by token. Ctrl-D, the input's end or
Ctrl-C ends the conversation. --memory-out keeps the document and all that was said, and --memory-in
goes on from there, at the same cost a turn.
"""

import contextlib
import dataclasses
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import jax

from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.corpus import marks_of
from experiments.dialogue.evaluate import dialogue_of
from experiments.dialogue.replies import Answering
from experiments.dialogue.stream import Encoder, remembers
from experiments.dialogue.turns import Chat
from experiments.language_modeling.given import GivenConfig, given, kind_of
from experiments.language_modeling.sample import WriteConfig, pieces, writer
from experiments.run import cli, folders
from inf_former_jax.fields import Count, Required
from inf_former_jax.files import printable, read_text
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require

with contextlib.suppress(ImportError):  # not on every system
    import readline  # noqa: F401  without it a terminal's lines end at 4,096 bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatConfig(WriteConfig, GivenConfig):
    """Whom to talk to, about what, and how it answers."""

    run: Annotated[str, Required("a run folder, or one of a GPT-2 or Llama")] = ""
    """A run folder of experiments.dialogue or language_modeling, or a Hugging Face folder of a
    GPT-2 or a Llama."""
    document: str = ""
    """A text file in UTF-8, of any length, read before the first turn."""
    reply_tokens: Count = 50
    """At most so many tokens of a reply."""
    speaker: Literal[1, 2] = 1
    """Which of the two speakers the person is, 1 or 2; the model is the other one."""
    memory_in: str = ""
    """A file of --memory-out: go on from what was read then, in place of --document."""


def check(cfg: ChatConfig) -> Answering:
    """How the model answers; what can be refused without the run is refused.

    Raises:
        ValueError: an option out of range, or a folder that is not there.
    """
    both = bool(cfg.document and cfg.memory_in)
    require(not both, "document", "one beside --memory-in", "one of the two")
    return Answering(0, cfg.reply_tokens, cfg.sampling(), seed=cfg.seed)


def read_document(path: str) -> str:
    """The text of a document's file.

    Raises:
        ValueError: it cannot be read, is empty, or is not UTF-8.
        FileNotFoundError: no such file.
    """
    text = read_text(path).strip()
    require(bool(text), path, "no text", "a text")
    return text


def begin(cfg: ChatConfig) -> Chat:
    """The conversation that a config asks for, its document or memory read.

    Raises:
        ValueError, FileNotFoundError: as `check`, `read_document` and the loading of runs and
            states do, or for no document, or a memory of a model that carries none.
    """
    how = check(cfg)
    text = read_document(cfg.document) if cfg.document else ""
    folders.read_config(Path(cfg.run))  # of whatever kind it is
    given_run, params, tokenizer = given(cfg, 1, kind_of(cfg.run, DialogueConfig, "layout"))
    run = dialogue_of(given_run, cfg.run, "whole" if text or cfg.memory_in else "none")
    control = f"{cfg.run}, a control trained with its memory emptied"
    require(not run.objective.empty_memory, "run", control, "another")
    layout, decoder = run.layout, Decoder(run.model)
    encoder = Encoder(tokenizer, layout, marks_of(layout, tokenizer, cfg.run))
    size, most = tokenizer.vocab_size, decoder.cfg.vocab_size - layout.new_ids
    accepted = f"at most {most:,}, its vocabulary less the {layout.new_ids} control tokens"
    require(size <= most, "run", f"a tokeniser of {size:,} tokens in {cfg.run}", accepted)
    carried = layout.streamed(decoder.cfg)
    for name in ("memory_in", "memory_out"):
        file, accepted = getattr(cfg, name), "which keeps no memory from turn to turn"
        require(not file or carried, name, file, f"none for {cfg.run}, {accepted}")
    if carried:
        accepted = "--window and --sinks, or --cells, or --memory, for a conversation of any length"
        require(remembers(decoder.cfg), "run", f"{cfg.run} without a memory", accepted)
    if layout.document != "none":
        accepted = "--document FILE or --memory-in FILE"
        require(bool(text or cfg.memory_in), "document", "none", accepted)
    model = writer(decoder, params, tokenizer)
    state = model.load(cfg.memory_in, cfg.memory_accept) if cfg.memory_in else None
    chat = Chat(model, encoder, how, cfg.speaker, state)
    begun = time.perf_counter()
    count = chat.read(text) if text else 0
    jax.block_until_ready(chat.state)
    rate = count / (time.perf_counter() - begun)
    if chat.carried:
        segments = chat.place // decoder.cfg.segment_len
        cost = f"{rate:,.0f} tokens/s; {segments:,} segments are in the memory"
    else:
        cost = f"at most {layout.window:,} of them before every reply; no memory is kept"
    print(f"read {count:,} tokens of the document, {cost}", file=sys.stderr)
    return chat


def lines(label: str) -> Iterator[str]:
    """Lines typed after a label; if standard input is no terminal, its lines with the label."""
    if sys.stdin is None or not sys.stdin.isatty():
        for line in sys.stdin or ():
            if cleaned(line):
                print(f"{label}{printable(cleaned(line))}", flush=True)
            yield line
        return
    while True:
        try:
            yield input(label)
        except EOFError:
            print()
            return


def cleaned(line: str) -> str:
    """A line in the form of training's utterances: single spaces, no surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", " ".join(line.split()))


def converse(chat: Chat, speaker: int) -> None:
    """Answer line after line, until they end or Ctrl-C does."""
    try:
        for line in lines(f"speaker{speaker}: "):
            if not cleaned(line):
                continue
            print(f"speaker{3 - speaker}: ", end="", flush=True)
            for piece in pieces(chat.encoder.tokenizer, chat.answer(cleaned(line))):
                print(printable(piece), end="", flush=True)
            print()
    except KeyboardInterrupt:
        print()


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.dialogue chat --run FOLDER --document FILE`."""
    argv = sys.argv[1:] if argv is None else argv
    cfg = cli.options("python -m experiments.dialogue chat", __doc__ or "", ChatConfig(), argv)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with cli.refusals():
            chat = begin(cfg)
            try:
                converse(chat, cfg.speaker)
            finally:
                if cfg.memory_out:
                    chat.save(cfg.memory_out)
                    print(f"what was read is in {cfg.memory_out}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted before the first turn", file=sys.stderr)
        raise SystemExit(cli.INTERRUPTED) from None
