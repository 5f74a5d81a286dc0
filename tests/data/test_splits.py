"""Tokens of a split and their cache: never stale, never half, one entry whoever comes first."""

import json
import shutil

import numpy as np
import pytest

from inf_former_jax.data import splits
from inf_former_jax.data.splits import token_type, tokenize
from inf_former_jax.data.streams import Streams
from inf_former_jax.data.text import Skip
from inf_former_jax.data.tokens import Bytes, load_bpe
from tests.data.test_tokens import write_small


class Counted(Bytes):
    """Bytes that count how often they encode."""

    def __init__(self, fingerprint="counted", vocab_size=257):
        self.fingerprint, self.vocab_size, self.calls = fingerprint, vocab_size, 0

    def encode(self, text):
        self.calls += 1
        return super().encode(text)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("ab c", encoding="utf-8")
    (folder / "b.txt").write_text("é", encoding="utf-8")
    return folder


def same(one, other):
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.tokens.dtype == other.tokens.dtype
    for a, b in zip(one[1:], other[1:], strict=True):
        assert np.array_equal(a, b)


def test_by_hand(corpus, tmp_path):
    for cache in (None, tmp_path / "cache"):
        split = tokenize(corpus, None, Bytes(), cache)
        assert split.tokens.tolist() == [97, 98, 32, 99, 256, 0xC3, 0xA9, 256]
        assert split.tokens.dtype == np.uint16
        assert split.starts.tolist() == [0, 5, 8] and split.names == ("a", "b")
        assert split.words.tolist() == [2, 1] and split.bytes.tolist() == [4, 2]


def test_what_no_token_can_express_is_left_out_and_told(corpus, tmp_path, caplog):
    """Of all documents in one line; a later reader finds the number in the cache."""
    write_small(tmp_path)
    tokenizer = load_bpe(tmp_path)
    whole = tokenize(corpus, None, tokenizer, tmp_path / "cache")
    assert whole.dropped == 0 and not caplog.records
    for name, text in {"a": "a\x04b \x1dc", "b": "é\x04"}.items():
        (corpus / f"{name}.txt").write_text(text, encoding="utf-8")
    for cache in (None, tmp_path / "cache"):
        caplog.clear()
        found = tokenize(corpus, None, tokenizer, cache)
        assert found.tokens.tolist() == whole.tokens.tolist() and found.dropped == 3
        assert (found.words.tolist(), found.bytes.tolist()) == ([2, 1], [4, 2])
        kinds = "U+0004 2 times, U+001D 1 times"
        told = f"{corpus}: left out 3 characters without a token: {kinds}"
        assert [one.getMessage() for one in caplog.records] == [told]
    caplog.clear()
    same(tokenize(corpus, None, tokenizer, tmp_path / "cache"), found)
    assert not caplog.records


def test_documents_are_cut_at_whole_words(corpus, tmp_path):
    """A limit has an entry of its own; what is shorter than it stays whole."""
    for cache in (None, tmp_path / "cache"):
        whole = tokenize(corpus, None, Bytes(), cache)
        cut = tokenize(corpus, None, Bytes(), cache, characters=3)
        assert cut.tokens.tolist() == [97, 98, 256, 0xC3, 0xA9, 256]
        assert cut.words.tolist() == [1, 1] and cut.bytes.tolist() == [2, 2]
        same(tokenize(corpus, None, Bytes(), cache), whole)
        same(tokenize(corpus, None, Bytes(), cache, characters=4), whole)


def test_the_cache_is_used(corpus, tmp_path):
    tokenizer = Counted()
    first = tokenize(corpus, None, tokenizer, tmp_path / "deep" / "cache")
    again = tokenize(corpus, None, tokenizer, tmp_path / "deep" / "cache")
    assert tokenizer.calls == 2
    assert isinstance(again.tokens, np.memmap) and not again.tokens.flags.writeable
    same(first, again)


@pytest.mark.parametrize("change", ["text", "name", "new file", "tokeniser"])
def test_a_stale_entry_is_not_used(corpus, tmp_path, change):
    tokenize(corpus, None, Counted(), tmp_path / "cache")
    if change == "text":  # as long as before
        (corpus / "a.txt").write_text("ab d", encoding="utf-8")
    elif change == "name":
        (corpus / "a.txt").rename(corpus / "aa.txt")
    elif change == "new file":
        (corpus / "c.txt").write_text("c", encoding="utf-8")
    tokenizer = Counted("other" if change == "tokeniser" else "counted")
    found = tokenize(corpus, None, tokenizer, tmp_path / "cache")
    assert tokenizer.calls == len(found.names)
    same(found, tokenize(corpus, None, tokenizer))


def cut(file):
    file.write_bytes(file.read_bytes()[:-2])


def overwrite(file, begin):
    """Other bytes at the beginning; the size stays."""
    file.write_bytes(begin + file.read_bytes()[len(begin) :])


