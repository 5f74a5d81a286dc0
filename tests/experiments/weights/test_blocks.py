"""Quantised blocks against tables that were written by hand."""

import struct

import numpy as np
import pytest

from experiments.weights.blocks import KINDS, dequantised
from tests.experiments.weights import synthetic


def numbers(kind, raw):
    return dequantised(KINDS[kind], np.frombuffer(raw, np.uint8)).tolist()


def test_q4_1_by_hand():
    """q/2 - 1: low halves count up, high halves down; they are the first and the last 16."""
    pairs = [q + 16 * (15 - q) for q in range(16)]
    up = [-1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5]
    raw = struct.pack("<ee16B", 0.5, -1, *pairs)
    assert numbers(synthetic.Q4_1, raw) == up + up[::-1]
    second = struct.pack("<ee16B", 2, 3, *[0] * 16)
    assert numbers(synthetic.Q4_1, raw + second)[32:] == [3] * 32


def test_q8_0_by_hand():
    raw = struct.pack("<e32b", 0.25, -127, -1, 0, 1, 127, *[8] * 27)
    assert numbers(synthetic.Q8_0, raw) == [-31.75, -0.25, 0, 0.25, 31.75, *[2] * 27]


def test_f32_is_as_it_is():
    assert numbers(synthetic.F32, struct.pack("<3f", 1.5, -2, 1e-30)) == [
        1.5, -2, np.float32(1e-30)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [synthetic.F32, synthetic.Q4_1, synthetic.Q8_0])
def test_random_blocks_number_by_number(kind):
    rng = np.random.default_rng(1)
    blocks = [synthetic.block(rng, kind) for _ in range(20)]
    expected = np.float32([number for _, found in blocks for number in found])
    found = dequantised(KINDS[kind], np.frombuffer(b"".join(raw for raw, _ in blocks), np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("number, name, size", [(0, "F32", 256), (3, "Q4_1", 40), (8, "Q8_0", 68)])
def test_the_size_of_64_numbers(number, name, size):
    assert (KINDS[number].name, KINDS[number].size(64)) == (name, size)
