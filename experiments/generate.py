"""Text from a trained language model that has read a document of any length first.

    python -m experiments.generate --model FOLDER --prompt "text" [--options]

FOLDER is a run of `experiments.language_modeling`, or GPT-2's files. The prompt streams through the
memory at constant cost a segment; tokens are printed as they come. --memory-out keeps what was
read, the open segment included, and --memory-in goes on from there, without the document.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.language_modeling import start as language_modeling_init
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.run import cli, training
from inf_former_jax import generate
from inf_former_jax.data.tokens import Tokenizer, load_bpe
from inf_former_jax.models.convert import gpt2
from inf_former_jax.models.decoder import Decoder, operators


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """What to read, and how to go on."""

    model: str = ""
    """A run folder of experiments.language_modeling, or a folder of GPT-2's files."""
    prompt: str = ""
    """Text to go on from; after that of --prompt-file."""
    prompt_file: str = ""
    """A text file to read first, of any length."""
    tokens: int = 200
    """Tokens to write; 0 = only read, for --memory-out."""
    temperature: float = 1.0
    """0 = always the likeliest token."""
    top_p: float = 0.9
    """Sample from the likeliest tokens whose probabilities sum to this; 1 = all."""
    top_k: int = 0
    """Sample from so many of the likeliest tokens; 0 = all."""
    segment_len: int = 0
    """Segments of GPT-2's files, at most their positions; 0 = all of them. Runs have their own."""
    memory_in: str = ""
    """A file of --memory-out: go on from what was read then."""
    memory_out: str = ""
    """File (.npz) for what was read, prompt and new text."""
    seed: int = 0


def load(folder: str, segment_len: int = 0) -> tuple[Decoder, Any, Tokenizer]:
    """(decoder, params, tokeniser) of a run folder or of GPT-2's files.

    Raises:
        ValueError: neither is there, a tokeniser that does not fit, or segments too long.
        FileNotFoundError: nothing is there.
    """
    if not folder:
        raise ValueError("model: found none, accepted: --model FOLDER, a run or GPT-2's files")
    if language_modeling_init.is_run(folder):
        _, decoder, params, _ = training.load(LanguageModelingConfig, folder, ("params",))
        tokenizer = language_modeling_init.tokenizer_of_run(folder)
    else:
        cfg, params = gpt2.load(folder)
        if segment_len:
            cfg = dataclasses.replace(cfg, segment_len=segment_len)
        decoder, tokenizer = Decoder(cfg), load_bpe(folder)
    size = decoder.cfg.vocab_size
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"model: found a tokeniser of {tokenizer.vocab_size:,} tokens in {folder}, accepted: "
            f"at most the {size:,} of its weights"
        )
    return decoder, params, tokenizer


def pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """The text of tokens as they come; a character of several tokens waits for its last one."""
    ids, shown = [], 0
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(np.array(ids, np.int32))
        if not text.endswith("\ufffd"):
            yield text[shown:]
            shown = len(text)
            if text.endswith("\n"):  # nothing is decoded twice for ever
                ids, shown = [], 0
    yield tokenizer.decode(np.array(ids, np.int32))[shown:]


def continuation(
    decoder: Decoder, params: Any, tokenizer: Tokenizer, prompt: str, num_tokens: int, seed: int,
    top_p: float = 0.9,
) -> str:  # fmt: skip
    """The text that the model writes after a prompt."""
    ids = tokenizer.encode(prompt)[None]
    state = generate.start(decoder, 1)
    tokens, _ = generate.generate(
        decoder, params, state, ids, num_tokens, jax.random.key(seed), top_p=top_p,
        stop=(tokenizer.end,), vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return tokenizer.decode(np.asarray(tokens[0]))


def read_prompt(cfg: GenerateConfig) -> str:
    """The text of --prompt-file, then --prompt.

    Raises:
        ValueError: an unreadable file, or no prompt and no memory to go on from.
    """
    text = ""
    if cfg.prompt_file:
        try:
            text = Path(cfg.prompt_file).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"prompt_file: found invalid UTF-8 at byte {error.start} of {cfg.prompt_file}, "
                f"accepted: UTF-8"
            ) from None
    text += cfg.prompt
    if not text and not cfg.memory_in:
        raise ValueError("prompt: found none, accepted: --prompt, --prompt-file or --memory-in")
    return text


def run(cfg: GenerateConfig) -> None:
    """Read and write, printing as it goes."""
    text = read_prompt(cfg)
    if not 0 <= cfg.seed < 2**63:
        raise ValueError(f"seed: found {cfg.seed}, accepted: 0 … 2**63 - 1")
    if cfg.memory_out and not Path(cfg.memory_out).absolute().parent.is_dir():
        raise ValueError(
            f"memory_out: found {cfg.memory_out}, accepted: a file in a folder there is"
        )
    decoder, params, tokenizer = load(cfg.model, cfg.segment_len)
    state = generate.start(decoder, 1)
    if cfg.memory_in:
        state = generate.load_state(cfg.memory_in, decoder, 1)
    ops = jax.device_put(operators(decoder.cfg))
    ids = tokenizer.encode(text)[None]
    steps = generate.stream(
        decoder, params, state, ids, cfg.tokens, jax.random.key(cfg.seed), operators=ops,
        temperature=cfg.temperature, top_p=cfg.top_p, top_k=cfg.top_k, stop=(tokenizer.end,),
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    print(f"reading {ids.shape[1]:,} tokens", file=sys.stderr)

    def tokens():
        nonlocal state
        while True:
            try:
                token = next(steps)
            except StopIteration as end:
                state = end.value
                return
            yield int(token[0])

    for piece in pieces(tokenizer, tokens()):
        print(piece, end="", flush=True)
    print()
    if cfg.memory_out:
        generate.save_state(cfg.memory_out, state)
        print(f"what was read is in {cfg.memory_out}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.generate --model FOLDER [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    cfg = cli.options("python -m experiments.generate", __doc__, GenerateConfig(), argv)
    with cli.refusals():
        run(cfg)


if __name__ == "__main__":
    main()
