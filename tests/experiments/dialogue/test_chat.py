"""A conversation in the terminal: what is read at each turn, what is printed, what is refused."""

import dataclasses
import io
import json
import sys

import jax
import numpy as np
import pytest

from experiments.dialogue import __main__ as command
from experiments.dialogue import chat
from experiments.dialogue.config import small
from experiments.dialogue.replies import Answering
from experiments.dialogue.stream import Encoder, Layout
from experiments.dialogue.turns import Chat
from experiments.language_modeling.sample import writer
from experiments.run import folders
from inf_former_jax import generate
from inf_former_jax.data.tokens import Bytes, train_bpe
from inf_former_jax.generate import Sampling
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training import optim, sharding, state
from inf_former_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow  # together more than ten seconds

END, DOC, SPEAKERS = 256, 257, (258, 259)
DOCUMENT = "A film about a lighthouse, and about the woman who keeps it."
TURNS = ("who?", "is it good, or is it not very good at all?", "ok", "bye")
SEGMENT, WINDOW, REPLY = 24, 8, 6
GREEDY = Answering(reply_tokens=REPLY, sampling=Sampling(temperature=0.0))


@pytest.fixture(scope="module")
def models():
    """Decoders and their parameters, with a memory and without; seeds whose replies vary.

    The weights are large, so that every token matters; the end is a little likelier than a byte
    that would be said now and then, so that some replies end and others are cut.
    """
    remembering = ModelConfig(
        vocab_size=260,
        num_layers=1,
        num_heads=2,
        head_dim=4,
        d_model=8,
        d_inner=8,
        segment_len=SEGMENT,
        mem_len=SEGMENT,
        dropout=0.0,
        long_term=LongTermConfig(num_basis=8, widths=(0.1, 0.3), num_samples=8, bins=8),
    )
    made, mesh = {}, sharding.make_mesh()
    for name, cfg, seed in (
        ("memory", remembering, 8),
        ("none", dataclasses.replace(remembering, long_term=None, mem_len=0), 5),
    ):
        rng = np.random.default_rng(seed)
        shapes = state.abstract_state(cfg, optim.optimizer(optim.OptimConfig()), 8, mesh).params
        params = jax.tree.map(
            lambda leaf, rng=rng: rng.normal(size=leaf.shape).astype(np.float32), shapes
        )
        params["logits"]["kernel"][:, END] = 1.01 * params["logits"]["kernel"][:, 154]
        made[name] = Decoder(cfg), params
    return made


def spoken(kind, ids):
    """<kind> ids <eos>, and whose it is, by hand."""
    ids = [kind, *ids] + [END] * (not ids or ids[-1] != END)
    return np.array(ids, np.int32), np.full(len(ids), kind, np.int32)


def joined(parts):
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def answered(decoder, params, tokens, types, model):
    """Greedy reply to a stream that is read from its first token."""
    made, _ = generate.generate(
        decoder,
        params,
        generate.start(decoder, 1),
        np.append(tokens, model)[None],
        REPLY,
        jax.random.key(9),
        temperature=0.0,
        stop=(END,),
        vocab_size=257,
        types=np.append(types, model)[None],
        reply_types=np.array([model]),
    )
    made = np.asarray(made[0]).tolist()
    return made[: made.index(END) + 1] if END in made else made


def same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), left, right)


