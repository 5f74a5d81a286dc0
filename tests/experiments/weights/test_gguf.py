"""The reader of GGUF, on files that the tests write field by field."""

import struct

import numpy as np
import pytest

from experiments.weights import gguf
from tests.experiments.weights import synthetic


def parse(raw):
    return gguf.parse(raw, "a file")


def test_values_and_tensors_are_read():
    file = parse(synthetic.gguf())
    rounded = {"llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5))}
    assert file.values == synthetic.VALUES | rounded
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {
        name: shape for name, (_, shape) in synthetic.SHAPES.items()
    }
    for name, (_, _, _, expected) in synthetic.tensors().items():
        np.testing.assert_allclose(file.tensor(name), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "number, code, content",
    [(0, "B", 200), (1, "b", -3), (2, "H", 60000), (3, "h", -9), (4, "I", 2**31), (5, "i", -7),
     (6, "f", 0.5), (7, "?", True), (10, "Q", 2**63), (11, "q", -(2**40)), (12, "d", 0.1)],
)  # fmt: skip
def test_every_type_of_value(number, code, content):
    one = synthetic.text("one") + struct.pack(f"<I{code}", number, content)
    two = synthetic.text("two") + struct.pack(f"<IIQ{2 * code}", 9, number, 2, content, content)
    found = parse(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + one + two).values
    assert found == {"one": content, "two": [content] * 2}


def test_another_alignment():
    info = synthetic.text("x") + struct.pack("<IQIQ", 1, 2, synthetic.F32, 0)
    raw = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    raw += synthetic.text("general.alignment") + synthetic.value(256) + info
    raw += bytes(256 - len(raw)) + struct.pack("<2f", 1, 2)
    assert parse(raw).tensor("x").tolist() == [1, 2]


def test_a_file_cut_anywhere_is_refused():
    """Also behind the last header, where only numbers are missing."""
    raw = synthetic.gguf()
    for size in (4, 7, 20, 24, 30, 100, 5000, len(raw) - 4000, len(raw) - 1):
        accepted = r"found the first [\d,]+ bytes, accepted: a whole file, of [\d,]+ or more"
        with pytest.raises(ValueError, match=f"^a file: {accepted}$"):
            parse(raw[:size])


def of_kind(kind, size):
    """A file with one tensor."""
    return synthetic.gguf({}, {"x": (kind, (size,), b"", None)})


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "a file: found b'', accepted: a GGUF file"),
        (b"PK\3\4" * 9, r"found b'PK.*, accepted: a GGUF file"),
        (synthetic.gguf(version=2), "a file: version: found 2, accepted: 3"),
        (synthetic.gguf({"general.alignment": 0}, {}), "general.alignment: found 0, accepted: a"),
        (
            synthetic.gguf({}, {"x": (3, (16,), b"", None)}),
            "x: found Q4_1 of shape .16,., accepted",
        ),
        (synthetic.gguf({}, {"x": (12, (256,), b"", None)}), "x: found Q4_K, accepted: F32, Q4_1"),
        (synthetic.gguf({}, {"x": (77, (256,), b"", None)}), "x: found the kind 77, accepted: F32"),
    ],
    ids=["empty", "zip", "version", "alignment", "half a block", "quantisation", "unknown"],
)
def test_what_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        parse(raw)


def test_unknown_types_and_odd_texts_are_refused():
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + synthetic.text("name")
    with pytest.raises(ValueError, match=r"^a file: name: found the type 13, accepted: 0, 1, 2"):
        parse(head + struct.pack("<I", 13))
    with pytest.raises(ValueError, match=r"^a file: name: found a list of lists"):
        parse(head + struct.pack("<IIQ", 9, 9, 1))
    with pytest.raises(ValueError, match="found 0xff, accepted: UTF-8"):
        parse(head + struct.pack("<IQ", 8, 1) + b"\xff")


def test_a_value_has_the_type_that_is_asked_for():
    file = parse(synthetic.gguf({"a": 1, "b": "x"}, {}))
    assert file.value("a", int) == 1
    with pytest.raises(ValueError, match=r"^a file: b: found a str, accepted: a int$"):
        file.value("b", int)
    with pytest.raises(ValueError, match=r"^a file: c: found nothing, accepted: a str$"):
        file.value("c", str)
