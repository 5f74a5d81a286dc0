"""Documents of text, read exactly as they stand in the official layouts of the corpora.

For each split, one of SPLITS, a folder holds one of

- `wiki.train.tokens` or `wiki.train.raw` (WikiText): an article begins at a level-1 heading;
- `train/*.txt` (PG-19): a file is a book, titled by `metadata.csv` (id, title, …) if there is one;
- `train.jsonl`: a line is {"text": …}, named by its "title" or "id";
- `train.parquet`, `train-00000-of-00002.parquet` …, or `train/*.parquet`, here or in `data/`, with
  a column `text`. If the first row that is not blank is a level-1 heading, rows are the lines of
  WikiText, over all files. Otherwise a row is a document, which `parquet.NAMES` name.

Without a split, a folder of .txt files or one file (.tokens, .raw, .jsonl, .txt, .parquet) is read
whole. Text is that of `inf_former_jax.files`: UTF-8 without a byte order mark.
"""

import csv
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from inf_former_jax.data import parquet
from inf_former_jax.fields import Checked
from inf_former_jax.files import digest, printable, read_json_lines, read_lines, read_text, reading
from inf_former_jax.require import require

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
"""Names of the splits; files and folders of `valid` may be called `validation`, too."""

_ON_DISK = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}


class Document(NamedTuple):
    """A text that is read from its beginning to its end, and the name it is reported by."""

    name: str  # printable
    text: str


