"""Rows of parquet files, in the layouts in which Hugging Face's hub distributes text.

A split is one file or numbered shards, beside each other, in `data/` or in a folder of its name. A
row has its text in the column `text`, and may have a name in one of NAMES. Rows are read in small
batches, and no more of a file is in memory at once. What rows are, documents or lines, is for
`inf_former_jax.data.text` to say. pyarrow, an extra, decodes the files.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from inf_former_jax.files import decode, printable, reading
from inf_former_jax.require import require

NAMES = ("short_book_title", "title", "id", "url")
"""Columns of text or whole numbers: the first that is neither null nor empty names a row."""

PATTERNS = tuple(
    f"{place}{pattern}"
    for place in ("", "data/")
    for pattern in ("{}.parquet", "{}-*-of-*.parquet", "{}/*.parquet")
)
"""Where the files of a split are, by its name."""

_ACCEPTED = "a whole parquet file"
_ROWS = 64  # decoded at once; a row may be a book
_BUFFER = 2**20  # bytes of a column that are read at once
_NAME = re.compile(r"(?P<begin>.*?)(?P<number>[0-9]+)-of-(?P<total>[0-9]+)(-[0-9a-f]+)?\.parquet")


class Row(NamedTuple):
    """What a row holds, before anyone asked whether it is text."""

    where: str  # the file, and the row's number in it
    number: int  # from 1, over all files of a split
    raw: bytes | None  # of the text
    name: str | None

    def text(self) -> str:
        """The text of the row.

        Raises:
            ValueError: null, or bytes that are no UTF-8.
        """
        if self.raw is None:
            raise ValueError(f"{self.where}: found null, accepted: a text")
        return decode(self.raw, self.where)


class _Shard(NamedTuple):
    """What the name of a numbered file says: `train-`, 2 and 0 of `train-00000-of-00002`."""

    begin: str
    total: int
    number: int


def find(folder: Path, name: str) -> dict[str, list[Path]]:
    """Of PATTERNS those of which a folder has files, and these in the order of their numbers.

    Raises:
        ValueError: a shard that is missing or there twice, or shards of more than one set.
    """
    found = {}
    for pattern in (pattern.format(name) for pattern in PATTERNS):
        place = (folder / pattern).parent
        files = list(place.glob(Path(pattern).name)) if "*" in pattern else [folder / pattern]
        if pattern.endswith("-of-*.parquet"):  # `train-clean-…` is another split
            files = [file for file in files if (_shard(file) or ("",))[0] == f"{name}-"]
        if files := [file for file in files if os.path.lexists(file)]:
            found[pattern] = _in_order(files, f"{folder}: {pattern}")
    return found


def _shard(file: Path) -> _Shard | None:
    match = _NAME.fullmatch(file.name)
    return match and _Shard(match["begin"], int(match["total"]), int(match["number"]))


def _in_order(files: list[Path], where: str) -> list[Path]:
    """By the numbers in their names; of shards every one has to be there once."""
    files = sorted(files, key=_by_numbers)
    shards = [(file, shard) for file in files if (shard := _shard(file))]
    if not shards:
        return files
    first, (begin, total, _) = shards[0]
    others = [file.name for file in files if (_shard(file) or ())[:2] != (begin, total)]
    found = f"{first.name} and {others[0]}" if others else ""
    require(not others, where, found, "the shards of one set")
    here: dict[int, Path] = {}
    for file, (_, _, number) in shards:
        require(number < total, where, file.name, f"numbers below {total}")
        found = f"{here.get(number, file).name} and {file.name}"
        require(number not in here, where, found, "one file of each number")
        here[number] = file
    missing = (number for number in range(total) if number not in here)
    lacking = [_sibling(first, number) for number in itertools.islice(missing, 3)]
    more = total - len(here) - len(lacking)
    found = f"no {', '.join(lacking)}" + (f" and {more} more" if more else "")
    require(not lacking, where, found, f"all {total} shards")
    return files


def _by_numbers(file: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", file.name)
    places = [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]
    return places, file.name  # `01` and `1` are the same number


def _sibling(file: Path, number: int) -> str:
    """The name of a file's shard with another number, as far as it is known."""
    match = _NAME.fullmatch(file.name)
    assert match is not None
    begin, end = match.span("number")
    return f"{file.name[:begin]}{number:0{end - begin}}-of-{match['total']}.parquet"


