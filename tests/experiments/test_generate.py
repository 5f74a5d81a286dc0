"""The command that writes text: what it prints, the memory it keeps, what it refuses."""

import json
import re
import shlex

import numpy as np
import pytest

from experiments import generate
from experiments.language_modeling import __main__ as language_modeling
from experiments.language_modeling.sample import pieces
from inf_former_jax.data.tokens import Bytes
from inf_former_jax.models.convert import gpt2

pytestmark = pytest.mark.slow  # a whole run before


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(run folder, its result) of a tiny model with a memory; some bytes are never seen."""
    root, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        (root / split).mkdir()
        for i in range(8):
            (root / split / f"{i}.txt").write_text(" ".join(rng.choice(["abc", "de"], 12)))
    language_modeling.main(
        shlex.split(f"""
            gpt2-infinity-lasting --data {root} --cache {root / "cache"} --tokenizer bytes
            --model.vocab-size 257 --model.segment-len 8 --model.num-layers 2
            --model.num-heads 2 --model.head-dim 4 --model.d-model 8 --model.d-inner 16
            --model.long-term.num-basis 8 --model.long-term.num-samples 8
            --optim.learning-rate 0.05 --optim.steps 60 --optim.warmup-steps 1
            --loop.eval-every 60 --sample 9 --out {root / "run"}
        """)
    )
    return root / "run", json.loads((root / "run" / "result.json").read_text())


def written(capsys, *options):
    """What the command prints."""
    generate.main(list(map(str, options)))
    return capsys.readouterr().out


def test_a_run_ends_with_a_sample(model):
    """Of the letters that it has learnt: 9 bytes after three segments of a test document."""
    sample = model[1]["sample"]
    assert len(sample["after"]) == 24 and 0 < len(sample["written"].encode()) <= 9
    assert set(sample["written"]) <= set("abcde ")


def test_a_document_read_before_is_as_good_as_one_read_now(model, tmp_path, capsys):
    """Prompt in two halves, the first one kept in a file; in the middle of a segment."""
    prompt = "abc de abc abc de de abc de abc"
    common = ["--model", model[0], "--temperature", "0", "--top-p", "1"]
    whole = written(capsys, *common, "--prompt", prompt, "--tokens", "20")
    assert set(whole.strip()) <= set("abcde ") and 1 < len(whole) <= 21
    kept = tmp_path / "read.npz"
    written(capsys, *common, "--prompt", prompt[:19], "--tokens", "0", "--memory-out", kept)
    rest = ["--prompt", prompt[19:], "--tokens", "20", "--memory-in", kept]
    assert written(capsys, *common, *rest) == whole
    # The prompt may come from a file; and all of it may have been read before.
    (tmp_path / "prompt.txt").write_text(prompt)
    read = ["--prompt-file", tmp_path / "prompt.txt", "--tokens", "0", "--memory-out", kept]
    written(capsys, *common, *read)
    last = [*common, "--tokens", "20", "--memory-in"]
    assert written(capsys, *last, kept) == whole
    with np.load(kept) as members:  # a file that does not tell whose it is, as of version 0.2
        np.savez(tmp_path / "old.npz", **{k: v for k, v in members.items() if k != "model"})
    with pytest.raises(SystemExit):
        generate.main(list(map(str, [*last, tmp_path / "old.npz"])))
    assert "old.npz: weights: found None, accepted: " in capsys.readouterr().err
    assert written(capsys, *last, tmp_path / "old.npz", "--memory-accept", "any") == whole


def test_a_character_waits_for_its_last_byte():
    text = "aé\nb€"
    shown = list(pieces(Bytes(), iter(Bytes().encode(text).tolist())))
    assert "".join(shown) == text and shown[:4] == ["a", "", "é", "\n"]
    # One that never ends is shown as what it is.
    assert "".join(pieces(Bytes(), iter([0x61, 0xC3]))) == "a\ufffd"


def test_rates_are_told(model, capsys):
    """On standard error, so that the text can be kept."""
    generate.main(["--model", str(model[0]), "--prompt", "abc de", "--tokens", "9", "--top-k", "1"])
    said = capsys.readouterr().err
    assert re.search(r"^model loaded in [0-9.]+ s, reading 6 tokens$", said, re.M)
    rates = r"read 6 tokens in [0-9.]+ s, compiling included; wrote [0-9.e+]+ tokens a second"
    assert re.search(rates, said)


def test_what_is_written_gives_a_terminal_no_orders(model, monkeypatch, capsys):
    monkeypatch.setattr(generate, "pieces", lambda *_: iter(["\x1b]0;", "a\r\x07\n", "\x9b2J"]))
    assert written(capsys, "--model", model[0], "--prompt", "a") == "␛]0;a␍␇\n\ufffd2J\n"


def test_refusals(model, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes(b"abc\xe9")
    gpt2_folder = tmp_path / "gpt2"
    loaded = generate.load(str(model[0]))
    gpt2.save(loaded.decoder.cfg, loaded.params, gpt2_folder)
    for options, message in (
        (["--prompt", "a"], "model: found none"),
        (["--model", model[0]], "prompt: found none, accepted: --prompt, --prompt-file"),
        (
            ["--model", model[0], "--prompt-file", tmp_path / "latin.txt"],
            "latin.txt: byte 3: found 0xe9, accepted: UTF-8",
        ),
        (["--model", tmp_path / "nothing", "--prompt", "a"], "nothing: found nothing"),
        (["--model", model[0], "--prompt", "a", "--memory-out", tmp_path], "memory_out: found"),
        (["--model", model[0], "--prompt", "a", "--top-p", "0"], "top_p: found 0"),
        (["--model", model[0], "--prompt", "a", "--tokens", "-1"], "tokens: found -1"),
        (["--model", gpt2_folder, "--prompt", "a"], "accepted: tokenizer.json"),
        (["--model", model[0], "--ask", "a"], "chat_template: found none, accepted: a chat"),
        (["--model", gpt2_folder, "--prompt", "a", "--segment-len", "999"], "segment_len: found"),
    ):
        with pytest.raises(SystemExit) as stopped:
            generate.main(list(map(str, options)))
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and message in said and said.count("\n") == 1, options