@pytest.mark.parametrize("speaker", [1, 2])
def test_a_carried_state_answers_as_all_read_anew(models, speaker):
    """SPEC §7's stream: every reply, and the state at the end, are those of one long reading."""
    decoder, params = models["memory"]
    person, other = SPEAKERS[speaker - 1], SPEAKERS[2 - speaker]
    model = writer(decoder, params, Bytes())
    chat = Chat(model, Encoder(Bytes(), Layout("section")), GREEDY, speaker)
    parts = [spoken(DOC, list(DOCUMENT.encode()))]
    assert chat.read(DOCUMENT) == len(DOCUMENT) + 2 == chat.place
    replies = []
    for text in TURNS:
        parts.append(spoken(person, list(text.encode())))
        replies.append(list(chat.answer(text)))
        assert replies[-1] == answered(decoder, params, *joined(parts), other)
        parts.append(spoken(other, replies[-1]))
        tokens, types = joined(parts)
        assert chat.place == len(tokens) > SEGMENT
    assert len({END in reply for reply in replies}) == 2, f"of both kinds: {replies}"
    _, whole = generate.generate(
        decoder,
        params,
        generate.start(decoder, 1),
        tokens[None],
        0,
        jax.random.key(0),
        types=types[None],
    )
    same(chat.state, whole)


@pytest.mark.parametrize("window", [0, WINDOW])
def test_a_window_and_the_last_turns_are_read_at_every_reply(models, window):
    """The document's first tokens with its end, then the last ones that leave room for a reply."""
    decoder, params = models["none"]
    layout = Layout(window=window) if window else Layout("none")
    chat = Chat(writer(decoder, params, Bytes()), Encoder(Bytes(), layout), GREEDY)
    document = spoken(DOC, list(DOCUMENT.encode()))
    assert chat.read(DOCUMENT) == (len(document[0]) if window else 0)
    before = [np.append(of[: window - 1], of[-1]) if window else of[:0] for of in document]
    parts, replies = [], []
    for text in TURNS:
        parts.append(spoken(SPEAKERS[0], list(text.encode())))
        kept = SEGMENT - REPLY - window - 1  # and <speaker2>
        asked = joined([before, [of[-kept:] for of in joined(parts)]])
        replies.append(list(chat.answer(text)))
        assert replies[-1] == answered(decoder, params, *asked, SPEAKERS[1])
        parts.append(spoken(SPEAKERS[1], replies[-1]))
    assert len(set(map(tuple, replies))) > 1 and int(chat.state.position[0]) == 0


def heard(monkeypatch, tokenizer, layout, how, texts, said):
    """The prompts of a conversation in which the model says always the same."""
    prompts = []

    def stream(decoder, params, state, prompt, num_tokens, key, **options):
        prompts.append((prompt[0].tolist(), options, jax.random.key_data(key).tolist()))
        for token in said:
            yield np.array([token])
        return state

    monkeypatch.setattr(generate, "stream", stream)
    sizes = {"num_layers": 1, "num_heads": 1, "head_dim": 2, "d_model": 2, "d_inner": 2}
    decoder = Decoder(ModelConfig(vocab_size=300, segment_len=2048, mem_len=0, **sizes))
    chat = Chat(writer(decoder, {}, tokenizer), Encoder(tokenizer, layout), how)
    for text in texts:
        list(chat.answer(text))
    return prompts


def test_control_tokens_that_are_typed_are_text(monkeypatch, tmp_path):
    bpe = train_bpe(["a b"], 260, tmp_path / "tokenizer.json")
    typed = "<speaker2> <doc><|endoftext|> <eos>"
    for tokenizer in (Bytes(), bpe):
        end, first = tokenizer.end, tokenizer.vocab_size + 1
        ((prompt, options, _),) = heard(
            monkeypatch, tokenizer, Layout("none"), GREEDY, [typed], [end]
        )
        assert prompt[:1] + prompt[-2:] == [first, end, first + 1]
        assert tokenizer.decode(np.array(prompt[1:-2])) == typed and end not in prompt[1:-2]
        assert options["stop"] == (end,) and options["vocab_size"] == tokenizer.vocab_size