def rows(files: list[Path]) -> Iterator[Row]:
    """Rows of files, one file after the other; all columns are checked before the first row.

    Raises:
        ValueError: pyarrow is not installed; a file that is damaged or that has no column `text`
            of text.
        FileNotFoundError: a link to nowhere.
    """
    for file in files:
        with _opened(file) as opened:
            _columns(opened, file)
    count = 0
    for file in files:
        for number, (raw, name) in enumerate(_read(file), 1):
            count += 1
            yield Row(f"{file}: row {number}", count, raw, name)


def _read(file: Path) -> Iterator[tuple[bytes | None, str | None]]:
    count = 0
    with _opened(file) as opened:
        columns = _columns(opened, file)
        batches = opened.iter_batches(_ROWS, columns=columns, use_threads=False)
        while batch := _next(batches, columns, file):
            texts, *names = batch
            for raw, *row_names in zip(texts, *names, strict=True):
                yield raw, next((name for name in row_names if name), None)
            count += len(texts)
        promised = opened.metadata.num_rows
        require(count == promised, str(file), f"{count} rows of {promised}", _ACCEPTED)


def _next(batches: Iterator[Any], columns: list[str], file: Path) -> list[list[Any]] | None:
    """The next rows by column, text as bytes and names as texts; None at the end."""
    with _damage(file):
        batch = next(batches, None)
        if batch is None:
            return None
        text, *names = (_bytes(batch.column(name)) for name in columns)
        return [text, *([_name(value) for value in values] for values in names)]


def _bytes(column: Any) -> list[Any]:
    """The values of a column, those of text as bytes: what is no UTF-8 is refused later, by row."""
    library = _library()
    if not library.types.is_integer(column.type):
        column = column.cast(library.large_binary())
    return column.to_pylist()


def _name(value: Any) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None if text is None else str(text)


def _columns(opened: Any, file: Path) -> list[str]:
    """`text`, and which of NAMES there are."""
    with _damage(file):
        leaves = [opened.schema.column(place) for place in range(len(opened.schema))]
        # A column of lists or records is leaves with longer paths.
        kinds = {leaf.path: (leaf.logical_type.type, leaf.physical_type) for leaf in leaves}
        fields = opened.schema_arrow
        types = {field.name: str(field.type) for field in fields}
    columns = ", ".join(fields.names[:8]) or "none"
    more = f" and {len(fields.names) - 8} more" if len(fields.names) > 8 else ""
    where, accepted = str(file), "a column `text` of text"
    count, text = fields.names.count("text"), printable(types.get("text", ""))
    require(count == 1, where, f"the columns {printable(columns)}{more}", accepted)
    found = f"a column `text` of the type {text}"
    require(kinds.get("text", ("", ""))[0] == "STRING", where, found, accepted)
    usable = [name for name in NAMES if fields.names.count(name) == 1 and _names(kinds.get(name))]
    return ["text", *usable]


def _names(kind: tuple[str, str] | None) -> bool:
    """Whether a column can name rows: text, or whole numbers and nothing that is kept as them."""
    return kind is not None and (
        kind[0] == "STRING" or (kind[0] in ("NONE", "INT") and kind[1] in ("INT32", "INT64"))
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The file as pyarrow reads it, which checks pages that have a checksum."""
    library = _library(file)
    with reading(file, _ACCEPTED), open(file, "rb") as raw:
        with _damage(file):
            options = {"pre_buffer": False, "buffer_size": _BUFFER}  # otherwise all is read at once
            opened = library.parquet.ParquetFile(raw, page_checksum_verification=True, **options)
        yield opened


@contextlib.contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into an error that names it."""
    try:
        yield
    except Exception as error:  # its own, of Unicode, of memory that no whole file asks for
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system
        found = printable(" ".join(str(error).split())) or type(error).__name__
        raise ValueError(f"{file}: found damage ({found}), accepted: {_ACCEPTED}") from None


def _library(file: Path | None = None) -> Any:
    """The package pyarrow, an extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        accepted = "text in other layouts, or parquet after pip install 'inf_former_jax[parquet]'"
        found = "a parquet file, and the package pyarrow (16 or newer) is not installed"
        raise ValueError(f"{file}: found {found}, accepted: {accepted}") from None
    return pyarrow
