"""Conversations by a tuned model's chat template: what the template itself would write."""

import dataclasses
import io
import json
import shlex
import sys

import jax
import numpy as np
import pytest

from experiments.dialogue import __main__ as command
from experiments.dialogue.corpus import marks_of
from experiments.dialogue.records import Conversation, Turn
from experiments.dialogue.replies import Answering, history
from experiments.dialogue.stream import Encoder, Layout, segments, template_marks
from experiments.dialogue.turns import Chat
from experiments.language_modeling import start
from experiments.language_modeling.sample import writer
from experiments.run.tables import CONTROL, TRAINED
from experiments.weights import __main__ as weights
from inf_former_jax import generate
from inf_former_jax.data.chat import Message, load_chat
from inf_former_jax.data.tokens import load_bpe
from inf_former_jax.models import presets
from inf_former_jax.models.convert import llama
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.training import optim, sharding, state
from tests.data.test_chat import ADDED, write_pair
from tests.experiments.test_llama import LLAMA

START, STOP = "<|im_start|>", "<|im_end|>"
CHATML = """\
{% for message in messages %}
{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}\
{% endif %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
TALK = Conversation(
    "line 1",
    "",
    ("A film.", "It is long."),
    (Turn(0, "who?", 0), Turn(1, "a b", 1), Turn(0, f"no {STOP}", 1), Turn(1, "ok", 0)),
    (True, False),
    None,
)
ROLES = ("user", "assistant")
SAID = [Message(ROLES[turn.speaker], turn.text) for turn in TALK.turns]


def tuned(folder, template=CHATML):
    """A tokeniser whose end is the template's."""
    vocab = write_pair(folder, more=[START, STOP])
    spec = json.loads(load_bpe(folder)._definition)
    marks = [{"id": vocab[token], "content": token, "special": True} for token in (START, STOP)]
    spec["added_tokens"] = [ADDED | {"lstrip": False} | mark for mark in marks]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    config = {"eos_token": STOP, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tuned(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def chat(folder):
    return load_chat(folder, load_bpe(folder))


def encoder(chat, document="whole"):
    return Encoder(chat.tokenizer, Layout(document, marks="template"), template_marks(chat))


OTHERS = {
    "a default message": CHATML,
    "no message of its own": CHATML.replace("loop.first and", "false and"),
    "a first token": START + CHATML.replace("loop.first and", "false and"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_conversation_is_what_the_template_writes(name, tmp_path):
    """With a document as the system's message, and without one: nothing more, nothing less."""
    where = tuned(tmp_path, OTHERS[name])
    chat = load_chat(where, load_bpe(where))
    document = Message("system", "\n".join(TALK.sections))
    for kind, said in (("whole", [document, *SAID]), ("none", SAID)):
        got, whole = encoder(chat, kind)(TALK), chat.encode(said)
        assert got.tokens.tolist() == whole[: len(got.tokens)].tolist(), kind
        rest = chat.tokenizer.decode(whole[len(got.tokens) :])
        assert rest == f"\n{START}assistant\n", kind
        texts = [chat.tokenizer.decode(got.tokens[turn.said : turn.end]) for turn in got.turns]
        assert texts == [turn.text for turn in TALK.turns]


def test_words_and_ends_count_and_marks_do_not(chat):
    got = encoder(chat)(TALK)
    words = chat.tokenizer.decode(got.tokens[got.scored])
    assert words == "".join(turn.text for turn in TALK.turns[1:])
    ends = np.flatnonzero(got.scored & (got.tokens == chat.tokenizer.end))
    assert ends.tolist() == [turn.end - 1 for turn in got.turns[1:]]
    cut = segments(got, 8)
    assert cut.weights.sum() == got.scored.sum()


def test_every_prompt_is_the_templates(chat):
    """The model is asked where the template would ask it."""
    encoded = encoder(chat)(TALK)
    cfg = presets.smollm2(vocab_size=300, segment_len=16, mem_len=16)
    document = Message("system", "\n".join(TALK.sections))
    split = type("Split", (), {"encoded": [encoded]})
    for number in (1, 3):  # the assistant's
        place = (0, encoded.turns[number])
        tokens, _ = history(encoder(chat), split, place, cfg, Answering())
        expected = chat.encode([document, *SAID[:number]])
        assert tokens.tolist() == expected.tolist()


def test_a_chat_reads_what_the_template_writes(chat, monkeypatch):
    """Turn by turn, with a document or without; nothing has types."""
    asked = []

    def stream(decoder, params, state, prompt, num_tokens, key, **options):
        asked.append(prompt[0].tolist())
        assert "types" not in options and "reply_types" not in options
        for token in (*chat.tokenizer.encode("ok").tolist(), chat.tokenizer.end):
            yield np.array([token])
        return state._replace(position=state.position + 1)

    def read(decoder, params, state, prompt, num_tokens, key, **options):
        asked.append(prompt[0].tolist())
        assert num_tokens == 0 and "types" not in options
        return None, state._replace(position=state.position + 1)

    monkeypatch.setattr(generate, "stream", stream)
    monkeypatch.setattr(generate, "generate", read)
    sizes = {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 2, "d_model": 2}
    decoder = Decoder(presets.smollm2(vocab_size=300, d_inner=2, **sizes))
    model = writer(decoder, {}, chat.tokenizer)
    said = [Message("user", "who?"), Message("assistant", "ok"), Message("user", "b")]
    for document in ("", "A film."):
        asked.clear()
        talk = Chat(model, encoder(chat, "whole" if document else "none"), Answering())
        talk.read(document)
        list(talk.answer("who?"))
        list(talk.answer("b"))
        before = [Message("system", document)] if document else []
        reply = [*chat.tokenizer.encode("ok").tolist(), chat.tokenizer.end]
        *first, last = asked
        assert [*np.concatenate(first), *reply, *last] == chat.encode([*before, *said]).tolist()


def test_refused_templates(tmp_path, chat):
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    for name, template, found in (
        ("bare", bare, "a message without an end"),
        ("none", "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "without marks"),
        ("some", CHATML.replace("message.role +", "message.role + loop.index|string +"), "several"),
    ):
        (tmp_path / name).mkdir()
        where = tuned(tmp_path / name, template)
        with pytest.raises(ValueError, match=found):
            marks_of(Layout(marks="template"), load_bpe(where), where)
    with pytest.raises(ValueError, match="marks: found template with document section"):
        Layout("section", marks="template")


def test_a_run_keeps_the_template(folder, tmp_path):
    """Beside its tokeniser, whose own copy of the file says only which token ends a text."""
    tokenizer = load_bpe(folder)
    start.keep_tokenizer(tokenizer, tmp_path)
    start.keep_template(str(folder), tmp_path)
    assert load_bpe(tmp_path).end == tokenizer.end
    assert load_chat(tmp_path, tokenizer).encode(SAID).tolist() == chat_of(folder, tokenizer)
    start.keep_template("bytes", tmp_path)  # no folder: nothing to copy


def chat_of(folder, tokenizer):
    return load_chat(folder, tokenizer).encode(SAID).tolist()


# Whole commands with a tiny tuned Llama


@pytest.fixture(scope="module")
def published(folder, tmp_path_factory):
    """A tiny random Llama with the template."""
    root = tmp_path_factory.mktemp("published")
    tokenizer = load_bpe(folder)
    cfg = dataclasses.replace(LLAMA, vocab_size=tokenizer.vocab_size)
    shapes = state.abstract_state(
        cfg, optim.optimizer(optim.OptimConfig()), 8, sharding.make_mesh()
    ).params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    llama.save(cfg, params, root / "llama", tokenizer=folder, eos=tokenizer.end)
    (root / "llama" / "tokenizer_config.json").write_text(
        (folder / "tokenizer_config.json").read_text()
    )
    return root / "llama"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Conversations about two documents."""
    root = tmp_path_factory.mktemp("talks")
    for split, count in {"train": 8, "valid": 4, "test": 4}.items():
        lines = []
        for i in range(count):
            turns = [
                {"speaker": turn % 2, "text": f"{'abcdefgh'[i]} {turn} {split}"}
                for turn in range(4)
            ]
            lines.append({"document": ["A film.", "A ship, a sea."][i % 2] * 3, "turns": turns})
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


SMALL = shlex.split("--replies 2 --reply-tokens 3 --temperature 0")
OF_CELLS = "--cells 8 --cell-tau 0.5 --cells-kept attended --cells-by-age --window 8 --sinks 2"
CELLS = shlex.split(OF_CELLS)


def evaluated(out, *options):
    command.main(["evaluate", *map(str, options), *SMALL, "--out", str(out)])
    return json.loads((out / "evaluation.json").read_text())


@pytest.mark.slow  # whole runs
def test_a_published_model_talks_as_it_is(published, data, tmp_path):
    """Without new parameters cells change what it says of a document; the controls are there."""
    shared = ("--run", published, "--segment-len", 8, "--data", data)
    plain = evaluated(tmp_path / "plain", *shared, "--window", 8)
    cells = evaluated(tmp_path / "cells", *shared, *CELLS)
    another = "another document"
    assert list(plain["test"]) == [TRAINED, another] and plain["replies"]["count"] == 2
    assert list(cells["test"]) == [TRAINED, CONTROL, another]
    losses = [row["loss"] for row in (*plain["test"].values(), *cells["test"].values())]
    assert len(set(losses)) == 5, "all of them are different"
    none = evaluated(tmp_path / "none", *shared, "--window", 8, "--document", "none")
    assert list(none["test"]) == [TRAINED] and none["test"][TRAINED]["loss"] not in losses


@pytest.mark.slow  # whole runs
def test_a_frozen_model_learns_a_memory_of_conversations(
    published, data, tmp_path, monkeypatch, capsys
):
    """Only the memory changes; the run is evaluated as it was tested, and talks."""
    run = tmp_path / "run"
    sizes = "--model.segment-len 8 --model.mem-len 8 --model.sinks 2 --model.long-term.num-basis 8"
    short = "--optim.steps 2 --optim.warmup-steps 0 --loop.eval-every 2 --batch-size 8"
    short += " --optim.learning-rate 0.1"
    every = "--valid-conversations 0 --test-conversations 0 --model.long-term-layers 1"
    options = [*shlex.split(f"{sizes} {short} {every}"), *SMALL]
    begun = ["--init-from", str(published), "--data", str(data), "--out", str(run)]
    command.main(["smollm2-infinity", *begun, *options])
    result = json.loads((run / "result.json").read_text())
    lower = "--keep-lower", tmp_path / "lower"  # it reads the outputs of the layer below
    again = evaluated(tmp_path / "again", "--run", run, "--data", data, *lower)
    assert list((tmp_path / "lower").iterdir())
    for label, row in result["test"].items():
        assert again["test"][label]["loss"] == pytest.approx(row["loss"], abs=1e-5), label
    assert again["replies"] == result["replies"]
    mine = tmp_path / "mine"
    weights.main(["memory", "--run", str(run), "--out", str(mine)])
    beside = evaluated(tmp_path / "beside", "--run", published, "--memory", mine, "--data", data)
    cells = [*CELLS, "--segment-len", 8, "--cell-layers", 1, "--cell-distance", 2048]
    bare = evaluated(tmp_path / "bare", "--run", published, *cells, "--data", data)
    trained, found, untrained = (one["test"][TRAINED]["loss"] for one in (result, beside, bare))
    assert found == pytest.approx(trained, rel=1e-4)  # but for the rounding of bfloat16
    assert abs(untrained - trained) > 3e-3 * trained
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"who?\nwhy?\n")))
    kept = tmp_path / "talk.npz"
    document = tmp_path / "a.txt"
    document.write_text("A film.")
    for where, more in (
        (run, ["--document", str(document)]),
        (published, [*CELLS, "--segment-len", "8"]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"who?\nwhy?\n")))
        command.main(
            ["chat", "--run", str(where), "--reply-tokens", "3", *more, "--memory-out", str(kept)]
        )
        said = capsys.readouterr()
        assert said.out.count("speaker2: ") == 2 and "segments are in the memory" in said.err
        assert kept.is_file()


@pytest.mark.slow  # reads a model
def test_a_model_that_was_not_tuned_is_refused(published, data, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in published.iterdir():
        if "config" not in file.name or file.name in ("config.json", "generation_config.json"):
            (bare / file.name).write_bytes(file.read_bytes())
    config = {"eos_token": STOP}
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stopped:
        evaluated(tmp_path, "--run", bare, "--segment-len", 8, "--data", data, "--window", 8)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert "chat_template: found none, accepted: a chat template" in said
