"""What disks, editors and people make of files, for tests that read such files."""

import contextlib
import json
import os
from pathlib import Path

from hypothesis import strategies as st

from tests.damage import DIALECT

BOM = b"\xef\xbb\xbf"
DEEP = "[" * 100_000 + "]" * 100_000

#: JSON that is nothing of what a field holds, as its text.
VALUES = st.sampled_from(
    ["null", "true", "-1", "0", "1.5", "NaN", "1e999", "7" * 30, "7" * 5_000, DEEP, '""', '" "',
     '"\\ud800"', '"\\u0000\\u001b[2J"', '"a"', "[]", "{}", '["a"]', "[null]", '{"": {}}'],
)  # fmt: skip


def damaged(*whole: bytes) -> st.SearchStrategy[bytes | str]:
    """One of the files; one that is cut, has other bytes, or is another file; a name of `put`."""

    def overwritten(raw: bytes, place: float, by: bytes) -> bytes:
        begin = int(place * len(raw))
        return raw[:begin] + by + raw[begin + len(by) :]

    raw, place = st.sampled_from(whole), st.floats(0, 1)
    bits = st.sampled_from(
        [b"\xff", b"\0", b"\r\n", b"\xed\xa0\x80", BOM, b"{", b'"', b"\n\n", b" = "]
    )
    return st.one_of(
        raw,
        st.sampled_from(["folder", "nowhere", "loop", "unreadable"]),
        st.builds(overwritten, raw, place, bits | st.binary(min_size=1, max_size=3)),
        st.builds(lambda raw, place: raw[: int(place * len(raw))], raw, place),
        st.builds(BOM.__add__, raw),
        st.builds(lambda raw: raw.replace(b"\n", b"\r\n"), raw),
        st.sampled_from([b"", BOM, b"\n", b"\0" * 9, b"[]", DEEP.encode(), b"{" * 9_999, b"\x80"]),
    )


def mutated(record: object, values: st.SearchStrategy[str] = VALUES) -> st.SearchStrategy[bytes]:
    """JSON in which one value, at any depth, is another one or not there."""

    def replaced(path: tuple, value: str | None) -> bytes:
        copy = json.loads(json.dumps(record))
        place = copy
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = "@"
        return json.dumps(copy).replace('"@"', value or '"@"').encode()

    return st.builds(replaced, st.sampled_from(list(_paths(record))), st.none() | values)


def _paths(value: object, before: tuple = ()):
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries)[:4] if before == ("model", "vocab") else entries:
        yield (*before, key)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*before, key))


def put(path: Path, content: bytes | str) -> None:
    """Bytes in a file, or by its name something else in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    else:  # the system gives an error to whoever reads the memory of nothing
        target = {"nowhere": "nowhere", "loop": path.name, "unreadable": "/proc/self/mem"}
        path.symlink_to(target[content])


@contextlib.contextmanager
def refusals(folder: Path):
    """Nothing but errors that say what was found and accepted; every file stays as it was.

    Yields a list that is empty until something was refused.
    """
    before, refused = _contents(folder), []
    try:
        yield refused
    except (ValueError, FileNotFoundError) as error:
        assert DIALECT.fullmatch(str(error)), repr(error)
        refused.append(error)
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[str, object]:
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    links = {str(path): os.readlink(path) for path in folder.rglob("*") if path.is_symlink()}
    return links | {str(path): path.is_file() and path.read_bytes() for path in paths}
