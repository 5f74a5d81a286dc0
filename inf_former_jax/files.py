"""The door for files: each is read whole or refused by name, and written whole or not at all.

Text is UTF-8. A byte order mark at its beginning is no part of it, and line ends are not changed,
so the same bytes give the same text everywhere. JSON is strict (RFC 8259): `NaN` and `Infinity` are
refused when it is read, and written as null. `printable` is how such a text is shown.

Errors are ValueErrors "name: found X, accepted: Y". What the system refuses, such as a folder in
the place of a file, is one too. Only a file that is not there is a FileNotFoundError. A place that
cannot be written to is an `Unwritable`, and a full disk stays the system's OSError.
"""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import reprlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

#: Marks what is being written in the name of a file or folder; a kill may leave one behind.
PARTIAL = ".partial-"

#: A full disk, and a user's share of it that is used up: what is asked for is right.
_FULL = (errno.ENOSPC, errno.EDQUOT)

_MARK = b"\xef\xbb\xbf"  # the byte order mark in UTF-8
_PLACE = "a file in a folder that can be made and written to"
_DEPTH = 64  # arrays and objects inside each other; files of this project have at most 8


class Unwritable(OSError, ValueError):
    """The system refuses a place where a file or folder is to be written."""


class Changed(OSError, ValueError):
    """A file was written to by another while it was read."""


def read_bytes(path: str | os.PathLike, accepted: str = "a file that can be read") -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is a folder, or the system refuses to read it.
    """
    with reading(path, accepted):
        return Path(path).read_bytes()


def read_text(path: str | os.PathLike, accepted: str = "a file of UTF-8 text") -> str:
    """The text of a file; errors as of `read_bytes`, and for bytes that are no UTF-8."""
    raw = read_bytes(path, accepted)
    text = raw.removeprefix(_MARK)
    return decode(text, str(path), offset=len(raw) - len(text))


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text file, which may be larger than the memory.

    Lines end at `\\n` only: `str.splitlines` would cut inside texts. Errors as of `read_text`.
    """
    for number, offset, raw in read_raw_lines(path):
        yield number, decode(raw, str(path), offset)


def read_raw_lines(path: str | os.PathLike) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, offset in the file, bytes with the end) of each line; see `read_lines`."""
    offset = 0
    with reading(path), open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_MARK) if number == 1 else raw
            yield number, offset + len(raw) - len(line), line
            offset += len(raw)


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """(number from 1, how to read the JSON object) of each line that is not blank.

    A damaged line hides no other: its error is raised when the object is asked for, and names the
    line. Errors as of `read_json`.
    """
    for number, offset, raw in read_raw_lines(path):
        if raw.strip():
            yield number, functools.partial(_object, raw, f"{path}: line {number}", offset)


def _object(raw: bytes, name: str, offset: int) -> dict[str, Any]:
    return parse_json(decode(raw, name, offset), name)


def digest(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes in hexadecimal; errors as of `read_bytes`."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | os.PathLike, accepted: str = "a JSON object") -> dict[str, Any]:
    """The JSON object in a file; errors as of `read_text` and `parse_json`."""
    return parse_json(read_text(path, accepted), str(path), accepted)


def decode(raw: bytes, name: str, offset: int = 0) -> str:
    """The text that bytes spell in UTF-8.

    Raises:
        ValueError: naming the first byte that is no UTF-8, counted from `offset`.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place, found = offset + error.start, raw[error.start]
        raise ValueError(f"{name}: byte {place}: found 0x{found:02x}, accepted: UTF-8") from None


def parse_json(text: str, name: str, accepted: str = "a JSON object") -> dict[str, Any]:
    """The JSON object that a text spells.

    Raises:
        ValueError: no JSON, another value than an object, one that is nested too deeply, or one
            with a name that is there twice or a number that float64 cannot hold.
    """

    found, value = "", None
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_names_once,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        found = f"damaged JSON ({error.msg} at {place})" if text.strip() else "no JSON"
    except RecursionError:
        found = "JSON nested too deeply"
    except ValueError as error:  # also an integer of more digits than Python converts
        found = f"damaged JSON ({error})"
    if isinstance(value, dict) and _depth(value) <= _DEPTH:
        return value
    found = found or ("JSON nested too deeply" if isinstance(value, dict) else reprlib.repr(value))
    raise ValueError(f"{name}: found {found}, accepted: {accepted}")


