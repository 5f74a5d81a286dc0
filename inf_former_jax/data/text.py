"""Documents of text, read exactly as they stand in the official layouts of the corpora.

With a split, one of SPLITS, a folder holds for it one of

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

SPLITS = ("train", "valid", "test")
"""Names of the splits; files and folders of the second may be called `validation` too."""

_ON_DISK = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}


class Document(NamedTuple):
    """A text that is read from its beginning to its end, and by what name it is reported."""

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
    """Every file that `documents` of the same arguments depend on.

    Raises ValueError as `documents` does for what is found on disk.
    """
    layout = _locate(Path(path), split)
    return [*layout.paths, *layout.beside]


def num_words(text: str) -> int:
    """Words that white space separates: the count behind a perplexity per word."""
    return len(text.split())


def _locate(path: Path, split: str | None) -> _Layout:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    if not path.exists():
        raise ValueError(f"{path}: expected a folder or file of text, found nothing")
    if path.is_file():
        if split is not None:
            raise ValueError(f"{path}: a file has no splits: expected none, found {split!r}")
        return _Layout(_reader(path), [path])
    if split is None:
        books = _books_in(path)
        if not books:
            raise ValueError(f"{path}: expected .txt files or a split, found {_listing(path)}")
        return _Layout(_book, books)
    return _locate_split(path, split)


def _locate_split(folder: Path, split: str) -> _Layout:
    patterns = ("wiki.{}.tokens", "wiki.{}.raw", "{}.jsonl")
    found = {}
    for name in _ON_DISK[split]:
        for file in (folder / pattern.format(name) for pattern in patterns):
            if file.is_file():
                found[file.name] = _Layout(_reader(file), [file])
        if books := _books_in(folder / name):
            found[f"{name}/*.txt"] = _pg19(folder, books)
    if len(found) == 1:
        return found.popitem()[1]
    accepted = [pattern.format(split) for pattern in (*patterns, "{}/*.txt")]
    what = " and ".join(found) if found else _listing(folder)
    raise ValueError(
        f"{folder}: split {split!r}: expected one of {', '.join(accepted)}, found {what}"
    )


def _reader(file: Path) -> Callable[[Path], Iterator[Document]]:
    readers = {".tokens": _articles, ".raw": _articles, ".jsonl": _records, ".txt": _book}
    if file.suffix not in readers:
        raise ValueError(f"{file}: expected a file {', '.join(readers)}, found {file.suffix!r}")
    return readers[file.suffix]


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
        place = offset + error.start
        raise ValueError(
            f"{file}: byte {place}: expected UTF-8, found 0x{raw[error.start]:02x}"
        ) from error


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends, cut at \\n only: `str.splitlines` would cut inside texts."""
    offset = 0
    with open(file, "rb") as opened:
        for raw in opened:
            yield _decode(raw, file, offset)
            offset += len(raw)
    if not offset:
        raise ValueError(f"{file}: expected text, found an empty file")


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
    if not raw:
        raise ValueError(f"{file}: expected text, found an empty file")
    yield Document(file.stem, _decode(raw, file))


_HEADING = re.compile(r" ?= (?!= )(.*\S)(?<! =) =\s*")


def _articles(file: Path) -> Iterator[Document]:
    """Articles of WikiText, each with the blank lines before its heading: joined, the file.

    A heading stands between blank lines; the texts have formulas that look like one otherwise.
    """
    name, lines = None, []
    for line in _lines(file):
        heading = _HEADING.fullmatch(lines[-1]) if lines and not line.strip() else None
        if heading and (len(lines) == 1 or not lines[-2].strip()):
            before, lines = lines[:-2], lines[-2:]
            if name is not None:
                yield Document(name, "".join(before))
            elif "".join(before).strip():
                raise ValueError(f"{file}: text before the first heading ` = Title = `")
            name = heading[1]
        lines.append(line)
    if name is None:
        raise ValueError(f"{file}: expected headings ` = Title = ` between blank lines, found none")
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
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON object, found {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text:
        raise ValueError(f'{where}: expected {{"text": …}} with a text that is not empty')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ValueError(f"{where}: text: {error}") from error
    return record
