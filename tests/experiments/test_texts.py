"""Texts from files: the same bytes are the same text everywhere; printed, they give no orders."""

import os

import pytest
from hypothesis import given, settings

from experiments.dialogue import task as dialogue
from experiments.dialogue.chat import read_document
from experiments.generate import GenerateConfig, read_prompt
from experiments.language_modeling import plots, start
from experiments.language_modeling import task as language_modeling
from experiments.run import cli, tables
from experiments.sorting import data as sorting
from inf_former_jax.data import text
from inf_former_jax.data.tokens import load_bpe, train_bpe
from inf_former_jax.training.checkpoint import CheckpointError
from tests.data.damage import BOM, damaged, put, refusals

ANSWER = " ".join(map(str, range(20)))
ESCAPES = "\x1b]0;title\x07\x9b2J\r[bold]\x7f"
SHOWN = "␛]0;title␇\ufffd2J␍[bold]␡"


def test_the_same_bytes_are_the_same_text(tmp_path):
    """In training, as a prompt, and as the document of a conversation."""
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\rthree\u2028\n\nfour".encode())
    (document,) = text.documents(file)
    assert document.text == "one\r\ntwo\rthree\u2028\n\nfour"
    assert read_prompt(GenerateConfig(prompt_file=str(file))) == document.text
    assert read_document(str(file)) == document.text


@pytest.mark.parametrize("raw", [b"\xff", None])
def test_a_prompt_that_cannot_be_read_is_named(tmp_path, raw):
    file = tmp_path / "a.txt"
    if raw:
        file.write_bytes(raw)
    for read in (read_document, lambda path: read_prompt(GenerateConfig(prompt_file=path))):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{file}: .*found .*, accepted"):
            read(str(file))


@settings(max_examples=30, derandomize=True)
@given(content=damaged(f"1 2 20 {ANSWER}\n3 3 20 {ANSWER}\n".encode()))
def test_damaged_sequences(tmp_path_factory, content):
    """What is accepted is what is written again, but for spaces."""
    folder = tmp_path_factory.mktemp("sorting")
    put(folder / "a.txt", content)
    with refusals(folder) as refused:
        tokens, answers = sorting.read(folder / "a.txt")
    if refused:
        return
    sorting.write(folder / "b.txt", tokens, answers)
    assert (folder / "b.txt").read_bytes().split() == content.removeprefix(BOM).split()


def test_tables_and_errors_print_no_orders(capsys):
    tables.show(ESCAPES, (ESCAPES, "b"), [[ESCAPES, "c"]], width=100)
    assert capsys.readouterr().out.count(SHOWN) == 3
    with pytest.raises(SystemExit), cli.refusals():
        raise ValueError(ESCAPES)
    assert capsys.readouterr().err == f"error: {SHOWN}\n"


def test_reports_print_no_orders(tmp_path, monkeypatch, capsys):
    """What models say at the end of a run, and where it is from."""
    monkeypatch.setattr(plots, "perplexity", lambda *_: None)
    figures = dict.fromkeys(("perplexity", "word_perplexity", "bits_per_byte", "accuracy"), 1.0)
    result = {"corpus": ESCAPES, "steps": 1, "test": {"as trained": figures}, "valid": {}}
    result |= {"splits": {"train": {"skipped": [ESCAPES] * 2, "dropped": 1234}}}
    sample = {"after": ESCAPES, "written": ESCAPES}
    language_modeling.report("name", tmp_path, result | {"sample": sample})
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 4 and f"train: 2 left out, {SHOWN}\n" in said
    assert "train: 1,234 characters without a token left out\n" in said
    reply = dict.fromkeys(("before", "true", "reply"), ESCAPES)
    result |= {"replies": {"count": 1}, "ten_replies": [reply]}
    dialogue.report("name", tmp_path, result)
    shown = said + (said := capsys.readouterr().out)
    assert said.count(SHOWN) == 4 and not set(shown) & set("\x1b\x07\x9b\r\x7f")


def test_a_tokeniser_is_written_once_and_never_over_another(tmp_path):
    """A damaged one is refused: a kill while it was written, or a hand."""
    tokenizer = train_bpe(["the cat sat"], 260, tmp_path / "made" / "tokenizer.json")
    file = tmp_path / "tokenizer.json"
    start.keep_tokenizer(tokenizer, tmp_path)
    before = os.stat(file)
    start.keep_tokenizer(tokenizer, tmp_path)
    assert os.stat(file) == before
    assert load_bpe(file).fingerprint == tokenizer.fingerprint
    whole = file.read_bytes()
    for raw in (whole[:100], b"", b"[" * 100_000, b"\xff", b"{}"):
        file.write_bytes(raw)
        with pytest.raises(CheckpointError, match=f"out: {file}: .*found .*, accepted: .*--fresh"):
            start.keep_tokenizer(tokenizer, tmp_path)
        assert file.read_bytes() == raw
    other = train_bpe(["a dog ran"], 260, tmp_path / "other.json")
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="begun with another tokeniser"):
        start.keep_tokenizer(other, tmp_path)


def test_a_damaged_tokeniser_of_the_cache_is_trained_again(tmp_path):
    file = tmp_path / "cache" / "tokenizer.json"
    first = start.trained_tokenizer(["the cat sat"], 260, file)
    whole = file.read_bytes()
    assert start.trained_tokenizer(iter([]), 260, file).fingerprint == first.fingerprint
    file.write_bytes(whole[:50])
    assert start.trained_tokenizer(["the cat sat"], 260, file).fingerprint == first.fingerprint
    assert file.read_bytes() == whole