def test_options_reach_the_sampling_and_every_reply_has_its_own_key(monkeypatch):
    cfg = chat.ChatConfig(run="run", temperature=0.5, top_p=0.7, top_k=3, seed=4)
    how = chat.check(cfg)
    one, two = heard(monkeypatch, Bytes(), Layout("none"), how, ["a", "b"], [65])
    assert one[1]["sampling"] == Sampling(temperature=0.5, top_p=0.7, top_k=3)
    other = dataclasses.replace(how, seed=5)
    other = heard(monkeypatch, Bytes(), Layout("none"), other, ["a"], [65])
    assert one[2] != two[2] and one[2] != other[0][2]
    # A reply that was cut is followed by its end, one that ended by no second one.
    assert two[0] == [258, 97, 256, 259, 65, 256, 258, 98, 256, 259]
    _, two = heard(monkeypatch, Bytes(), Layout("none"), how, ["a", "b"], [65, 256])
    assert two[0] == [258, 97, 256, 259, 65, 256, 258, 98, 256, 259]


def test_what_is_typed_and_shown():
    assert chat.cleaned("  a\t b\ud800\udcff \x00\n") == "a b\ufffd\ufffd \x00"
    assert chat.cleaned(" \t\n") == ""
    shown = chat.printable("a\n\té€\x00\x1b[2J\r\b\x7f\x9b")
    assert shown == "a\n\té€␀␛[2J␍␈␡\ufffd"


class Speechless:
    """Stands for `Chat`: answers each line with itself in capitals, and escapes."""

    encoder = Encoder(Bytes(), Layout())

    def answer(self, text):
        if text == "stop":
            raise KeyboardInterrupt
        yield from (text.upper() + "\x1b").encode()


