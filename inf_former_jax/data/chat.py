"""A conversation as a tuned model was taught to read it: its tokeniser's chat template.

Hugging Face's tools keep the template, a text in Jinja's language, beside the tokeniser. What
people say is put in only after the template was rendered, and is encoded as ordinary text. So a
text that spells the end of a turn does not end it.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from inf_former_jax.data.tokens import ByteLevelBpe, Tokenizer
from inf_former_jax.files import read_json, read_text
from inf_former_jax.require import require

_FILE, _CONFIG, _FIELD = "chat_template.jinja", "tokenizer_config.json", "chat_template"


class Message(NamedTuple):
    """What one of the two says."""

    role: Literal["system", "user", "assistant"]
    content: str


class Chat(NamedTuple):
    """Conversations in tokens; see `load_chat`."""

    template: Any  # compiled
    tokenizer: ByteLevelBpe
    where: str  # the template's file, for errors

    def encode(self, messages: Sequence[Message]) -> Int32[np.ndarray, " n"]:
        """The ids of what was said, up to where the assistant's next words begin.

        Raises:
            ValueError: the template refuses the messages or leaves one out, or a message has
                characters without a token.
        """
        # Places of the messages, by characters that Unicode will never assign.
        marks = [{"role": m.role, "content": f"\ufdd0{i}\ufdd1"} for i, m in enumerate(messages)]
        with _refusals(self.where):
            text = self.template.render(messages=marks, add_generation_prompt=True)
        parts = re.split("\ufdd0(\\d+)\ufdd1", text)
        said = [int(number) for number in parts[1::2]]
        accepted = "each message once and in order, in a template that does not look into them"
        require(said == list(range(len(messages))), self.where, f"messages {said}", accepted)
        pieces = [self.tokenizer.encode_marked(parts[0])]
        for number, after in zip(said, parts[2::2], strict=True):
            pieces.append(self.tokenizer.encode(messages[number].content))
            pieces.append(self.tokenizer.encode_marked(after))
        return np.concatenate(pieces)


def load_chat(folder: str | Path, tokenizer: Tokenizer) -> Chat:
    """The chat template of a model's folder.

    It is chat_template.jinja, or chat_template in tokenizer_config.json: a text, or a list of named
    ones, of which the one called default counts.

    Raises:
        ValueError: there is none, it is no template, or jinja2, an extra, is not installed.
    """
    jinja2, folder = _library(), Path(folder)
    where = folder / _FILE
    found: Any = read_text(where) if where.is_file() else None
    if found is None:
        where = folder / _CONFIG
        found = read_json(where).get(_FIELD) if where.is_file() else None
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    accepted = "a chat template, which models that were tuned on conversations have"
    told = "none" if found is None else repr(found)
    require(isinstance(found, str), f"{where}: {_FIELD}", told, accepted)
    accepted = "a byte-level BPE, which has tokens for the marks of a template"
    require(isinstance(tokenizer, ByteLevelBpe), "tokenizer", type(tokenizer).__name__, accepted)
    assert isinstance(tokenizer, ByteLevelBpe)  # for the type checker
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    with _refusals(str(where)):
        environment.globals["raise_exception"] = _refuse
        return Chat(environment.from_string(found), tokenizer, str(where))


def _refuse(message: str) -> None:
    """What a template calls for messages that it does not take."""
    import jinja2

    raise jinja2.TemplateError(message)


@contextlib.contextmanager
def _refusals(where: str) -> Iterator[None]:
    """Turn whatever a template raises into a ValueError that names its file."""
    try:
        yield
    except Exception as error:
        found = f"{type(error).__name__}: {error}".partition("\n")[0]
        accepted = "a chat template that takes these messages"
        raise ValueError(f"{where}: found {found}, accepted: {accepted}") from None


def _library() -> Any:
    """The package jinja2, an extra."""
    try:
        import jinja2.sandbox
    except ModuleNotFoundError:
        accepted = "a prompt, or a question after pip install 'inf_former_jax[text]'"
        message = f"ask: the package jinja2 is not installed, accepted: {accepted}"
        raise ValueError(message) from None
    return jinja2
