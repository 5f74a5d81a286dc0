"""Files are read whole or refused by name, and written whole or not at all."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from inf_former_jax import files

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\r\nb\rc\n", "a\r\nb\rc\n"),
        (MARK + b"a", "a"),
        (MARK + MARK, "\ufeff"),
        (b"a" + MARK, "a\ufeff"),
        (b"", ""),
        (MARK, ""),
    ],
)
def test_text_is_the_bytes_without_the_mark(tmp_path, raw, text):
    path = tmp_path / "text"
    path.write_bytes(raw)
    assert files.read_text(path) == text
    assert "".join(line for _, line in files.read_lines(path)) == text


def test_lines_are_numbered_and_cut_at_newlines_only(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(MARK + "a\u2028b\r\nc\x85\n\nd".encode())
    lines = ["a\u2028b\r\n", "c\x85\n", "\n", "d"]
    assert list(files.read_lines(path)) == list(enumerate(lines, 1))
    assert [offset for _, offset, _ in files.read_raw_lines(path)] == [3, 10, 14, 15]


def test_a_place_that_cannot_be_written_is_refused_before(tmp_path):
    """A folder, one that is not there, a file in the place of one, a name that is too long."""
    (tmp_path / "file").write_text("kept")
    for place, found in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "file", "no such file or directory"),
        (tmp_path / "file" / "more", "not a directory"),
        (tmp_path / ("a" * 250), "file name too long"),
    ):
        with pytest.raises(ValueError, match=r"^memory_out: found .*, accepted: a file") as refused:
            files.require_writable(place, "memory_out")
        assert f"found {place} ({found})" in str(refused.value)
    files.require_writable(tmp_path / "file", "memory_out")
    files.require_writable(tmp_path / "new", "memory_out")
    for place, found in (
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "more", "file exists"),
        (tmp_path / "file" / "more" / "more", "not a directory"),
        (Path("/proc/x/y"), "no such file or directory"),
    ):
        with pytest.raises(files.Unwritable, match=f"^{place}: found {found}, accepted: a file in"):
            files.write_text(place, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "kept")]


@pytest.mark.parametrize("read", [files.read_text, lambda path: list(files.read_lines(path))])
def test_bytes_that_are_no_text_are_named(tmp_path, read):
    path = tmp_path / "text"
    path.write_bytes(MARK + b"one\ntw\xffo\n")
    with pytest.raises(ValueError, match=r"text: byte 9: found 0xff, accepted: UTF-8$"):
        read(path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: found is a directory, accepted: "):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: found nothing, accepted: "):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no JSON"),
        (" \n", "no JSON"),
        ('{"a": 1', "damaged JSON .* at line 1 column 8"),
        ("{}{}", "damaged JSON"),
        ("[]", r"\[\]"),
        ("5", "5"),
        ("null", "None"),
        ('{"a": NaN}', "damaged JSON .NaN is"),
        ('{"a": -Infinity}', "damaged JSON .-Infinity is"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "JSON nested too deeply"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "JSON nested too deeply"),
        ('{"a": ' + "1" * 10_000 + "}", "damaged JSON .*digits"),
        ('{"a": 1e999}', "damaged JSON .1e999 is too large"),
        ('{"a": [-1e999]}', "damaged JSON .-1e999 is too large"),
        ('{"a": 1, "b": 2, "a": 1}', "damaged JSON .'a' is there twice"),
        ('{"b": [{"a": 1, "a": 1}]}', "damaged JSON .'a' is there twice"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, text, found):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"some.json: found {found}.*, accepted: a config$"):
        files.read_json(path, "a config")


def test_json_is_written_strictly_and_read_again(tmp_path):
    path = tmp_path / "new" / "some.json"
    content = {"a": [1.5, float("nan"), (float("inf"), "é\u2028")], "b": None}
    files.write_json(path, content)
    assert files.read_json(path) == {"a": [1.5, None, [None, "é\u2028"]], "b": None}
    assert files.read_json(path) == json.loads(path.read_bytes())
    assert files.parse_json(r'{"a": "\ud83d\ude00"}', "a pair") == {"a": "😀"}
    halves = {"\\\ud800": ["\udfff\\", "é\ud83d"]}
    files.write_json(path, halves)
    assert files.read_json(path) == halves
    deepest = '{"a": ' + "[" * 63 + "]" * 63 + "}"
    assert files.parse_json(deepest, "deepest")


def test_a_file_that_was_not_finished_changes_nothing(tmp_path):
    path = tmp_path / "text"
    files.write_text(path, "old\r\n")
    with pytest.raises(ZeroDivisionError), files.writing(path) as file:
        file.write(b"half")
        assert [name for name in os.listdir(tmp_path) if files.PARTIAL in name]
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["text"] and path.read_bytes() == b"old\r\n"


def test_a_folder_that_was_not_finished_is_not_there(tmp_path):
    """Until it is whole, its name says so; an empty one may be in its place."""
    out = tmp_path / "a" / "out"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), files.new_folder(out) as folder:
            files.write_text(folder / "text", "half")
            (name,) = {*os.listdir(out.parent)} - {"out"}
            assert name.startswith(f"out{files.PARTIAL}") and not out.is_file()
            raise ZeroDivisionError
        assert [*tmp_path.rglob("text")] == []
        out.mkdir(exist_ok=True)
    with files.new_folder(out) as folder:
        files.write_text(folder / "text", "whole")
    assert os.listdir(out.parent) == ["out"] and (out / "text").read_text() == "whole"
    refused = pytest.raises(files.Unwritable, match=r"out: found .*accepted: a folder that is new")
    with refused, files.new_folder(out) as folder:
        files.write_text(folder / "text", "another")
    assert os.listdir(out.parent) == ["out"] and (out / "text").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stays_the_systems_error(tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    for step in ("mkdir", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(*((Path, step) if step == "mkdir" else (os, step)), full)
            with pytest.raises(OSError, match=os.strerror(number)) as stopped:
                files.write_text(tmp_path / "text", "new")
        assert stopped.value.errno == number and not os.listdir(tmp_path)


@pytest.mark.parametrize("name, found", [("a\0b", "a NUL"), ("a\ud800b", "half a character")])
def test_a_path_that_no_file_can_have_is_refused(tmp_path, name, found):
    shown = re.escape(files.printable(str(tmp_path / name)))
    for use in (
        files.read_bytes,
        lambda path: files.write_text(path, ""),
        lambda path: files.require_writable(path, "memory_out"),
    ):
        with pytest.raises(ValueError, match=f"^{shown}: found {found}.* in the path, accepted: "):
            use(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_damaged_line_hides_no_other(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_bytes(MARK + b'{"a": 1}\r\n\n \n{"a"\n\xff\n[1]\n{"a": 2}')
    found = list(files.read_json_lines(path))
    assert [number for number, _ in found] == [1, 4, 5, 6, 7]
    assert [read() for _, read in (found[0], found[-1])] == [{"a": 1}, {"a": 2}]
    damage = ["line 4: found damaged JSON", "line 5: byte 21: found 0xff", r"line 6: found \[1\]"]
    for (_, read), message in zip(found[1:-1], damage, strict=True):
        with pytest.raises(ValueError, match=rf"some\.jsonl: {message}.*, accepted: "):
            read()


def test_what_is_printed_gives_a_terminal_no_orders():
    """Of the characters below U+00A0 all but newline, tab and the visible ones; and surrogates."""
    every = "".join(map(chr, range(0xA0)))
    shown = files.printable(every)
    assert len(shown) == len(every)
    assert {one for one in shown if not one.isprintable()} == {"\n", "\t"}
    assert [a for a, b in zip(every, shown, strict=True) if a == b] == [
        *"\t\n",
        *map(chr, range(0x20, 0x7F)),
    ]
    assert files.printable("\x1b[2J\x7f\x9b\ud800 é😀\ufeff") == "␛[2J␡\ufffd\ufffd é😀\ufeff"


def test_a_link_is_kept(tmp_path):
    (tmp_path / "text").write_text("old")
    (tmp_path / "link").symlink_to("text")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "text").read_text() == "new"
