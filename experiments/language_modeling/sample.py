"""Text that a language model writes: whole continuations, and pieces of text as tokens come."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inf_former_jax import generate
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.generate import DecodeState
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require


def continuation(
    decoder: Decoder, params: Any, tokenizer: Tokenizer, prompt: str, num_tokens: int, seed: int
) -> str:
    """The text of num_tokens tokens after a prompt, or of fewer if the text ends; top_p = .9."""
    tokens, _ = generate.generate(
        decoder,
        params,
        generate.start(decoder, 1),
        tokenizer.encode(prompt)[None],
        num_tokens,
        jax.random.key(seed),
        top_p=0.9,
        stop=(tokenizer.end,),
        vocab_size=tokenizer.vocab_size,
    )
    return tokenizer.decode(np.asarray(tokens[0]))


def numbers(
    steps: Generator[jax.Array, None, DecodeState], written: list[int]
) -> Generator[int, None, DecodeState]:
    """The tokens of `generate.stream` for one row; returns the state that has read them.

    Args:
        written: receives each token before it is yielded.
    """
    while True:
        try:
            token = next(steps)
        except StopIteration as end:
            return end.value
        written.append(int(token[0]))
        yield written[-1]


def pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """The text of tokens as they come; a character of several tokens waits for its last one."""
    ids, shown = [], 0
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(np.array(ids, np.int32))
        if not text.endswith("\ufffd"):
            yield text[shown:]
            shown = len(text)
            if text.endswith("\n"):  # a line's end bounds what is decoded again at every token
                ids, shown = [], 0
    yield tokenizer.decode(np.array(ids, np.int32))[shown:]


def check_output(seed: int, memory_out: str) -> None:
    """Refuse a seed that JAX does not take, and a file in a folder that does not exist.

    Raises:
        ValueError: in these cases.
    """
    require(0 <= seed < 2**63, "seed", seed, "0 … 2**63 - 1")
    found = not memory_out or Path(memory_out).absolute().parent.is_dir()
    require(found, "memory_out", memory_out, "a file in a folder there is")
