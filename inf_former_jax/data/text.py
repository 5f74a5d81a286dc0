"""Documents of text, read exactly as they stand in the official layouts of the corpora.

For each split, one of SPLITS, a folder holds one of

- `wiki.train.tokens` or `wiki.train.raw` (WikiText): an article begins at a level-1 heading;
- `train/*.txt` (PG-19): a file is a book, titled by `metadata.csv` (id, title, …) if there is one;
- `train.jsonl`: a line is {"text": …}, named by its "title" or "id".

Without a split, a folder of .txt files or one file (.tokens, .raw, .jsonl, .txt) is read whole.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from inf_former_jax.require import require

SPLITS = ("train", "valid", "test")
"""Names of the splits; files and folders of `valid` may be called `validation`, too."""

_ON_DISK = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}


class Document(NamedTuple):
    """A text that is read from its beginning to its end, and the name it is reported by."""

    name: str
    text: str


class _Layout(NamedTuple):
    read: Callable[[Path], Iterator[Document]]
    paths: list[Path]  # each is given to `read`, in this order
    beside: tuple[Path, ...] = ()  # what else the documents depend on


def documents(path: str | Path, split: str | None = None) -> Iterator[Document]:
    """Documents of a split, or of a whole folder or file; books in the order of their file names.

    No character is changed, added or left out: newlines, `<unk>` and the spaces of WikiText stay.

    Raises:
        ValueError: nothing or more than one thing found for the split, an unknown layout; while
            iterating, an empty file or text, invalid UTF-8 (file and byte), WikiText without a
            level-1 heading, a line that is no JSON object with a text.
    """
    layout = _locate(Path(path), split)
    return (document for file in layout.paths for document in layout.read(file))


def files(path: str | Path, split: str | None = None) -> list[Path]:
    """Every file that `documents(path, split)` depends on.

    Raises:
        ValueError: as `documents` does for what is found on disk.
    """
    layout = _locate(Path(path), split)
    return [*layout.paths, *layout.beside]


def num_words(text: str) -> int:
    """Words that white space separates: the count behind a perplexity per word."""
    return len(text.split())


def _locate(path: Path, split: str | None) -> _Layout:
    require(split is None or split in SPLITS, "split", repr(split), ", ".join(SPLITS))
    require(path.exists(), str(path), "nothing", "a folder or file of text")
    if path.is_file():
        require(split is None, str(path), f"split {split!r}", "none, since a file has no splits")
        return _Layout(_reader(path), [path])
    if split is None:
        books = _books_in(path)
        require(bool(books), str(path), _listing(path), ".txt files, or a split")
        return _Layout(_book, books)
    return _locate_split(path, split)


def _locate_split(folder: Path, split: str) -> _Layout:
    patterns = ("wiki.{}.tokens", "wiki.{}.raw", "{}.jsonl")
    layouts = {}
    for name in _ON_DISK[split]:
        for file in (folder / pattern.format(name) for pattern in patterns):
            if file.is_file():
                layouts[file.name] = _Layout(_reader(file), [file])
        if books := _books_in(folder / name):
            layouts[f"{name}/*.txt"] = _pg19(folder, books)
    found = " and ".join(layouts) or _listing(folder)
    accepted = ", ".join(pattern.format(split) for pattern in (*patterns, "{}/*.txt"))
    require(len(layouts) == 1, f"{folder}: split {split!r}", found, f"one of {accepted}")
    return layouts.popitem()[1]


def _reader(file: Path) -> Callable[[Path], Iterator[Document]]:
    readers = {".tokens": _articles, ".raw": _articles, ".jsonl": _records, ".txt": _book}
    kind = file.suffix
    require(kind in readers, str(file), repr(kind), f"a file {', '.join(readers)}")
    return readers[kind]


def _books_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.txt") if file.is_file())


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "an empty folder") + more


def _decode(raw: bytes, file: Path, offset: int = 0) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where, found = offset + error.start, raw[error.start]
        message = f"{file}: byte {where}: found 0x{found:02x}, accepted: UTF-8"
        raise ValueError(message) from error


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends, cut at \\n only: `str.splitlines` would cut inside texts."""
    offset = 0
    with open(file, "rb") as opened:
        for raw in opened:
            yield _decode(raw, file, offset)
            offset += len(raw)
    require(offset > 0, str(file), "an empty file", "text")


def _pg19(folder: Path, books: list[Path]) -> _Layout:
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        return _Layout(_book, books)

    def read(file):
        for book in _book(file):
            yield Document(titles.get(book.name, book.name), book.text)

    rows = csv.reader(_lines(metadata))
    titles = {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}
    return _Layout(read, books, (metadata,))


def _book(file: Path) -> Iterator[Document]:
    raw = file.read_bytes()
    require(bool(raw), str(file), "an empty file", "text")
    yield Document(file.stem, _decode(raw, file))


_WIKITEXT = "articles below headings ` = Title = ` between blank lines"
_HEADING = re.compile(r" ?= (?!= )(.*\S)(?<! =) =\s*")


def _articles(file: Path) -> Iterator[Document]:
    """Articles of WikiText, each with the blank lines before its heading; joined they are the file.

    Only a line between blank lines is a heading: some formulas in the texts look like one.
    """
    name, lines = None, []
    for line in _lines(file):
        heading = _HEADING.fullmatch(lines[-1]) if lines and not line.strip() else None
        if heading and (len(lines) == 1 or not lines[-2].strip()):
            before, lines = lines[:-2], lines[-2:]
            if name is not None:
                yield Document(name, "".join(before))
            else:
                alone = not "".join(before).strip()
                require(alone, str(file), "text before the first heading", _WIKITEXT)
            name = heading[1]
        lines.append(line)
    if name is None:
        raise ValueError(f"{file}: found no heading, accepted: {_WIKITEXT}")
    yield Document(name, "".join(lines))


def _records(file: Path) -> Iterator[Document]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        record = _parse(line, f"{file}: line {number}")
        names = (record.get(key) for key in ("title", "id"))
        name = next((str(name) for name in names if name is not None), f"line {number}")
        yield Document(name, record["text"])


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        text = record.get("text") if isinstance(record, dict) else None
        good = isinstance(text, str) and bool(text)
        require(good, where, "no text", '{"text": …} with a text that is not empty')
        str(text).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: found {error}, accepted: a JSON object") from error
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ValueError(f"{where}: text: found {error}, accepted: UTF-8") from error
    return record
