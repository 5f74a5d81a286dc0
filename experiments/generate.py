"""Text from a trained language model that has read a document of any length first.

    python -m experiments.generate --model FOLDER --prompt "text" [--options]

FOLDER is a run of `experiments.language_modeling`, or a published GPT-2 or Llama. The prompt
streams through the memory at constant cost a segment; tokens are printed as they come. --memory-out
keeps what was read, the open segment included, and --memory-in goes on from there, without the
document.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import jax

from experiments.language_modeling import start
from experiments.language_modeling.config import PublishedConfig
from experiments.language_modeling.sample import WriteConfig, Writer, numbers, pieces, writer
from experiments.run import cli
from inf_former_jax import generate
from inf_former_jax.data.chat import Message, load_chat
from inf_former_jax.fields import Natural, Required
from inf_former_jax.files import printable, read_text
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig(PublishedConfig, WriteConfig):
    """What to read, and how to go on."""

    model: Annotated[str, Required("a run folder, or one of a GPT-2 or Llama")] = ""
    """A run folder of experiments.language_modeling, or a Hugging Face folder of a GPT-2 or a
    Llama."""
    prompt: str = ""
    """Text to go on from; after that of --prompt-file."""
    prompt_file: str = ""
    """A text file to read first, of any length."""
    ask: str = ""
    """A question to a model that was tuned on conversations. It and the prompt before it are what
    the user says first, in the form of the model's chat template. With --memory-in the conversation
    begins after what was read then."""
    tokens: Natural = 200
    """Tokens to write; 0 = only read, for --memory-out."""


def load(folder: str, segment_len: int = 0, memory: str = "", dtype: str = "") -> Writer:
    """The model of a run folder or of a published one; errors as of `start.load`."""
    cfg, params, tokenizer = start.load(folder, segment_len, memory, dtype)
    return writer(Decoder(cfg.model), params, tokenizer)


def read_prompt(cfg: GenerateConfig) -> str:
    """The text of --prompt-file, then --prompt, then after an empty line --ask.

    Raises:
        ValueError: an unreadable file, or no prompt and no memory to go on from.
        FileNotFoundError: no such file.
    """
    text = read_text(cfg.prompt_file) if cfg.prompt_file else ""
    text += cfg.prompt
    text += "\n\n" * bool(text and cfg.ask) + cfg.ask
    given = bool(text or cfg.memory_in)
    require(given, "prompt", "none", "--prompt, --prompt-file, --ask or --memory-in")
    return text


def run(cfg: GenerateConfig) -> None:
    """Read and write, printing as it goes."""
    text, sampling, begin = read_prompt(cfg), cfg.sampling(), time.perf_counter()
    model = load(cfg.model, cfg.segment_len, cfg.memory, cfg.dtype)
    loaded = time.perf_counter() - begin
    if cfg.ask:
        ids = load_chat(cfg.model, model.tokenizer).encode([Message("user", text)])
    else:
        ids = model.tokenizer.encode(text)
    state = generate.start(model.decoder, 1)
    if cfg.memory_in:
        state = model.load(cfg.memory_in, cfg.memory_accept)
    ids, key = ids[None], jax.random.key(cfg.seed)
    steps = model.stream(state, ids, cfg.tokens, key, sampling=sampling)
    print(f"model loaded in {loaded:.1f} s, reading {ids.shape[1]:,} tokens", file=sys.stderr)

    def tokens() -> Iterator[int]:
        nonlocal state
        state = yield from numbers(steps, written)

    written: list[int] = []
    begin, first = time.perf_counter(), 0.0
    for piece in pieces(model.tokenizer, tokens()):
        first = first or time.perf_counter()
        print(printable(piece), end="", flush=True)
    print()
    end = time.perf_counter()
    told = f"read {ids.shape[1]:,} tokens in {(first or end) - begin:.1f} s, compiling included"
    if len(written) > 1:
        told += f"; wrote {(len(written) - 1) / (end - first):.3g} tokens a second"
    print(told, file=sys.stderr)
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
