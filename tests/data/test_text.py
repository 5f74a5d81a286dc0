"""Readers of the corpora's layouts, against files written by hand; nothing is lost between them."""

import json
import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_former_jax.data import text
from inf_former_jax.data.text import Document, Skip

BOM = "\ufeff"

# The heading of level 2, the formula without blank lines and the half of a heading open nothing.
ARTICLES = [
    " \n = One <unk> = \n \n A first line . \n = 1 / s = \n as it is . \n \n = = Part = = \n \n"
    " More . \n = Half \n \n",
    " \n = Two = x = \n \n = = = Deep = = = \n \n",
    " \n = Three = \n \n End",
]


def write(folder, **contents):
    """Files by name; `__` stands for a folder."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


@pytest.mark.parametrize("name", ["wiki.valid.tokens", "wiki.valid.raw", "wiki.validation.tokens"])
def test_wikitext(tmp_path, name):
    write(tmp_path, **{name: "".join(ARTICLES), "wiki.test.tokens": " = X = \n\n other"})
    expected = list(map(Document, ["One <unk>", "Two = x", "Three"], ARTICLES))
    assert list(text.documents(tmp_path, "valid")) == expected
    assert list(text.documents(tmp_path / name)) == expected
    assert text.files(tmp_path, "valid") == [tmp_path / name]
    assert list(text.documents(tmp_path, "test")) == [Document("X", " = X = \n\n other")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words \n = One = \n \n", "found no heading, accepted: .* headings"),
        ("words \n \n = One = \n \n", "text before the first heading"),
        (" = = Part = = \n \n words", "found no heading, accepted: .* headings"),
        ("", "found no heading, accepted: .* headings"),
    ],
)
def test_wikitext_without_a_beginning(tmp_path, content, message):
    write(tmp_path, **{"wiki.train.tokens": content})
    with pytest.raises(ValueError, match=message) as error:
        list(text.documents(tmp_path, "train"))
    assert str(tmp_path / "wiki.train.tokens") in str(error.value)


def test_books_and_their_titles(tmp_path):
    odd = "A\r\nB\rC\u2028\x0c D\n"
    books = {"train__10.txt": "ten", "train__9.txt": odd, "validation__a.txt": "v"}
    write(tmp_path, train__10="no book", **books)
    assert list(text.documents(tmp_path, "train")) == [Document("10", "ten"), Document("9", odd)]
    assert list(text.documents(tmp_path, "valid")) == [Document("a", "v")]
    write(tmp_path, **{"metadata.csv": '9,"Nine, or ""N""",1900,url\n11,Other,1,u\n12\n'})
    assert [one.name for one in text.documents(tmp_path, "train")] == ["10", 'Nine, or "N"']
    # A changed title has to be seen as a change of the documents.
    names = [path.name for path in text.files(tmp_path, "train")]
    assert names == ["10.txt", "9.txt", "metadata.csv"]


def test_plain_folder_and_file(tmp_path):
    write(tmp_path, **{"b.txt": "bee", "a.txt": "an ant", "c.md": "no"})
    assert list(text.documents(tmp_path)) == [Document("a", "an ant"), Document("b", "bee")]
    assert list(text.documents(str(tmp_path / "b.txt"))) == [Document("b", "bee")]


def test_json_lines(tmp_path):
    records = [
        {"text": "one\u2028 ", "title": "T", "id": 3},
        {"text": "two", "title": None, "id": 0},
        {"text": "three"},
    ]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write(tmp_path, **{"test.jsonl": "".join([lines[0], "\n", *lines[1:]])})
    expected = [Document("T", "one\u2028 "), Document("0", "two"), Document("line 4", "three")]
    assert list(text.documents(tmp_path, "test")) == expected
    assert list(text.documents(tmp_path / "test.jsonl")) == expected


@pytest.mark.parametrize(
    "line", ["[1]", '"text"', '{"text": 1}', '{"title": "x"}', '{"text": null}', "{", "x"]
)
def test_json_lines_refused(tmp_path, line):
    write(tmp_path, **{"a.jsonl": '{"text": "good"}\n' + line})
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2: found .*, accepted: "):
        list(text.documents(tmp_path / "a.jsonl"))


