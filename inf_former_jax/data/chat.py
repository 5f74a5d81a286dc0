"""A conversation as a tuned model was taught to read it: its tokeniser's chat template.

Hugging Face's tools keep the template, a text in Jinja's language, beside the tokeniser. What
people say is put in only after the template was rendered, and is encoded as ordinary text. So a
text that spells the end of a turn does not end it.
"""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from inf_former_jax.data.tokens import ByteLevelBpe, Tokenizer
from inf_former_jax.files import read_json, read_text
from inf_former_jax.require import require, require_package

_FILE, _CONFIG, _FIELD = "chat_template.jinja", "tokenizer_config.json", "chat_template"

TEMPLATE_FILES = (_FILE, _CONFIG)
"""Files of a model's folder that say how a conversation is written."""

#: Tokens that a template may name.
_MARKS = ("bos_token", "eos_token", "pad_token", "unk_token")


Role = Literal["system", "user", "assistant"]


class Message(NamedTuple):
    """What one of the two says."""

    role: Role
    content: str


class Chat(NamedTuple):
    """Conversations in tokens; see `load_chat`."""

    template: Any  # compiled
    tokenizer: ByteLevelBpe
    where: str  # the template's file, for errors

    def encode(self, messages: Sequence[Message]) -> Int32[np.ndarray, " n"]:
        """The ids of what was said, up to where the assistant's next words begin.

        A message is encoded by itself, so that no token reaches across its ends.

        Raises:
            ValueError: the template refuses, changes or leaves out a message, or a message has
                characters without a token.
        """
        contents = [message.content for message in messages]
        roles: list[Role] = [message.role for message in messages]
        first, *after = self._around(roles)
        whole = self._rendered(roles, contents.__getitem__)
        for said in (contents, [content.strip() for content in contents]):
            pairs = list(zip(said, after, strict=True))
            if whole == first + "".join(map("".join, pairs)):
                break
        else:
            accepted = (
                "a template that takes them as they are, or without white space at their ends"
            )
            require(False, self.where, "one that changes messages", accepted)
        pieces = [self.tokenizer.encode_marked(first)]
        for content, after in pairs:
            pieces += [self.tokenizer.encode(content), self.tokenizer.encode_marked(after)]
        return np.concatenate(pieces)

    def around(self, roles: Sequence[Role]) -> list[Int32[np.ndarray, " n"]]:
        """The ids before the first message of these roles, between them, and after the last one.

        Raises:
            ValueError: the template refuses such a conversation, or leaves out a message.
        """
        return [self.tokenizer.encode_marked(text) for text in self._around(roles)]

    def _around(self, roles: Sequence[Role]) -> list[str]:
        # Places of the messages, by characters that Unicode will never assign.
        rendered = self._rendered(roles, "\ufdd0{}\ufdd1".format)
        first, *parts = re.split("\ufdd0(\\d+)\ufdd1", rendered)
        found = [int(number) for number in parts[::2]]
        accepted = "each message once and in order"
        require(found == list(range(len(roles))), self.where, f"messages {found}", accepted)
        return [first, *parts[1::2]]

    def _rendered(self, roles: Sequence[Role], content: Callable[[int], str]) -> str:
        """The conversation by the template, with this content of each message."""
        told = [{"role": role, "content": content(i)} for i, role in enumerate(roles)]
        with _refusals(self.where):
            return self.template.render(messages=told, add_generation_prompt=True)


def has_template(folder: str | Path) -> bool:
    """Whether a model's folder says how a conversation is written.

    Raises:
        ValueError: a tokenizer_config.json that is no JSON.
    """
    template, config = (Path(folder) / name for name in TEMPLATE_FILES)
    if template.is_file():
        return True
    return config.is_file() and bool(read_json(config).get(_FIELD))


def load_chat(folder: str | Path, tokenizer: Tokenizer) -> Chat:
    """The chat template of a model's folder.

    It is chat_template.jinja, or chat_template in tokenizer_config.json: a text, or a list of named
    ones, of which the one called default counts.

    Raises:
        ValueError: there is none, it is no template, or jinja2, an extra, is not installed.
    """
    accepted = "a conversation after pip install 'inf_former_jax[text]'"
    jinja2 = require_package("jinja2", _FIELD, accepted)
    sandbox, folder = require_package("jinja2.sandbox", _FIELD, accepted), Path(folder)
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    where = folder / _FILE
    found: Any = read_text(where) if where.is_file() else None
    if found is None:
        where = folder / _CONFIG
        found = config.get(_FIELD)
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    accepted = "a chat template, which models that were tuned on conversations have"
    told = "none" if found is None else repr(found)
    require(isinstance(found, str), f"{where}: {_FIELD}", told, accepted)
    accepted = "a byte-level BPE, which has tokens for the marks of a template"
    require(isinstance(tokenizer, ByteLevelBpe), "tokenizer", type(tokenizer).__name__, accepted)
    assert isinstance(tokenizer, ByteLevelBpe)  # for the type checker
    # As Hugging Face's tools render it, but what is not known is an error.
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": datetime.datetime.now().strftime,
        "tools": None,
        "documents": None,
    }
    for name in _MARKS:
        mark = config.get(name)
        mark = mark.get("content") if isinstance(mark, dict) else mark
        if isinstance(mark, str):
            environment.globals[name] = mark
    with _refusals(str(where)):
        return Chat(environment.from_string(found), tokenizer, str(where))


def _refuse(message: str) -> None:
    """What a template calls for messages that it does not take."""
    raise ValueError(message)


@contextlib.contextmanager
def _refusals(where: str) -> Iterator[None]:
    """Turn whatever a template raises into a ValueError that names its file."""
    try:
        yield
    except Exception as error:  # Jinja's own, and whatever a filter makes of a value
        found = f"{type(error).__name__}: {error}".partition("\n")[0]
        accepted = "a chat template that takes these messages"
        raise ValueError(f"{where}: found {found}, accepted: {accepted}") from None