def replaced(entry):
    """A link to nowhere in the place of the entry."""
    shutil.rmtree(entry)
    entry.symlink_to("nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: cut(entry / "tokens.bin"),
        lambda entry: (entry / "tokens.bin").write_bytes(b""),
        lambda entry: (entry / "tokens.bin").unlink(),
        lambda entry: cut(entry / "header.json"),
        lambda entry: (entry / "header.json").write_text("[]"),
        lambda entry: (entry / "header.json").unlink(),
        lambda entry: overwrite(entry / "tokens.bin", b"\xff\xff"),  # beyond the vocabulary
        lambda entry: overwrite(entry / "tokens.bin", b"\x00\x00"),
        lambda entry: overwrite(entry / "header.json", b'{"lengths": [7, 1], '),
        replaced,
    ],
)
def test_a_damaged_entry_is_made_again(corpus, tmp_path, damage):
    cache, tokenizer = tmp_path / "cache", Counted()
    first = tokenize(corpus, None, tokenizer)
    tokenize(corpus, None, tokenizer, cache)
    (entry,) = cache.iterdir()
    damage(entry)
    same(tokenize(corpus, None, tokenizer, cache), first)
    assert tokenizer.calls == 6
    same(tokenize(corpus, None, tokenizer, cache), first)
    assert tokenizer.calls == 6 and list(cache.iterdir()) == [entry]


def test_a_partly_written_entry_is_never_used(corpus, tmp_path):
    """A process that dies while it writes: its folder is found by nobody, whole as it may look."""
    cache, tokenizer = tmp_path / "cache", Counted()
    tokenize(corpus, None, tokenizer, cache)
    (entry,) = cache.iterdir()
    entry.rename(cache / f"{entry.name}.partial-0")
    tokenize(corpus, None, tokenizer, cache)
    assert tokenizer.calls == 4
    assert sorted(path.name for path in cache.iterdir()) == [entry.name, f"{entry.name}.partial-0"]


def test_a_failure_leaves_nothing(corpus, tmp_path):
    (corpus / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b\.txt: byte 0: found .*, accepted: UTF-8"):
        tokenize(corpus, None, Bytes(), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_another_process_was_first(corpus, tmp_path, monkeypatch):
    """Both find nothing and write; the second keeps what it has read back, and one entry stays."""
    cache = tmp_path / "cache"

    def write(folder, *given):
        monkeypatch.undo()
        tokenize(corpus, None, Bytes(), cache)
        splits._write(folder, *given)

    monkeypatch.setattr(splits, "_write", write)
    found = tokenize(corpus, None, Bytes(), cache)
    same(found, tokenize(corpus, None, Bytes()))
    assert len(list(cache.iterdir())) == 1


def test_what_is_mapped_outlives_its_entry(corpus, tmp_path):
    found = tokenize(corpus, None, Bytes(), tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    same(found, tokenize(corpus, None, Bytes()))


def test_what_is_damaged_while_it_is_read_is_refused(corpus, tmp_path):
    """By all that reads tokens of a split."""
    split = tokenize(corpus, None, Bytes(), tmp_path / "cache")
    (file,) = tmp_path.glob("cache/*/tokens.bin")
    assert split.at(slice(0, 3)).tolist() == [97, 98, 32]
    with open(file, "r+b") as opened:
        opened.write(b"\x00\x00\xff\xff")
    with pytest.raises(ValueError, match=r"cache\[1\]: found 65535, accepted: .* 0\.\.256"):
        split.at(slice(0, 3))
    rows = Streams(split, 1, 4)
    with pytest.raises(ValueError, match=r"cache\[.*\]: found 65535"):
        rows.batch(0, [0])


def test_a_cache_that_is_no_folder(corpus, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"cache: found .*, accepted: a folder that can be writ"):
        tokenize(corpus, None, Bytes(), tmp_path / "cache")


def test_what_is_left_out_is_counted_and_named(corpus, tmp_path):
    """Also when the tokens are found again; another `Skip` has another entry."""
    (corpus / "aa.txt").write_text("")
    for _ in range(2):
        found = tokenize(corpus, None, Bytes(), tmp_path / "cache")
        assert found.names == ("a", "b")
        assert found.skipped == (f"{corpus}/aa.txt: found an empty file, accepted: text",)
    with pytest.raises(ValueError, match=r"aa\.txt: found an empty file"):
        tokenize(corpus, None, Bytes(), tmp_path / "cache", skip=Skip(skip_empty=False))


def test_wide_vocabularies(corpus, tmp_path):
    kinds = {257: "u2", 2**16: "u2", 2**16 + 1: "u4", 2**31: "u4"}
    assert {size: token_type(size).str[1:] for size in kinds} == kinds
    for cache in (None, tmp_path / "cache"):
        wide = tokenize(corpus, None, Counted(vocab_size=2**16 + 1), cache)
        assert wide.tokens.dtype == np.uint32 and wide.tokens[4] == 256
        with pytest.raises(ValueError, match=r"vocab_size: found .*, accepted: at most 2147483648"):
            tokenize(corpus, None, Counted(vocab_size=2**31 + 1), cache)
        with pytest.raises(
            ValueError, match=r"^a: ids\[0\]: found .*, accepted: a token id in 0\.\.50"
        ):
            tokenize(corpus, None, Counted("narrow", vocab_size=51), cache)


def test_splits_have_entries_of_their_own(tmp_path):
    lines = [json.dumps({"text": text}) for text in ("one", "two")]
    for name, line in zip(("train", "test"), lines, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(line, encoding="utf-8")
    found = [tokenize(tmp_path, s, Bytes(), tmp_path / "cache") for s in ("train", "test")]
    assert [one.tokens.tolist()[:3] for one in found] == [list(b"one"), list(b"two")]
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["test", "train"]