def _refuse_constant(constant: str):
    raise ValueError(f"{constant} is no number of JSON")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number} is too large")
    return value


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(whole := dict(pairs)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{reprlib.repr(twice)} is there twice")
    return whole


def _depth(value: Any) -> int:
    """How many arrays and objects of a JSON value are inside each other."""
    depth, level = 0, [value]
    while level := [entry for entry in level if isinstance(entry, dict | list)]:
        depth += 1
        nested = (entry.values() if isinstance(entry, dict) else entry for entry in level)
        level = [inner for entries in nested for inner in entries]
    return depth


def json_text(content: Any, indent: int | None = None) -> str:
    """Strict JSON of a value; a number that is not finite becomes null.

    Half a character is written as JSON escapes it, since UTF-8 cannot hold it: `\\ud800`.
    """
    text = json.dumps(_strict(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _strict(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 1) -> None:
    """Write a value as strict JSON, whole or not at all."""
    write_text(path, json_text(content, indent) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text as UTF-8, its line ends as they are, whole or not at all."""
    with writing(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place when the block ends.

    Until then the bytes are in another file beside it, so an error or a kill leaves an old file as
    it was. The folder is made if needed. A link is followed: what it points to is replaced.

    Raises:
        ValueError: nothing can have this name.
        Unwritable: a folder is there, its folder cannot be made, or the system refuses to write.
        OSError: the disk is full.
    """
    target, partial = _target_and_partial(path)
    with placing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(partial, "xb")  # noqa: SIM115
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may otherwise reach the disk before the bytes do
        with placing(path):
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill with files, which takes its place when the block ends.

    Until then it has another name beside it, so an error leaves nothing, and a kill nothing that
    looks whole. An empty folder may be in its place.

    Raises:
        ValueError: nothing can have this name.
        Unwritable: a file or a folder with files is there, or the system refuses to write.
        OSError: the disk is full.
    """
    accepted = "a folder that is new or empty, and can be made and written to"
    target, partial = _target_and_partial(path, accepted)
    with placing(path, accepted):
        partial.mkdir(parents=True)
    try:
        yield partial
        for name in os.listdir(partial):
            with open(partial / name, "r+b") as file:
                os.fsync(file.fileno())  # as `writing` does, of files that libraries wrote
        with placing(path, accepted):
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def placing(path: str | os.PathLike, accepted: str = _PLACE) -> Iterator[None]:
    """Turn what the system refuses while a place is made into an `Unwritable` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        found = (error.strerror or str(error)).lower()
        raise Unwritable(f"{path}: found {found}, accepted: {accepted}") from None


def require_writable(path: str | os.PathLike, name: str) -> None:
    """Refuse a place where `writing` would fail, before there is anything to write.

    Args:
        name: of the option that says the place.

    Raises:
        ValueError: a folder is there, its folder is not, or the system refuses to write.
    """
    target, partial = _target_and_partial(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        open(partial, "xb").close()
        partial.unlink()
    except OSError as error:
        found = f"{path} ({(error.strerror or str(error)).lower()})"
        accepted = "a file in a folder that is there and can be written to"
        raise ValueError(f"{name}: found {found}, accepted: {accepted}") from None


def _target_and_partial(path: str | os.PathLike, accepted: str = _PLACE) -> tuple[Path, Path]:
    _require_name(path, accepted)
    target = Path(os.path.realpath(path))
    return target, target.with_name(f"{target.name}{PARTIAL}{uuid.uuid4().hex}")


def digest_of(arrays: Mapping[str, Any]) -> str:
    """A hash of NumPy arrays by their names, dtypes, shapes and bytes, in whatever order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def reading(path: str | os.PathLike, accepted: str = "a file that can be read") -> Iterator[None]:
    """Turn what the system refuses while a file is read into an error that names it.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: anything else.
    """
    _require_name(path, accepted)
    try:
        yield
    except FileNotFoundError as error:
        if error.errno is None:
            raise  # of another file, named inside the block
        raise FileNotFoundError(f"{path}: found nothing, accepted: {accepted}") from None
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise ValueError(f"{path}: found {found}, accepted: {accepted}") from None


def _require_name(path: str | os.PathLike, accepted: str) -> None:
    """Refuse a path that no file can have: with a NUL, or with half a character."""
    try:
        found = "a NUL in the path" if b"\0" in os.fsencode(path) else ""
    except UnicodeEncodeError:
        found = "half a character (a surrogate) in the path"
    if found:
        raise ValueError(f"{printable(str(path))}: found {found}, accepted: {accepted}")


def printable(text: str) -> str:
    """The text as a terminal may show it: no character of it moves the cursor or gives orders.

    Control characters but newline and tab become their pictures, `␛` for escape. Half a character
    (a surrogate) becomes U+FFFD. All that comes from files, models or people is shown this way.
    """
    return text.translate(_PICTURES)


_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)
