"""Damaged texts, tokenisers and caches: refused in the dialect or read as what they say."""

import functools
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inf_former_jax.data import text
from inf_former_jax.data.splits import tokenize
from inf_former_jax.data.text import Skip
from inf_former_jax.data.tokens import END, Bytes, load_bpe, train_bpe
from tests.data.damage import BOM, damaged, mutated, put, refusals
from tests.data.test_tokens import ALPHABET

# tmp_path is of the test, not of the example; each example has a folder of its own in it.
fuzz = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def fresh(tmp_path_factory, monkeypatch):
    """A new folder at each call; nothing waits for a disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return lambda: tmp_path_factory.mktemp("damaged")


WIKI = b" \n = One = \n \n words \xc3\xa9 \n = 1 = \n \n = Two = \n"
LINES = b'{"text": "one", "title": "A"}\n\n{"text": "two\\u2028", "id": 3}\n{"text": ""}\n'
BOOK = "A book\nof words é\n".encode()
TITLES = b'a,"The ""A""",1900\nb,\n'
RECORD = {"text": "one", "title": "A", "id": 3, "meta": {"a": [1]}}


@fuzz(max_examples=80)
@given(
    kind=st.sampled_from(["wiki.train.tokens", "train.jsonl", "train/a.txt", "metadata.csv"]),
    content=damaged(WIKI, LINES, BOOK, TITLES) | mutated(RECORD),
    skip_odd=st.booleans(),
)
def test_texts(fresh, kind, content, skip_odd):
    """What is accepted is what the bytes spell, and its tokens are found again in the cache."""
    folder = fresh()
    put(folder / "corpus" / kind, content)
    if kind in ("metadata.csv", "train/a.txt"):
        put(folder / "corpus" / "train" / "b.txt", b"b")
    skip = Skip(skip_odd=skip_odd)
    with refusals(folder / "corpus") as refused:
        found = list(text.documents(folder / "corpus", "train", skip))
    with refusals(folder / "corpus") as again:
        split = tokenize(folder / "corpus", "train", Bytes(), folder / "cache", skip=skip)
    assert bool(refused) == bool(again)
    assert not refused or not list(folder.glob("cache/*"))
    if refused:
        return
    assert isinstance(content, bytes) or skip_odd or kind == "train/a.txt"
    texts = [one.text for one in found]
    ends = zip(split.starts, split.starts[1:], strict=False)
    assert [Bytes().decode(split.at(slice(*pair))) for pair in ends] == texts
    assert all(texts) and all(one.name.isprintable() or "\n" in one.name for one in found)
    if not isinstance(content, bytes):
        return
    spelled = content.removeprefix(BOM)
    if kind == "wiki.train.tokens":
        assert "".join(texts).encode() == spelled
    elif kind == "train/a.txt":
        assert texts == ([spelled.decode()] if _is_text(spelled) else []) + ["b"]
    elif kind == "train.jsonl":
        assert texts == list(_texts(spelled))


def _is_text(raw):
    return bool(raw) and raw.decode(errors="replace").encode() == raw


def _texts(raw):
    """The texts of JSON lines, read in another way; what is empty or odd is left out."""
    for line in raw.split(b"\n"):
        try:
            record = json.loads(line.decode(), parse_constant=lambda constant: 1 / 0)
            if record["text"]:
                record["text"].encode()
                yield record["text"]
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
            continue
        except RecursionError:
            continue


SAMPLE = "the cat <|endoftext|> a\u0301\r\n\t  Ünï \x00😀 the"
WEIRD = st.sampled_from(
    ["null", "true", "-1", "0", "1", "4294967295", "1e9", "0.5", '"a"', '"Ġthe"', "[]", "{}",
     '"Whitespace"', '"Sequence"', '"Metaspace"', '"ByteLevel"', '"BPE"', '"Removed"',
     '{"type": "Whitespace"}', '{"type": "Lowercase"}', '{"type": "Digits"}', "7" * 5_000],
)  # fmt: skip


@pytest.fixture(scope="module")
def definition(tmp_path_factory):
    file = tmp_path_factory.mktemp("made") / "tokenizer.json"
    train_bpe(["the cat sat on the mat the"], 262, file)
    return file.read_bytes()


@fuzz(max_examples=60)
@given(data=st.data())
def test_tokenisers(fresh, definition, data):
    """What is accepted loses no text and keeps its ids in range."""
    folder, spec = fresh(), json.loads(definition)
    content = data.draw(damaged(definition) | mutated(spec, WEIRD) | mutated(spec, WEIRD))
    put(folder / "tokenizer.json", content)
    with refusals(folder) as refused:
        tokenizer = load_bpe(folder)
    if refused:
        return
    text = "".join(one for one in SAMPLE if one not in tokenizer.lost(SAMPLE))
    assert text in (SAMPLE, SAMPLE.replace("\x00", ""))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(np.append(ids, tokenizer.end)) == text
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size and tokenizer.end not in ids
    tokenizer.save(folder / "again.json")
    assert load_bpe(folder / "again.json").fingerprint == tokenizer.fingerprint


_WHOLE = [*ALPHABET, "ab", "th", END]
VOCABULARY = json.dumps({token: number for number, token in enumerate(_WHOLE)}).encode()


@fuzz(max_examples=40)
@given(
    vocab=damaged(VOCABULARY) | mutated(json.loads(VOCABULARY)) | st.just(VOCABULARY),
    merges=damaged(b"#version: 0.2\na b\nt h\n") | st.sampled_from([b"a b c\n", b"a\n", b"\n"]),
)
def test_vocabularies_and_merges(fresh, vocab, merges):
    folder = fresh()
    put(folder / "vocab.json", vocab)
    put(folder / "merges.txt", merges)
    with refusals(folder) as refused:
        tokenizer = load_bpe(folder)
    if not refused:
        text = SAMPLE.replace("\x00", "") if tokenizer.lost(SAMPLE) else SAMPLE
        assert tokenizer.decode(tokenizer.encode(text)) == text


@fuzz(max_examples=40)
@given(data=st.data(), part=st.sampled_from(["tokens.bin", "header.json", ""]))
def test_caches(fresh, data, part):
    """Whatever became of an entry, the tokens are the right ones, and the entry is whole again."""
    folder = fresh()
    put(folder / "corpus" / "a.txt", BOOK)
    tokenise = functools.partial(tokenize, folder / "corpus", None, Bytes())
    expected = tokenise().tokens.tolist()
    assert tokenise(folder / "cache").tokens.tolist() == expected
    (entry,) = folder.glob("cache/*")
    place, whole = entry / part, (entry / part).read_bytes() if part else b""
    changed = mutated(json.loads(whole)) if part == "header.json" else st.nothing()
    content = data.draw(damaged(whole) | changed)
    shutil.rmtree(place) if not part else place.unlink()
    put(place, content)
    for _ in range(2):
        found = tokenise(folder / "cache")
        assert found.tokens.tolist() == expected and found.names == ("a",)
    if part == "tokens.bin":
        assert (entry / part).read_bytes() == whole
    assert list(folder.glob("cache/*")) == [entry]
