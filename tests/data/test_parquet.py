"""Parquet, as the hub has it: the same documents as in other layouts, or refused by name."""

import itertools
import json
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inf_former_jax.data import text
from inf_former_jax.data.splits import tokenize
from inf_former_jax.data.text import Document, Skip
from inf_former_jax.data.tokens import Bytes
from tests.damage import answer, bytes_of

# The headings of level 2 and the formula without blank lines open nothing.
WIKI = [
    [" \n", " = One <unk> = \n", " \n", " A first line . \n", " = 1 / s = \n", " as it is . \n"],
    [" \n", " = = Part é = = \n", " \n", " More . \n", " \n"],
    [" \n", " = Two = x = \n", " \n", " End\u2028 of it \n", " \n"],
]
LINES = [line for part in WIKI for line in part]
RECORDS = [
    {"text": "one\u2028 é\r\n", "title": "T", "id": 3},
    {"text": "two \x0c = Title = \n", "title": None, "id": 0},
    {"text": " = Three = \n \n three", "title": "Drei", "id": None},
]


def write(path, texts, kind=None, row_group_size=None, **columns):
    """A file with a column of texts, and others by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"other": pa.array(range(len(texts))), "text": pa.array(texts, kind)})
    for name, values in columns.items():
        values = values if isinstance(values, pa.Array) else pa.array(values)
        table = table.append_column(name, values)
    pq.write_table(table, path, row_group_size=row_group_size, write_page_checksum=True)
    return path


def raw_texts(*texts):
    """A column of text from bytes, which nobody checks."""
    raw = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(texts), raw.buffers())


def row_of(line):
    """A line as the hub keeps it."""
    return line if line.strip() else ""


def same(one, other):
    """Tokens, names, words and bytes of two splits."""
    assert len(one.tokens) > 0
    for a, b in zip(one[:5], other[:5], strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_wikitext_is_the_same_as_its_tokens(tmp_path, split, end):
    """Byte for byte; an article goes on in the next shard and the next row group."""
    hub, official = tmp_path / "wikitext-103-raw-v1", tmp_path / "official"
    name = {"valid": "validation"}.get(split, split)
    for number, part in enumerate(WIKI):
        rows = [row_of(line).removesuffix("" if end else "\n") for line in part]
        write(hub / f"{name}-0000{number}-of-00003.parquet", rows, row_group_size=2)
    official.mkdir()
    (official / f"wiki.{split}.tokens").write_bytes("".join(LINES).encode())
    found = list(text.documents(hub, split))
    assert found == list(text.documents(official, split))
    assert [one.name for one in found] == ["One <unk>", "Two = x"]
    assert "".join(one.text for one in found) == "".join(LINES)
    whole = tokenize(official, split, Bytes())
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        same(tokenize(hub, split, Bytes(), cache), whole)


LAYOUTS = {
    "train.parquet": [3],
    "data/train.parquet": [3],
    "train/0000.parquet": [3],
    "data/train/part-0-x.snappy.parquet": [3],
    "train-{:05}-of-00002.parquet": [1, 2],
    "data/train-{:05}-of-00003-0123456789abcdef.parquet": [1, 1, 1],
    "train/train-{:05}-of-00002.parquet": [2, 1],
    "train/{}.parquet": [1, 0, 2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_are_the_same_as_json_lines(tmp_path, layout):
    hub, lines, rest = tmp_path / "hub", tmp_path / "lines", list(RECORDS)
    for number, count in enumerate(LAYOUTS[layout]):
        part, rest = rest[:count], rest[count:]
        columns = {
            "title": pa.array([one["title"] for one in part], pa.string()),
            "id": pa.array([one["id"] for one in part], pa.int64()),
        }
        file = hub / layout.format(number)
        write(file, [one["text"] for one in part], pa.string(), row_group_size=1, **columns)
        write(file.with_name(f"train-clean-{number:05}-of-00002.txt"), ["no"])
    write(hub / "train-clean-00000-of-00002.parquet", ["another split"])
    lines.mkdir()
    (lines / "train.jsonl").write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    for extra in hub.rglob("*.txt"):
        extra.unlink()
    found = list(text.documents(hub, "train"))
    assert found == list(text.documents(lines, "train"))
    assert [one.name for one in found] == ["T", "0", "Drei"]
    same(tokenize(hub, "train", Bytes()), tokenize(lines, "train", Bytes()))


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_names_of_the_validation_split(tmp_path, name):
    file = write(tmp_path / "data" / f"{name}-00000-of-00001.parquet", ["v"])
    assert list(text.documents(tmp_path, "valid")) == [Document("row 1", "v")]
    assert text.files(tmp_path, "valid") == [file]
    assert list(text.documents(file)) == [Document("row 1", "v")]


@pytest.mark.parametrize(
    ("pattern", "count"), [("train/part-{}.parquet", 12), ("train-{}-of-12.parquet", 12)]
)
def test_files_are_in_the_order_of_their_numbers(tmp_path, pattern, count):
    """Not of their letters, nor of their times; rows are counted over all of them."""
    for number in (*range(7, count), *range(7)):
        write(tmp_path / pattern.format(number), [f"text {number}"])
    expected = [Document(f"row {number + 1}", f"text {number}") for number in range(count)]
    assert list(text.documents(tmp_path, "train")) == expected


SHARDS = {
    "one is missing": (["0-of-3", "2-of-3"], "no train-1-of-3.parquet, accepted: all 3 shards"),
    "many are missing": (["00001-of-99999"], r"no train-00000-of-99999\.parquet, .*00002.*, "
                         r".*00003.* and 99995 more, accepted: all 99999"),
    "one is there twice": (["0-of-1-ab", "0-of-1-cd"],
                           r"0-of-1-ab\.parquet and .*0-of-1-cd\.parquet, accepted: one file of"),
    "two sets": (["0-of-2", "1-of-2", "0-of-1"],
                 r"-0-of-.\.parquet and train-0-of-.\.parquet, accepted: the shards of one set"),
    "beyond the total": (["0-of-1", "1-of-1"], r"1-of-1\.parquet, accepted: numbers below 1"),
}  # fmt: skip


@pytest.mark.parametrize("folder", ["", "data", "train"])
@pytest.mark.parametrize("case", SHARDS)
def test_shards_that_are_not_all_there_are_refused(tmp_path, case, folder):
    names, message = SHARDS[case]
    for name in names:
        write(tmp_path / folder / f"train-{name}.parquet", ["a"])
    for ask in (text.documents, text.files, text.fingerprint):
        with pytest.raises(ValueError, match=rf"{tmp_path}: .*: found .*{message}"):
            ask(tmp_path, "train")


def test_a_shard_beside_another_file_is_refused(tmp_path):
    for name in ("a", "train-0-of-1"):
        write(tmp_path / "train" / f"{name}.parquet", ["a"])
    with pytest.raises(ValueError, match=r"found train-0-of-1\.parquet and a\.parquet, accepted:"):
        text.documents(tmp_path, "train")


def test_more_than_one_layout_is_refused(tmp_path):
    write(tmp_path / "train.parquet", ["a"])
    write(tmp_path / "data" / "train-0-of-1.parquet", ["a"])
    found = r"found train\.parquet and data/train-\*-of-\*\.parquet, accepted: one of wiki\.train"
    with pytest.raises(ValueError, match=found):
        text.documents(tmp_path, "train")
    (tmp_path / "test.jsonl").write_text('{"text": "a"}')
    write(tmp_path / "test" / "a.parquet", ["a"])
    (tmp_path / "test" / "a.txt").write_text("a")
    found = r"found test\.jsonl and test/\*\.txt and test/\*\.parquet, accepted: one of"
    with pytest.raises(ValueError, match=found):
        text.documents(tmp_path, "test")
    accepted = r"accepted: .*valid\.parquet, valid-\*-of-\*\.parquet, .*data/valid/\*\.parquet$"
    with pytest.raises(ValueError, match=accepted):
        text.documents(tmp_path, "valid")


def test_names(tmp_path):
    """The first column that has one; what is no text or number names nothing."""
    columns = {
        "url": ["u1", "u2", "u3", "u4", None],
        "id": [10, 0, None, None, None],
        "title": ["t1", None, "", None, None],
        "short_book_title": raw_texts(b"\x1b\xff", None, None, None, None),
    }
    write(tmp_path / "train.parquet", list("abcde"), **columns)
    names = [one.name for one in text.documents(tmp_path, "train")]
    assert names == ["␛\ufffd", "0", "u3", "u4", "row 5"]
    odd = {"title": [["a"]], "id": [1.5], "url": pa.array([0], pa.timestamp("s"))}
    write(tmp_path / "test.parquet", ["a"], **odd)
    assert [one.name for one in text.documents(tmp_path, "test")] == ["row 1"]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_every_kind_of_text(tmp_path, kind):
    """As pandas, polars and Arrow write it."""
    made = pa.dictionary(pa.int8(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    if kind == "string_view" and int(pa.__version__.split(".")[0]) < 18:
        kind, made = "string", pa.string()  # which cannot write the other
    write(tmp_path / "train.parquet", ["é", "b"], made, title=pa.array(["ü", None], made))
    expected = [Document("ü", "é"), Document("row 2", "b")]
    assert list(text.documents(tmp_path, "train")) == expected


COLUMNS = {
    "none": (pa.table({"Text": ["a"], "id\x1b": [1]}), "the columns Text, id␛"),
    "two": (
        pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]),
        "the columns text, text",
    ),
    "no columns": (pa.table({}), "the columns none"),
    "many": (pa.table({str(n): [n] for n in range(10)}), "the columns 0, .*, 7 and 2 more"),
    "numbers": (pa.table({"text": [1]}), "a column `text` of the type int64"),
    "bytes": (pa.table({"text": [b"a"]}), "a column `text` of the type binary"),
    "nulls": (pa.table({"text": [None]}), "a column `text` of the type null"),
    "lists": (pa.table({"text": [["a"]]}), "a column `text` of the type list<.*>"),
    "records": (pa.table({"text": [{"text": "a"}]}), "a column `text` of the type struct<.*>"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_without_text_are_refused(tmp_path, case):
    """Before the first document of another shard is read; nothing may leave them out."""
    table, found = COLUMNS[case]
    write(tmp_path / "train-0-of-2.parquet", ["a"])
    pq.write_table(table, tmp_path / "train-1-of-2.parquet")
    message = rf"train-1-of-2\.parquet: found {found}, accepted: a column `text` of text$"
    with pytest.raises(ValueError, match=message):
        next(text.documents(tmp_path, "train", Skip(skip_odd=True)))


def flipped(raw):
    """Another bit in what the file says of its texts, which the checksum finds."""
    place = raw.index(b"a text")
    return raw[:place] + b"b" + raw[place + 1 :]


DAMAGE = {
    "cut": lambda raw: raw[:-9],
    "begin": lambda raw: raw[:5],
    "empty": lambda raw: b"",
    "no parquet": lambda raw: b'{"text": "a"}\n' * 9,
    "footer": lambda raw: raw[:-40] + b"\xff" * 32 + raw[-8:],
    "page": flipped,
}


@pytest.mark.parametrize("skip", [Skip(), Skip(skip_odd=True)])
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused(tmp_path, case, skip):
    file = write(tmp_path / "train.parquet", ["a text", "more"])
    file.write_bytes(DAMAGE[case](file.read_bytes()))
    text.fingerprint(tmp_path, "train")
    message = r"train\.parquet: found damage \([^\n]+\), accepted: a whole parquet file$"
    with pytest.raises(ValueError, match=message):
        list(text.documents(tmp_path, "train", skip))
    with pytest.raises(ValueError, match=message):
        tokenize(tmp_path, "train", Bytes(), tmp_path / "cache", skip=skip)
    assert not list((tmp_path / "cache").iterdir())


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "train.parquet").mkdir()
    with pytest.raises(
        ValueError, match=r"train\.parquet: found is a directory, accepted: a whole"
    ):
        list(text.documents(tmp_path, "train"))
    (tmp_path / "train.parquet").rmdir()
    (tmp_path / "train.parquet").symlink_to("/proc/self/mem")
    with pytest.raises(ValueError, match=r"train\.parquet: found invalid argument, accepted: a w"):
        list(text.documents(tmp_path, "train"))
    for name in ("test.parquet", "validation-0-of-1.parquet"):
        (tmp_path / name).symlink_to("nowhere")
    for split in ("test", "valid"):
        text.fingerprint(tmp_path, split)
        with pytest.raises(FileNotFoundError, match=r"\.parquet: found nothing, accepted: a whole"):
            list(text.documents(tmp_path, split))


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_damage_is_refused_or_read(tmp_path, data):
    """Without checksums, too: never another error than the one that names the file."""
    table = pa.table({"text": ["a text", "", "é"] * 9, "id": range(27)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data.draw(bytes_of(whole)))
    skip = Skip(skip_odd=data.draw(st.booleans()))
    answer(lambda: list(text.documents(tmp_path, "train", skip)))


def test_no_row_is_lost_to_damage(tmp_path):
    """pyarrow ends early at some damage and says nothing: whatever bit is another."""
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": ["a text", "b", "c"] * 3}), file, row_group_size=5)
    whole = file.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place, bit in itertools.product(range(4, pages), range(0, 8, 2)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        skipped = []
        found = answer(lambda: list(text.documents(file, None, Skip(skip_odd=True), skipped)))  # noqa: B023
        assert found is None or len(found) + len(skipped) == 9


ODD = {"null": (None, "null, accepted: a text"), "no UTF-8": (b"\xc3\xa9\xff", "0xff, accepted: U")}


@pytest.mark.parametrize("kind", ODD)
def test_odd_rows_are_refused_or_left_out(tmp_path, kind):
    """Documents by row and byte, also after the first shard; lines of WikiText as a whole."""
    odd, found = ODD[kind]
    message = rf"2-of-3\.parquet: row 2: (byte 2: )?found {found}"
    for number in range(3):
        texts = raw_texts(b"a", odd if number == 2 else b"b", b"c")
        write(tmp_path / f"train-{number}-of-3.parquet", texts)
        texts = raw_texts(b" = A =\n" if number == 0 else b"a", odd if number == 2 else b"", b"c")
        write(tmp_path / f"test-{number}-of-3.parquet", texts)
    for split, skip in (("train", Skip()), ("test", Skip(skip_odd=True))):
        with pytest.raises(ValueError, match=message):
            list(text.documents(tmp_path, split, skip))
    skipped = []
    left = list(text.documents(tmp_path, "train", Skip(skip_odd=True), skipped))
    assert "".join(one.text for one in left) == "abcabcac" and left[-1].name == "row 9"
    assert len(skipped) == 1 and "2-of-3.parquet: row 2: " in skipped[0]


def test_empty_rows_are_left_out_or_refused(tmp_path):
    write(tmp_path / "train.parquet", ["", "a", "", "b"])
    skipped = []
    found = [one.name for one in text.documents(tmp_path, "train", skipped=skipped)]
    assert found == ["row 2", "row 4"]
    told = "found an empty text, accepted: text"
    assert skipped == [f"{tmp_path}/train.parquet: row {number}: {told}" for number in (1, 3)]
    with pytest.raises(ValueError, match="row 1: found an empty text, accepted: "):
        list(text.documents(tmp_path, "train", Skip(skip_empty=False, skip_odd=True)))


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_a_split_without_text_is_refused(tmp_path, texts):
    write(tmp_path / "train.parquet", texts, pa.string())
    message = f"split 'train': found no document with text, {len(texts)} left out, accepted: one"
    with pytest.raises(ValueError, match=message):
        list(text.documents(tmp_path, "train"))


def test_lines_without_their_beginning_are_no_documents(tmp_path):
    """The second shard alone, or rows in another order: refused, whatever is left out."""
    file = tmp_path / "train.parquet"
    write(file, [row_of(line) for line in (LINES[3], *LINES[5:], *LINES[:3])])
    message = r"row 9: found a heading alone after other rows, accepted: .*from the first heading"
    with pytest.raises(ValueError, match=message):
        list(text.documents(file, skip=Skip(skip_odd=True)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([" = A =\n", "", "a\nb\n"], r"train\.parquet: row 3: found more than one line, accepted"),
        (["", " = A =\n", "a\n"], r"train\.parquet: found no heading, accepted: .* blank lines"),
        ([" = A =\n", "a\n", "", " = B =\n"], r"train\.parquet: found text before the first head"),
    ],
)
def test_lines_that_are_no_wikitext_are_refused(tmp_path, rows, message):
    write(tmp_path / "train.parquet", rows)
    with pytest.raises(ValueError, match=message):
        list(text.documents(tmp_path, "train", Skip(skip_odd=True)))


def test_a_file_is_never_in_memory_as_a_whole(tmp_path):
    """Row groups are read one after the other, and of a large one a few pages at once."""
    table = pa.table({"text": [f"{number:06}" * 2_000 for number in range(3_000)]})
    options = {"use_dictionary": False, "write_batch_size": 10}  # pages of less than 2 MB
    options |= {"compression": "none"}
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=1_500, **options)
    size = table.nbytes  # 36 MB
    del table
    before, most = pa.total_allocated_bytes(), 0
    tracemalloc.start()  # what is read from the disk, which Arrow does not count
    try:
        for number, one in enumerate(text.documents(tmp_path, "train")):
            assert one.text == f"{number:06}" * 2_000
            most = max(most, pa.total_allocated_bytes() - before)
        _, read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number == 2_999
    assert 0 < most < size / 5 and 0 < read < size / 5


def test_pyarrow_is_an_extra(tmp_path, monkeypatch):
    """Without it tokens of a cache are found, and every other layout is read."""
    write(tmp_path / "train.parquet", ["a"])
    (tmp_path / "test.jsonl").write_text('{"text": "a"}')
    whole = tokenize(tmp_path, "train", Bytes(), tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(list(text.documents(tmp_path, "test"))) == 1
    same(tokenize(tmp_path, "train", Bytes(), tmp_path / "cache"), whole)
    message = (
        r"train\.parquet: found a parquet file, and the package pyarrow \(16 or newer\) is not "
        r"installed, accepted: .* pip install 'inf_former_jax\[parquet\]'$"
    )
    with pytest.raises(ValueError, match=message):
        list(text.documents(tmp_path, "train"))


@pytest.mark.parametrize("change", ["text", "name", "new shard", "title"])
def test_a_change_is_seen_by_the_cache(tmp_path, change):
    folder, cache = tmp_path / "corpus", tmp_path / "cache"
    for number, content in enumerate(("a", "b")):
        write(folder / "train" / f"{number}.parquet", [content], title=[content])
    tokenize(folder, "train", Bytes(), cache)
    if change == "text":
        write(folder / "train" / "1.parquet", ["c"], title=["b"])
    elif change == "title":
        write(folder / "train" / "1.parquet", ["b"], title=["c"])
    elif change == "name":
        (folder / "train" / "0.parquet").rename(folder / "train" / "2.parquet")
    else:
        write(folder / "train" / "2.parquet", ["c"])
    found, fresh = tokenize(folder, "train", Bytes(), cache), tokenize(folder, "train", Bytes())
    same(found, fresh)
    assert len(list(cache.iterdir())) == 2
    assert text.files(folder, "train") == sorted(folder.glob("train/*"))
