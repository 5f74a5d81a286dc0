"""Text from a trained language model that has read a document of any length first.

    python -m experiments.generate --model FOLDER --prompt "text" [--options]

FOLDER is a run of `experiments.language_modeling`, or GPT-2's files. The prompt streams through the
memory at constant cost a segment; tokens are printed as they come. --memory-out keeps what was
read, the open segment included, and --memory-in goes on from there, without the document.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import dataclasses
import sys
from collections.abc import Iterator
from typing import Annotated

import jax

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.sample import WriteConfig, Writer, numbers, pieces, writer
from experiments.language_modeling.start import is_run, tokenizer_of
from experiments.run import cli, training
from inf_former_jax.fields import Natural, Required
from inf_former_jax.files import printable, read_text
from inf_former_jax.generate import start
from inf_former_jax.models.convert import gpt2
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig(WriteConfig):
    """What to read, and how to go on."""

    model: Annotated[str, Required("a run folder or GPT-2's files")] = ""
    """A run folder of experiments.language_modeling, or a folder of GPT-2's files."""
    prompt: str = ""
    """Text to go on from; after that of --prompt-file."""
    prompt_file: str = ""
    """A text file to read first, of any length."""
    tokens: Natural = 200
    """Tokens to write; 0 = only read, for --memory-out."""
    segment_len: Natural = 0
    """Segments of GPT-2's files, at most their positions; 0 = all of them. Runs have their own."""


def load(folder: str, segment_len: int = 0) -> Writer:
    """The model of a run folder or of GPT-2's files.

    Raises:
        ValueError: neither is there, a tokeniser that does not fit, or segments too long.
        FileNotFoundError: nothing is there.
    """
    if is_run(folder):
        _, decoder, params, _ = training.load(LanguageModelingConfig, folder, ("params",))
    else:
        cfg, params = gpt2.load(folder)
        if segment_len:
            cfg = dataclasses.replace(cfg, segment_len=segment_len)
        decoder = Decoder(cfg)
    tokenizer, size = tokenizer_of(folder), decoder.cfg.vocab_size
    found = f"a tokeniser of {tokenizer.vocab_size:,} tokens in {folder}"
    accepted = f"at most the {size:,} of its weights"
    require(tokenizer.vocab_size <= size, "model", found, accepted)
    return writer(decoder, params, tokenizer)


def read_prompt(cfg: GenerateConfig) -> str:
    """The text of --prompt-file, then --prompt.

    Raises:
        ValueError: an unreadable file, or no prompt and no memory to go on from.
        FileNotFoundError: no such file.
    """
    text = read_text(cfg.prompt_file) if cfg.prompt_file else ""
    text += cfg.prompt
    given = bool(text or cfg.memory_in)
    require(given, "prompt", "none", "--prompt, --prompt-file or --memory-in")
    return text


def run(cfg: GenerateConfig) -> None:
    """Read and write, printing as it goes."""
    text, sampling = read_prompt(cfg), cfg.sampling()
    model = load(cfg.model, cfg.segment_len)
    state = start(model.decoder, 1)
    if cfg.memory_in:
        state = model.load(cfg.memory_in, cfg.memory_accept)
    ids, key = model.tokenizer.encode(text)[None], jax.random.key(cfg.seed)
    steps = model.stream(state, ids, cfg.tokens, key, sampling=sampling)
    print(f"reading {ids.shape[1]:,} tokens", file=sys.stderr)

    def tokens() -> Iterator[int]:
        nonlocal state
        state = yield from numbers(steps, [])

    for piece in pieces(model.tokenizer, tokens()):
        print(printable(piece), end="", flush=True)
    print()
    if cfg.memory_out:
        model.save(cfg.memory_out, state)
        print(f"what was read is in {cfg.memory_out}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.generate --model FOLDER [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    cfg = cli.options("python -m experiments.generate", __doc__ or "", GenerateConfig(), argv)
    with cli.refusals():
        run(cfg)


if __name__ == "__main__":
    main()
