"""Blocks of quantised numbers, as GGUF files hold them, and the float32 that they stand for.

A tensor is a sequence of blocks. Those of 32 numbers have a scale d in float16, and Q4_1 also a
least value m: a number is `d q + m` with q in 0..15, or `d q` with q in -127..127 for Q8_0. The
layouts are llama.cpp's, ggml/src/ggml-common.h.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8


class Kind(NamedTuple):
    """One way to store numbers."""

    name: str
    numbers: int  # of a block
    block: np.dtype
    values: Callable[[np.ndarray], np.ndarray]  # blocks [n] → numbers [n, numbers]

    def size(self, numbers: int) -> int:
        """Bytes of so many numbers, which fill whole blocks."""
        return numbers // self.numbers * self.block.itemsize


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """The low halves of the bytes are the first 16 numbers, the high halves the last 16."""
    pairs = blocks["quants"]
    quants = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32)
    return _column(blocks, "scale") * quants + _column(blocks, "least")


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks, "scale") * blocks["quants"].astype(np.float32)


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks["values"].astype(np.float32)


def _column(blocks: np.ndarray, field: str) -> np.ndarray:
    return blocks[field].astype(np.float32)[:, None]


#: Kinds by the numbers that GGUF has for them.
KINDS = {
    0: Kind("F32", 1, np.dtype([("values", "<f4", 1)]), _f32),
    3: Kind(
        "Q4_1", 32, np.dtype([("scale", "<f2"), ("least", "<f2"), ("quants", "u1", 16)]), _q4_1
    ),
    8: Kind("Q8_0", 32, np.dtype([("scale", "<f2"), ("quants", "i1", 32)]), _q8_0),
}


def dequantised(kind: Kind, raw: UInt8[np.ndarray, " bytes"]) -> Float32[np.ndarray, " numbers"]:
    """The numbers of whole blocks, one after the other."""
    return kind.values(raw.view(kind.block)).reshape(-1)
