"""Text that a trained model writes: options of writing, whole texts, and pieces as they come."""

import dataclasses
from collections.abc import Generator, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from inf_former_jax import files, generate
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.fields import Checked, Natural, NonNegative, Range, Seed
from inf_former_jax.generate import DecodeState, Sampling
from inf_former_jax.memory.long_term import Operators
from inf_former_jax.models.decoder import Decoder, operators


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteConfig(Checked):
    """Options of the commands that write text."""

    temperature: NonNegative = 1.0
    """0 = always the likeliest token."""
    top_p: Annotated[float, Range(0, 1, "(]")] = 0.9
    """Sample from the likeliest tokens whose probabilities sum to this; 1 = all."""
    top_k: Natural = 0
    """Sample from so many of the likeliest tokens; 0 = all."""
    memory_in: str = ""
    """A file of --memory-out: go on from what was read then."""
    memory_out: str = ""
    """File (.npz) for all that was read and written."""
    memory_accept: Literal["same", "any"] = "same"
    """Of --memory-in: same, what the same weights with the same memory have read; any, what
    another model of these sizes has read, too, although it may mean nothing to this one."""
    seed: Seed = 0

    def sampling(self) -> Sampling:
        """How tokens are drawn.

        Raises:
            ValueError: an option out of range, or a file that could not be written.
        """
        if self.memory_out:
            files.require_writable(self.memory_out, "memory_out")
        return Sampling(self.temperature, self.top_p, self.top_k)


class Writer(NamedTuple):
    """A model that writes text, on one device: a few rows at a time need no mesh."""

    decoder: Decoder
    params: Any
    operators: Operators
    tokenizer: Tokenizer

    def stream(
        self, state: DecodeState, prompt: np.ndarray, count: int, key: jax.Array, **options: Any
    ) -> Generator[jax.Array, None, DecodeState]:
        """`generate.stream`: draws only ids that have a text, and ends after the end token."""
        given = self._given(options)
        return generate.stream(*self[:2], state, prompt, count, key, **given)

    def write(
        self, state: DecodeState, prompt: np.ndarray, count: int, key: jax.Array, **options: Any
    ) -> tuple[np.ndarray, DecodeState]:
        """`generate.generate`: tokens [B, count], all ids with a text, padded after the end."""
        given = self._given(options)
        tokens, state = generate.generate(*self[:2], state, prompt, count, key, **given)
        return np.asarray(tokens), state

    def load(self, path: str, accept: Literal["same", "any"]) -> DecodeState:
        """`generate.load_state` of one row that this model has read."""
        return generate.load_state(path, self.decoder, 1, params=self.params, accept=accept)

    def save(self, path: str, state: DecodeState) -> None:
        """`generate.save_state` of what this model has read."""
        generate.save_state(path, state, decoder=self.decoder, params=self.params)

    def _given(self, options: dict[str, Any]) -> dict[str, Any]:
        stop, size = (self.tokenizer.end,), self.tokenizer.vocab_size
        return {"operators": self.operators, "stop": stop, "vocab_size": size, **options}


def writer(decoder: Decoder, params: Any, tokenizer: Tokenizer) -> Writer:
    """The writer of parameters that may lie on any number of devices."""
    ops = jax.device_put(operators(decoder.cfg))
    return Writer(decoder, jax.device_put(jax.device_get(params)), ops, tokenizer)


def continuation(model: Writer, prompt: str, num_tokens: int, seed: int) -> str:
    """The text of num_tokens tokens after a prompt, or of fewer if the text ends; top_p = .9."""
    state, ids = generate.start(model.decoder, 1), model.tokenizer.encode(prompt)[None]
    tokens, _ = model.write(state, ids, num_tokens, jax.random.key(seed), top_p=0.9)
    return model.tokenizer.decode(tokens[0])


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


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of each token, and at the end what is left.

    A character of several tokens belongs to the last of them; the text of the others is "".
    """
    ids, shown = [], 0
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(np.array(ids, np.int32))
        if text.endswith("\ufffd"):
            yield ""
            continue
        yield text[shown:]
        shown = len(text)
        if text.endswith("\n"):  # a line's end bounds what is decoded again at every token
            ids, shown = [], 0
    yield tokenizer.decode(np.array(ids, np.int32))[shown:]
