"""The symbols of a byte-level vocabulary, and what it cannot write without some of them.

A byte-level BPE (GPT-2) writes each byte of UTF-8 as one printable character, its symbol. Some
vocabularies have no token for bytes that their training text did not have: SmolLM2's lacks 21. The
package tokenizers leaves such a byte out of a text and says nothing.
"""

import itertools
import re
from collections.abc import Container
from typing import NamedTuple


def _symbols() -> tuple[str, ...]:
    """Printable bytes of Latin-1 are their own symbols, the others have U+0100 and what follows."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


#: The symbol of each byte.
SYMBOLS = _symbols()

#: First bytes of characters that Unicode has not assigned → the first and the last of them.
_UNASSIGNED = {0xF1: (0x40000, 0x7FFFF), 0xF2: (0x80000, 0xBFFFF)}
#: Bytes that UTF-8 does not have.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
_CONTROLS = {*range(32), 127} - {ord(character) for character in "\t\n\r"}


class Missing(NamedTuple):
    """What a vocabulary lacks."""

    needed: tuple[int, ...]
    """Bytes without a token of which assigned characters are made, control characters aside."""
    ranges: tuple[tuple[int, int], ...]
    """First and last code point of the other characters that it cannot write."""

    @property
    def characters(self) -> re.Pattern[str] | None:
        """What finds the characters of `ranges` in a text; None if there are none."""
        parts = [f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in self.ranges]
        return re.compile(f"[{''.join(parts)}]") if parts else None

    def __str__(self) -> str:
        return ", ".join(
            code(first) if first == last else f"{code(first)} to {code(last)}"
            for first, last in self.ranges
        )


def missing(vocab: Container[str]) -> Missing:
    """What a vocabulary lacks that has these tokens.

    A text can do without control characters other than tab and line ends, and without characters
    that Unicode has not assigned. All other bytes that UTF-8 has are needed.
    """
    needed, ranges = [], list[tuple[int, int]]()
    for byte, symbol in enumerate(SYMBOLS):
        if symbol in vocab or byte in _NEVER:
            continue
        if byte not in _CONTROLS and byte not in _UNASSIGNED:
            needed.append(byte)
            continue
        first, last = _UNASSIGNED.get(byte, (byte, byte))
        if ranges and ranges[-1][1] == first - 1:
            first, _ = ranges.pop()
        ranges.append((first, last))
    return Missing(tuple(needed), tuple(ranges))


def code(character: str | int) -> str:
    """A character or its code point as U+0004."""
    return f"U+{ord(character) if isinstance(character, str) else character:04X}"