def test_json_lines_with_half_a_character(tmp_path):
    write(tmp_path, **{"a.jsonl": '{"text": "\\ud800"}'})
    with pytest.raises(ValueError, match=r"a\.jsonl: line 1: text: .*surrogates"):
        list(text.documents(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", b"ok\n\xc3\xa9\xff", "byte 5"),
        ("a.jsonl", b'{"text": "\xc3\xa9"}\n{"text": "\xe9"}', "line 2: byte 25"),
        ("a.tokens", b" = A = \n\nwords\nmore \xc3", "byte 20"),
    ],
)
def test_invalid_utf8_names_the_byte(tmp_path, name, content, place):
    write(tmp_path, **{name: content})
    with pytest.raises(ValueError, match=rf"{name}: {place}: found 0x.., accepted: UTF-8"):
        list(text.documents(tmp_path / name))


EMPTY = {
    "books": ({"train__a.txt": "a", "train__b.txt": "", "train__c.txt": BOM}, "b.txt", "c.txt"),
    "lines": ({"train.jsonl": '{"text": "a"}\n{"text": ""}\n{"text": ""}'}, "line 2", "line 3"),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_what_is_empty_is_left_out_with_a_warning(tmp_path, kind, caplog):
    contents, *names = EMPTY[kind]
    write(tmp_path, **contents)
    skipped = []
    with caplog.at_level(logging.WARNING):
        found = list(text.documents(tmp_path, "train", skipped=skipped))
    assert [one.text for one in found] == ["a"]
    warned = [record.getMessage() for record in caplog.records]
    assert warned == [f"skipped {reason}" for reason in skipped]
    for name, reason in zip(names, skipped, strict=True):
        assert re.search(rf"{name}: found an empty \w+, accepted: ", reason)
    with pytest.raises(ValueError, match=rf"{names[0]}: found an empty"):
        list(text.documents(tmp_path, "train", Skip(skip_empty=False, skip_odd=True)))


ODD = {
    "books": {"train__a.txt": b"\xff", "train__b.txt": "b"},
    "lines": {"train.jsonl": b'\xff\n{"text": "b"}'},
    "a link": {"train__b.txt": "b"},
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_refused_or_left_out(tmp_path, kind):
    write(tmp_path, **ODD[kind])
    if kind == "a link":
        (tmp_path / "train" / "a.txt").symlink_to("nowhere")
    with pytest.raises((ValueError, FileNotFoundError), match=r": found (0xff|nothing), accepted"):
        list(text.documents(tmp_path, "train"))
    text.fingerprint(tmp_path, "train")
    found = list(text.documents(tmp_path, "train", Skip(skip_odd=True)))
    assert [one.text for one in found] == ["b"]


@pytest.mark.parametrize("content", ["", "\n \n", '{"text": ""}'])
def test_a_split_without_text_is_refused(tmp_path, content):
    write(tmp_path, **{"train.jsonl": content, "valid__a.txt": ""})
    left_out = int("text" in content)
    for split, count in (("train", left_out), ("valid", 1)):
        message = f"split '{split}': found no document with text, {count} left out, accepted: "
        with pytest.raises(ValueError, match=message):
            list(text.documents(tmp_path, split))


def test_a_byte_order_mark_is_no_text(tmp_path):
    """Before every kind of text; line ends stay as they are."""
    contents = {
        "a.txt": "one\r\ntwo",
        "a.tokens": " = A = \r\n\r\none\r\n",
        "a.jsonl": '{"text": "one\\r\\ntwo"}\r\n',
        "train__9.txt": "nine",
        "train__metadata.csv": "9,Nine\r\n",
    }
    write(tmp_path, **{name: BOM + content for name, content in contents.items()})
    for name, name_of, content in (
        ("a.txt", "a", contents["a.txt"]),
        ("a.tokens", "A", contents["a.tokens"]),
        ("a.jsonl", "line 1", "one\r\ntwo"),
    ):
        assert list(text.documents(tmp_path / name)) == [Document(name_of, content)]
    (tmp_path / "train" / "metadata.csv").rename(tmp_path / "metadata.csv")
    assert list(text.documents(tmp_path, "train")) == [Document("Nine", "nine")]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n \n"])
def test_a_heading_may_be_the_last_line(tmp_path, end):
    write(tmp_path, **{"a.raw": f" = A = \n \n one \n \n = B = {end}"})
    expected = [Document("A", " = A = \n \n one \n"), Document("B", f" \n = B = {end}")]
    assert list(text.documents(tmp_path / "a.raw")) == expected


def test_names_are_printable(tmp_path):
    write(tmp_path, **{"a.jsonl": '{"text": "a", "title": "\\u001b[2J\\ud800"}'})
    write(tmp_path, **{"a.raw": " = \x1b[2J = \n", "train__1.txt": "a", "train__\x1b.txt": "b"})
    write(tmp_path, **{"metadata.csv": "1,\x07"})
    names = [one.name for file in ("a.jsonl", "a.raw") for one in text.documents(tmp_path / file)]
    assert names == ["␛[2J\ufffd", "␛[2J"]
    assert [one.name for one in text.documents(tmp_path, "train")] == ["␛", "␇"]


@pytest.mark.parametrize("row", ['1,"' + "a" * 200_000 + '"', "1,a\rb\r\n"])
def test_damaged_titles(tmp_path, row):
    write(tmp_path, **{"metadata.csv": f"0,Zero\n{row}", "train__1.txt": "a"})
    with pytest.raises(ValueError, match=r"metadata\.csv: line 2: found damaged CSV .*, accepted:"):
        text.documents(tmp_path, "train")


def test_titles_that_are_not_there_are_named(tmp_path):
    write(tmp_path, **{"train__1.txt": "a"})
    (tmp_path / "metadata.csv").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv: found nothing, accepted: "):
        text.documents(tmp_path, "train")


def test_what_is_found_and_what_is_accepted(tmp_path):
    """Refused when asked for, not when first read."""
    write(tmp_path, **{"wiki.test.tokens": "x", "notes.md": "x"})
    with pytest.raises(ValueError, match=r"split: found 'dev', accepted: train, valid, test"):
        text.documents(tmp_path, "dev")
    accepted = r"wiki\.train\.tokens, wiki\.train\.raw, train\.jsonl, train/\*\.txt"
    with pytest.raises(
        ValueError, match=rf"found notes\.md, wiki\.test\.tokens, accepted: one of {accepted}"
    ):
        text.documents(tmp_path, "train")
    with pytest.raises(
        ValueError, match=r"found notes\.md, wiki.*, accepted: \.txt files, or a sp"
    ):
        text.documents(tmp_path)
    with pytest.raises(FileNotFoundError, match="found nothing, accepted: a folder or file of te"):
        text.documents(tmp_path / "absent", "train")
    with pytest.raises(
        ValueError, match=r"found split 'test', accepted: none, since a file has no"
    ):
        text.documents(tmp_path / "wiki.test.tokens", "test")
    with pytest.raises(ValueError, match=r"found '\.md', accepted: a file "):
        text.documents(tmp_path / "notes.md")
    write(tmp_path, **{"test__a.txt": "x"})
    with pytest.raises(ValueError, match=r"found wiki\.test\.tokens and test/\*\.txt, accepted: "):
        text.documents(tmp_path, "test")


kinds = (" ", "", " = A = ", " = B c = ", " = = S = = ", " = 1 = 2 ", " words . ", "= ")
lines = st.sampled_from([f"{kind}\n" for kind in kinds])


@settings(deadline=None)
@given(st.lists(lines, max_size=12))
def test_joined_articles_are_the_file(tmp_path_factory, more):
    content = " = First = \n \n" + "".join(more)
    file = tmp_path_factory.mktemp("wiki") / "a.tokens"
    file.write_text(content, encoding="utf-8", newline="")
    found = list(text.documents(file))
    assert "".join(one.text for one in found) == content
    # Counted another way: a heading's line between two blank ones, or an end of the file.
    every = ["\n", *content.splitlines(keepends=True), "\n"]
    headings = {" = First = \n", " = A = \n", " = B c = \n"}
    count = sum(
        here in headings and not before.strip() and not after.strip()
        for before, here, after in zip(every, every[1:], every[2:], strict=False)
    )
    assert len(found) == count


def test_words():
    assert text.num_words(" = One <unk> = \n two\u2028three\t") == 6
