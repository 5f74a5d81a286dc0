"""A conversation in the terminal about a document that the model has read (paper §4.3).

    python -m experiments.dialogue chat --run FOLDER --document FILE [--options]

FOLDER is a run of `experiments.dialogue`, FILE a text in UTF-8. Each line that is typed is a turn,
or each line of a standard input that is no terminal; the model answers it, token by token. Ctrl-D,
the input's end or Ctrl-C end the conversation. --memory-out keeps the document and all that was
said, and --memory-in goes on from there, at the same cost a turn.
"""

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments import generate
from experiments.dialogue.config import DialogueConfig
from experiments.dialogue.stream import Encoder
from experiments.dialogue.turns import Chat, ChatConfig, carried
from experiments.language_modeling import start as language_modeling_init
from experiments.run import cli, training
from inf_former_jax.generate import Sampling, load_state, save_state

with contextlib.suppress(ImportError):  # not on every system
    import readline  # noqa: F401  a terminal's own lines end at 4,096 bytes


def check(cfg: ChatConfig) -> None:
    """Refuse at the door what needs no run to be seen."""
    if not cfg.run:
        raise ValueError("run: found none, accepted: --run FOLDER, of experiments.dialogue")
    if cfg.document and cfg.memory_in:
        raise ValueError("document: found one beside --memory-in, accepted: one of the two")
    if cfg.reply_tokens < 1:
        raise ValueError(f"reply_tokens: found {cfg.reply_tokens}, accepted: 1 or more")
    Sampling(cfg.temperature, cfg.top_p, cfg.top_k)
    if cfg.speaker not in (1, 2):
        raise ValueError(f"speaker: found {cfg.speaker}, accepted: 1, 2")
    if not 0 <= cfg.seed < 2**63:
        raise ValueError(f"seed: found {cfg.seed}, accepted: 0 … 2**63 - 1")
    if cfg.memory_out and not Path(cfg.memory_out).absolute().parent.is_dir():
        raise ValueError(
            f"memory_out: found {cfg.memory_out}, accepted: a file in a folder there is"
        )


def read_document(path: str) -> str:
    """The text of a document's file.

    Raises:
        ValueError: it cannot be read, is empty, or is not UTF-8.
    """
    found, accepted = f"document: found {path}", "accepted: a text file in UTF-8"
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{found} with invalid UTF-8 at byte {error.start}, {accepted}") from None
    except OSError as error:
        raise ValueError(f"{found} ({error.strerror}), {accepted}") from None
    if not text:
        raise ValueError(f"{found} without text, {accepted}")
    return text


def begin(cfg: ChatConfig) -> Chat:
    """The conversation that a config asks for, its document or memory read.

    Raises:
        ValueError, FileNotFoundError: as `check`, `read_document` and the loading of runs and
            states do, or for no document, or a memory of a model that carries none.
    """
    check(cfg)
    text = read_document(cfg.document) if cfg.document else ""
    run, decoder, params, _ = training.load(DialogueConfig, cfg.run)
    if run.objective.empty_memory:
        raise ValueError(
            f"run: found {cfg.run}, a control trained with its memory emptied, accepted: another"
        )
    encoder = Encoder(language_modeling_init.tokenizer_of_run(cfg.run), run.layout)
    size = decoder.cfg.vocab_size
    if encoder.controls.vocab_size > size:
        raise ValueError(
            f"run: found a tokeniser of {encoder.tokenizer.vocab_size:,} tokens in {cfg.run}, "
            f"accepted: at most {size - 3:,}, its vocabulary less the 3 control tokens"
        )
    for name in ("memory_in", "memory_out"):
        if getattr(cfg, name) and not carried(encoder):
            raise ValueError(
                f"{name}: found {getattr(cfg, name)}, accepted: none for {cfg.run}, which keeps "
                f"no memory from turn to turn"
            )
    if run.layout.document != "none" and not (text or cfg.memory_in):
        raise ValueError("document: found none, accepted: --document FILE or --memory-in FILE")
    state = load_state(cfg.memory_in, decoder, 1) if cfg.memory_in else None
    # Off the mesh of the run: one row needs one device.
    chat = Chat(cfg, decoder, jax.device_put(jax.device_get(params)), encoder, state)
    begun = time.perf_counter()
    count = chat.read(text) if text else 0
    jax.block_until_ready(chat.state)
    rate = count / (time.perf_counter() - begun)
    if chat.carried:
        segments = chat.place // decoder.cfg.segment_len
        how = f"{rate:,.0f} tokens/s; {segments:,} segments are in the memory"
    else:
        how = f"at most {run.layout.window:,} of them before every reply; no memory is kept"
    print(f"read {count:,} tokens of the document, {how}", file=sys.stderr)
    return chat


def lines(label: str) -> Iterator[str]:
    """What is typed after a label, or the lines of a standard input that is no terminal."""
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
    """A line as the utterances of training are: words with one space between; no surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", " ".join(line.split()))


def printable(text: str) -> str:
    """Control characters other than newline and tab as their pictures: none moves the cursor."""
    return text.translate(_PICTURES)


_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def converse(chat: Chat, speaker: int) -> None:
    """Answer line after line, until they end or Ctrl-C does."""
    try:
        for line in lines(f"speaker{speaker}: "):
            if not cleaned(line):
                continue
            print(f"speaker{3 - speaker}: ", end="", flush=True)
            for piece in generate.pieces(chat.tokenizer, chat.answer(cleaned(line))):
                print(printable(piece), end="", flush=True)
            print()
    except KeyboardInterrupt:
        print()


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.dialogue chat --run FOLDER --document FILE`."""
    argv = sys.argv[1:] if argv is None else argv
    cfg = cli.options("python -m experiments.dialogue chat", __doc__, ChatConfig(), argv)
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
                    save_state(cfg.memory_out, chat.state)
                    print(f"what was read is in {cfg.memory_out}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted before the first turn", file=sys.stderr)
        raise SystemExit(cli.INTERRUPTED) from None