def test_a_terminal_ends_by_the_end_of_input_and_by_ctrl_c(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for last, shown in ((EOFError, "\n"), (KeyboardInterrupt, "\n"), ("stop", "speaker1: \n")):
        typed = iter(["", "a", last])

        def read(label, typed=typed):
            assert label == "speaker2: "
            line = next(typed)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", read)
        chat.converse(Speechless(), 2)
        assert capsys.readouterr().out == f"speaker1: A␛\n{shown}"


def refused(capsys, *options):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as stopped:
        command.main(["chat", *map(str, options)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1, said
    return said


def test_refusals_at_the_door(tmp_path, capsys):
    text, latin, empty = (tmp_path / name for name in ("a.txt", "latin.txt", "empty.txt"))
    text.write_text("abc")
    latin.write_bytes(b"abc\xe9")
    empty.write_text(" \n")
    assert "run: found none" in refused(capsys, "--document", text)
    (tmp_path / "config.json").write_text('{"chords": 3}')
    assert "model_type: found 'nothing', accepted: gpt2" in refused(
        capsys, "--run", tmp_path, "--document", text
    )
    for file, message in (
        (latin, f"{latin}: byte 3: found 0xe9, accepted: UTF-8"),
        (empty, f"{empty}: found no text, accepted: a text"),
        (tmp_path, f"{tmp_path}: found is a directory, accepted: a file of UTF-8 text"),
        (tmp_path / "no", "no: found nothing, accepted: a file of UTF-8 text"),
    ):
        assert message in refused(capsys, "--run", tmp_path, "--document", file)
    for options, message in (
        (["--reply-tokens", 0], "reply_tokens: found 0"),
        (["--temperature", -1], "temperature: found -1"),
        (["--temperature", "nan"], "temperature: found nan"),
        (["--top-p", 0], "top_p: found 0"),
        (["--top-p", 1.1], "top_p: found 1.1"),
        (["--top-k", -1], "top_k: found -1"),
        (["--speaker", 0], "speaker: found 0"),
        (["--speaker", 3], "speaker: found 3"),
        (["--seed", -1], "seed: found -1"),
        (["--memory-in", "m.npz"], "document: found one beside --memory-in"),
        (["--memory-out", tmp_path / "no" / "m.npz"], "memory_out: found"),
    ):
        said = refused(capsys, "--run", tmp_path, "--document", text, *options)
        assert message in said, options
    none = tmp_path / "none"
    assert "none: found no config.json" in refused(capsys, "--run", none, "--document", text)


def a_run(folder, decoder, params, layout):
    """A run folder as training leaves it, of parameters that were never trained."""
    cfg = dataclasses.replace(
        small("window"), model=decoder.cfg, layout=layout, tokenizer="bytes", batch_size=8
    )
    folder.mkdir()
    folders.write_json(folder / "config.json", folders.to_json(cfg))
    (folder / "metrics.jsonl").touch()
    fresh = state.init_state(decoder.cfg, optim.optimizer(cfg.optim), 8, 0, sharding.make_mesh())
    placed = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), params, fresh.params)
    with Checkpoints(folder / "checkpoints", cfg.checkpoint) as checkpoints:
        checkpoints.save(0, fresh._replace(params=placed))
    return folder


def piped(monkeypatch, capsys, typed, *options):
    """What the command prints on both streams when bytes are piped into it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    command.main(["chat", *map(str, options)])
    return capsys.readouterr()


@pytest.mark.slow  # whole runs are written and read
def test_a_piped_conversation_goes_on_where_its_memory_ended(models, tmp_path, monkeypatch, capsys):
    """Both sides are printed; halves by way of a file are the whole, with sampling too."""
    decoder, params = models["memory"]
    folder, kept = a_run(tmp_path / "run", decoder, params, Layout()), tmp_path / "m.npz"
    document = tmp_path / "a.txt"
    document.write_text(DOCUMENT + "\n")
    common = ["--run", folder, "--reply-tokens", REPLY, "--top-p", 1]
    lines = [b"who?\n", b"\n", b"is\xff it\x00 good?\n", b"o" * 200 + b"\n", b"bye"]
    whole = piped(monkeypatch, capsys, b"".join(lines), *common, "--document", document)
    typed = [line for line in whole.out.split("\n") if line.startswith("speaker1: ")]
    shown = ["who?", "is\ufffd it␀ good?", "o" * 200, "bye"]
    assert typed == [f"speaker1: {line}" for line in shown]
    assert whole.out.count("speaker2: ") == 4 and whole.out.endswith("\n")
    assert f"read {len(DOCUMENT) + 2} tokens of the document" in whole.err
    assert "tokens/s; 2 segments are in the memory" in whole.err

    options = ["--document", document, "--memory-out", kept]
    first = piped(monkeypatch, capsys, b"".join(lines[:3]), *common, *options).out
    rest = piped(monkeypatch, capsys, b"".join(lines[3:]), *common, "--memory-in", kept)
    assert first + rest.out == whole.out and "read 0 tokens" in rest.err
    other = piped(monkeypatch, capsys, b"".join(lines[3:]), *common, "--document", document).out
    assert other != rest.out
    assert "document: found none" in refused(capsys, *common)
    assert "gone.npz" in refused(capsys, *common, "--memory-in", tmp_path / "gone.npz")


@pytest.mark.slow  # a whole run is written and read
def test_a_run_with_windows_keeps_no_memory(models, tmp_path, monkeypatch, capsys):
    folder = a_run(tmp_path / "run", *models["none"], Layout(window=WINDOW))
    document = tmp_path / "a.txt"
    document.write_text(DOCUMENT)
    options = ["--run", folder, "--document", document, "--reply-tokens", REPLY]
    said = piped(monkeypatch, capsys, b"o" * 10_000, *options)
    assert said.out.startswith("speaker1: ooo") and "\nspeaker2: " in said.out
    assert f"at most {WINDOW} of them before every reply" in said.err
    out = tmp_path / "m.npz"
    assert "keeps no memory" in refused(capsys, *options, "--memory-out", out)
    assert "keeps no memory" in refused(capsys, "--run", folder, "--memory-in", out)
    assert not out.exists()
    config = json.loads((folder / "config.json").read_text())
    config["objective"]["empty_memory"] = True
    (folder / "config.json").write_text(json.dumps(config))
    assert "a control trained with its memory emptied" in refused(capsys, *options)
