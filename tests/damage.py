"""Damaged files for fuzz tests, and what a reader may answer to one."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies

#: One line: what, what was found, what is accepted.
DIALECT = re.compile(r"[^\n]+: found [^\n]+, accepted: [^\n]+")


def bytes_of(whole: bytes) -> strategies.SearchStrategy[bytes]:
    """Files that were cut, changed in one bit, overwritten, lengthened, or are something else."""
    places = strategies.integers(0, len(whole) - 1)
    ends = strategies.integers(0, 200).map(lambda back: max(len(whole) - 1 - back, 0))
    places = places | strategies.integers(0, min(300, len(whole) - 1)) | ends

    def changed(place, bit):
        return whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]

    def overwritten(place, content):
        return whole[:place] + content + whole[place + len(content) :]

    return (
        places.map(lambda place: whole[:place])
        | strategies.builds(changed, places, strategies.integers(0, 7))
        | strategies.builds(overwritten, places, strategies.binary(min_size=1, max_size=40))
        | strategies.binary(min_size=1, max_size=9).map(lambda more: whole + more)
        | strategies.binary(max_size=40)
    )


#: Values of JSON of every type, most of which a field forbids.
VALUES = strategies.sampled_from(
    [None, True, False, 0, -1, 1, 2**70, 0.5, -0.5, 1e39, float("nan"), float("inf"), "", "a"]
) | strategies.sampled_from(["NaN", [], [1], [[]], {}, {"a": None}, {"long_term": 5}])


def answer(read: Callable[[], Any]) -> Any:
    """What a reader returns, or None if it refuses in the dialect; any other error is raised."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        assert DIALECT.fullmatch(str(error)), repr(error)
        return None


#: What takes the place of a file in `damaged`: its content changed, another one, or no file.
WAYS = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[: len(raw) // 2],
    "cut at the end": lambda raw: raw[:-1],
    "zeros": lambda raw: bytes(len(raw)),
    "list": lambda raw: b"[]\n",
    "number": lambda raw: b"5\n",
    "null": lambda raw: b"null\n",
    "object": lambda raw: b"{}\n",
    "nested": lambda raw: b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n",
    "binary": lambda raw: bytes(range(256)),
    "missing": None,
    "folder": None,
}


def flipped(raw: bytes, byte: int) -> bytes:
    """Another bit of one byte, which is counted round and round."""
    changed = bytearray(raw)
    if raw:
        changed[byte % len(raw)] ^= 1 << byte % 8
    return bytes(changed)


@contextlib.contextmanager
def damaged(path: Path, how: str | int) -> Iterator[None]:
    """A file damaged in one of the WAYS, or by a flipped byte, until the block ends."""
    raw = path.read_bytes()
    path.unlink()
    if isinstance(how, int):
        path.write_bytes(flipped(raw, how))
    elif (change := WAYS[how]) is not None:
        path.write_bytes(change(raw))
    elif how == "folder":
        path.mkdir()
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(raw)
