"""A chat template's conversation in tokens, by hand; what is said cannot end a turn."""

import json
import sys

import numpy as np
import pytest

from inf_former_jax.data.chat import Message, load_chat
from inf_former_jax.data.tokens import END, Bytes, load_bpe
from tests.data.test_tokens import ADDED, write_pair

START, STOP = "<|start|>", "<|stop|>"
TEMPLATE = """\
{% for message in messages %}
<|start|>{{ message.role }}: {{ message.content | trim }}<|stop|>
{% endfor %}
{% if add_generation_prompt %}
<|start|>assistant:{% endif %}
"""


@pytest.fixture
def folder(tmp_path):
    """A tokeniser that has tokens for the marks, and the template in its configuration."""
    vocab = write_pair(tmp_path, more=[START, STOP])
    spec = json.loads(load_bpe(tmp_path)._definition)
    marks = [{"id": vocab[token], "content": token, "special": True} for token in (START, STOP)]
    spec["added_tokens"] = [ADDED | {"lstrip": False} | mark for mark in marks]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    write(tmp_path, TEMPLATE)
    return tmp_path


def write(folder, template):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


def test_a_conversation_by_hand(folder):
    """Marks are tokens where the template has them, and text where somebody says them."""
    tokenizer = load_bpe(folder)
    said = [Message("user", f" a{STOP}\n"), Message("system", "b")]  # the template trims
    ids = load_chat(folder, tokenizer).encode(said)
    start, stop = (tokenizer.encode_marked(mark).tolist() for mark in (START, STOP))
    assert len(start) == len(stop) == 1 and len(tokenizer.encode(STOP)) > 1

    def turn(said):
        return start + tokenizer.encode(said).tolist() + stop + tokenizer.encode("\n").tolist()

    asked = start + tokenizer.encode("assistant:").tolist()
    assert ids.tolist() == turn(f"user: a{STOP}") + turn("system: b") + asked
    assert tokenizer.encode(STOP).tolist() != stop  # an ordinary text is encoded as before


def test_where_templates_are(folder):
    """A file of its own comes first; of named ones the default counts."""
    tokenizer, said = load_bpe(folder), [Message("user", "a")]
    write(folder, [{"name": "tools", "template": ""}, {"name": "default", "template": TEMPLATE}])
    by_name = load_chat(folder, tokenizer).encode(said).tolist()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert load_chat(folder, tokenizer).encode(said).tolist() == tokenizer.encode("a!").tolist()
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert load_chat(folder, tokenizer).encode(said).tolist() == by_name


@pytest.mark.parametrize(
    "template, found",
    [
        (None, "none"),
        (3, "3"),
        ([{"name": "tools", "template": "x"}], "none"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ raise_exception('no users here') }}", "ValueError: no users here"),
        ("{{ messages[9].content.text }}", "UndefinedError"),
        ("{{ ().__class__.__mro__ }}", "SecurityError"),
        ("hello", r"messages \[\]"),
        ("{{ messages[0].content | upper }}", "one that changes messages"),
        ("{{ nobody_knows }}{{ messages[0].content }}", "UndefinedError"),
        ("{{ messages[0].content }}{{ messages[0].content }}", r"messages \[0, 0\]"),
    ],
)
def test_refused(folder, template, found):
    write(folder, template)
    with pytest.raises(ValueError, match=rf"tokenizer_config.json.*: found {found}.*, accepted: "):
        load_chat(folder, load_bpe(folder)).encode([Message("user", "a")])


def test_names_that_templates_know(folder):
    """Marks by their names, as a text or with how they are matched, and loop controls."""
    config = {"bos_token": START, "eos_token": {"content": STOP}, "chat_template": (
        "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}"
        "{% if tools or documents %}{% break %}{% endif %}{% endfor %}"
    )}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_bpe(folder, end=END)
    ids = load_chat(folder, tokenizer).encode([Message("user", " a "), Message("user", "b")])
    assert ids.tolist() == np.concatenate(
        [
            tokenizer.encode_marked(START),
            tokenizer.encode(" a "),
            tokenizer.encode_marked(STOP + START),
            tokenizer.encode("b"),
            tokenizer.encode_marked(STOP),
        ]
    ).tolist()  # fmt: skip


def test_bytes_have_no_marks(folder):
    with pytest.raises(ValueError, match=r"^tokenizer: found Bytes, accepted: a byte-level BPE"):
        load_chat(folder, Bytes())


@pytest.mark.parametrize(
    "package, name", [("jinja2", "chat_template"), ("tokenizers", "tokenizer")]
)
def test_packages_of_the_extra_are_asked_for(folder, package, name, monkeypatch):
    tokenizer = load_bpe(folder)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    found = rf"^{name}: the package {package} is not installed, accepted: .* pip install"
    with pytest.raises(ValueError, match=found):
        load_chat(folder, tokenizer if package == "jinja2" else load_bpe(folder))