class EmptyError(ValueError):
    """A document without text, or a conversation without words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skip(Checked):
    """What of a corpus is left out: each time a warning in the log says what and why."""

    skip_empty: bool = True
    """Documents without text and conversations without words are left out; otherwise they are an
    error."""
    skip_odd: bool = False
    """Files and lines that cannot be read are left out; otherwise they are an error."""

    def leaves_out(self, error: Exception) -> bool:
        """Whether what an error is about is left out; if so, it warns."""
        left_out = self.skip_empty if isinstance(error, EmptyError) else self.skip_odd
        if left_out:
            log.warning("skipped %s", printable(str(error)))
        return left_out


SKIP = Skip()

_Source = Callable[[], Document]  # the document once it is asked for, or an error that names it


class _Layout(NamedTuple):
    read: Callable[[list[Path]], Iterator[_Source]]
    paths: list[Path]  # are given to `read`
    beside: tuple[Path, ...] = ()  # what else the documents depend on


def documents(
    path: str | Path,
    split: str | None = None,
    skip: Skip = SKIP,
    skipped: list[str] | None = None,
) -> Iterator[Document]:
    """Documents of a split, or of a whole folder or file; books in the order of their file names.

    No character is changed, added or left out: newlines, `<unk>` and the spaces of WikiText stay.

    Args:
        skip: which documents are left out; WikiText and damaged parquet are refused as a whole.
        skipped: receives the reason of each that is left out.

    Raises:
        ValueError: nothing or more than one thing found for the split, an unknown layout; while
            iterating, unless it is skipped, a text that is empty, invalid UTF-8 (file and byte), a
            line that is no JSON object with a text, WikiText without a level-1 heading, parquet
            that is damaged or without texts; no document at all.
        FileNotFoundError: a link to nowhere.
    """
    where = str(path) if split is None else f"{path}: split {split!r}"
    return _kept(_locate(Path(path), split), where, skip, [] if skipped is None else skipped)


def _kept(layout: _Layout, where: str, skip: Skip, skipped: list[str]) -> Iterator[Document]:
    count = 0
    for source in layout.read(layout.paths):
        try:
            document = source()
        except (ValueError, FileNotFoundError) as error:
            if not skip.leaves_out(error):
                raise
            skipped.append(printable(str(error)))
        else:
            count += 1
            yield document
    found = f"no document with text, {len(skipped)} left out"
    require(count > 0, where, found, "one document or more")


def files(path: str | Path, split: str | None = None) -> list[Path]:
    """Every file that `documents(path, split)` depends on.

    Raises:
        ValueError: as `documents` does for what is found on disk.
    """
    layout = _locate(Path(path), split)
    return [*layout.paths, *layout.beside]


def fingerprint(path: str | Path, split: str | None = None) -> str:
    """A hash of the names and the bytes of `files(path, split)`; errors as of `files`."""
    found = hashlib.sha256()
    for file in files(path, split):
        try:
            contents = digest(file)
        except (ValueError, FileNotFoundError):  # which `documents` refuses or skips
            contents = None
        found.update(json.dumps([file.name, contents]).encode())
    return found.hexdigest()


def num_words(text: str) -> int:
    """Words that white space separates: the count behind a perplexity per word."""
    return len(text.split())


def _locate(path: Path, split: str | None) -> _Layout:
    require(split is None or split in SPLITS, "split", repr(split), ", ".join(SPLITS))
    with reading(path, "a folder or file of text"):
        if not stat.S_ISDIR(os.stat(path).st_mode):
            accepted = "none, since a file has no splits"
            require(split is None, str(path), f"split {split!r}", accepted)
            return _Layout(_reader(path), [path])
        if split is not None:
            return _locate_split(path, split)
        books = _books_in(path)
        require(bool(books), str(path), _listing(path), ".txt files, or a split")
        return _Layout(_each(_book), books)


def _locate_split(folder: Path, split: str) -> _Layout:
    patterns = ("wiki.{}.tokens", "wiki.{}.raw", "{}.jsonl")
    layouts = {}
    for name in _ON_DISK[split]:
        for file in (folder / pattern.format(name) for pattern in patterns):
            if os.path.lexists(file):
                layouts[file.name] = _Layout(_reader(file), [file])
        if books := _books_in(folder / name):
            layouts[f"{name}/*.txt"] = _pg19(folder, books)
        for place, shards in parquet.find(folder, name).items():
            layouts[place] = _Layout(_rows, shards)
    found = " and ".join(layouts) or _listing(folder)
    patterns = (*patterns, "{}/*.txt", *parquet.PATTERNS)
    accepted = ", ".join(pattern.format(split) for pattern in patterns)
    require(len(layouts) == 1, f"{folder}: split {split!r}", found, f"one of {accepted}")
    return layouts.popitem()[1]


def _reader(file: Path) -> Callable[[list[Path]], Iterator[_Source]]:
    each = {".tokens": _wikitext, ".raw": _wikitext, ".jsonl": _records, ".txt": _book}
    readers = {kind: _each(read) for kind, read in each.items()} | {".parquet": _rows}
    kind = file.suffix
    require(kind in readers, str(file), repr(kind), f"a file {', '.join(readers)}")
    return readers[kind]


def _each(read: Callable[[Path], Iterator[_Source]]) -> Callable[[list[Path]], Iterator[_Source]]:
    """A reader of files that have nothing to do with each other."""
    return lambda files: itertools.chain.from_iterable(map(read, files))


def _books_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.txt") if not file.is_dir())


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "an empty folder") + more


def _pg19(folder: Path, books: list[Path]) -> _Layout:
    metadata = folder / "metadata.csv"
    if not os.path.lexists(metadata):
        return _Layout(_each(_book), books)
    titles = _titles(metadata)
    return _Layout(_each(partial(_book, titles=titles)), books, (metadata,))


def _titles(metadata: Path) -> dict[str, str]:
    rows = csv.reader(line for _, line in read_lines(metadata))
    try:
        return {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}
    except csv.Error as error:
        found, accepted = f"damaged CSV ({error})", "id, title, …"
        raise ValueError(
            f"{metadata}: line {rows.line_num}: found {found}, accepted: {accepted}"
        ) from None


def _book(file: Path, titles: Mapping[str, str] = MappingProxyType({})) -> Iterator[_Source]:
    yield partial(_whole, file, titles.get(file.stem, file.stem))


def _whole(file: Path, name: str) -> Document:
    if not (text := read_text(file)):
        raise EmptyError(f"{file}: found an empty file, accepted: text")
    return Document(printable(name), text)


_WIKITEXT = "articles below headings ` = Title = ` between blank lines"
_HEADING = re.compile(r" ?= (?!= )(.*\S)(?<! =) =\s*")


def _wikitext(file: Path) -> Iterator[_Source]:
    return _articles((line for _, line in read_lines(file)), str(file))


def _articles(content: Iterator[str], where: str) -> Iterator[_Source]:
    """Articles of WikiText, each with the blank lines before its heading; joined they are the file.

    Only a line between blank lines is a heading: some formulas in the texts look like one. The ends
    of the file count as blank lines.
    """
    name, lines = None, []
    for line in itertools.chain(content, [""]):
        heading = _HEADING.fullmatch(lines[-1]) if lines and not line.strip() else None
        if heading and (len(lines) == 1 or not lines[-2].strip()):
            if name is None:
                alone = not "".join(lines[:-1]).strip()
                require(alone, where, "text before the first heading", _WIKITEXT)
            else:
                yield partial(Document, name, "".join(lines[:-2]))
                lines = lines[-2:]
            name = printable(heading[1])
        lines.append(line)
    if name is None:
        raise ValueError(f"{where}: found no heading, accepted: {_WIKITEXT}")
    yield partial(Document, name, "".join(lines))


def _records(file: Path) -> Iterator[_Source]:
    for number, read in read_json_lines(file):
        yield partial(_record, read, f"{file}: line {number}", number)


def _record(read: Callable[[], dict[str, Any]], where: str, number: int) -> Document:
    record = read()
    text, accepted = record.get("text"), '{"text": …} with a text that is not empty'
    if text == "":
        raise EmptyError(f"{where}: found an empty text, accepted: {accepted}")
    require(isinstance(text, str), where, "no text", accepted)
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ValueError(f"{where}: text: found {error}, accepted: UTF-8") from None
    names = (record.get(key) for key in ("title", "id"))
    name = next((str(name) for name in names if name is not None), f"line {number}")
    return Document(printable(name), str(text))


def _rows(files: list[Path]) -> Iterator[_Source]:
    """Documents of parquet files: WikiText's if the first row that is not blank is a heading."""
    if _is_heading(next((row for row in parquet.rows(files) if (row.raw or b"").strip()), None)):
        more = f" to {files[-1].name}" if len(files) > 1 else ""
        yield from _articles(map(_line, parquet.rows(files)), f"{files[0]}{more}")
        return
    for row in parquet.rows(files):
        # Lines of WikiText whose beginning is not there would otherwise be taken for documents.
        accepted = "documents, or lines of WikiText from the first heading on"
        require(not _is_heading(row), row.where, "a heading alone after other rows", accepted)
        yield partial(_document, row)


def _is_heading(row: parquet.Row | None) -> bool:
    raw = row and row.raw
    return bool(raw) and _HEADING.fullmatch(raw.decode("utf-8", "replace")) is not None


def _line(row: parquet.Row) -> str:
    """The line of WikiText that a row stands for: the hub keeps a blank line, ` \\n`, as ``."""
    text = row.text() or " "
    require("\n" not in text[:-1], row.where, "more than one line", "a line of WikiText")
    return text if text.endswith("\n") else f"{text}\n"


def _document(row: parquet.Row) -> Document:
    if not (text := row.text()):
        raise EmptyError(f"{row.where}: found an empty text, accepted: text")
    return Document(printable(row.name or f"row {row.number}"), text)
