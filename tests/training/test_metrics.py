"""Ratios, rows on disk, TensorBoard events."""

import json
import math
import struct
import sys

import numpy as np
import pytest

from inf_former_jax.training.metrics import MetricsWriter, NonFiniteError, add, check_finite, ratios
from inf_former_jax.training.objective import SUMS


def test_ratios_by_hand():
    sums = dict(zip(SUMS, [3.0, 1.0, 4.0, 10.0, 5.0, 6.0, 4.0], strict=True))
    assert ratios(sums) == {"loss": 0.75, "accuracy": 0.25, "kl": 2.0, "reconstruction": 1.5}


def test_ratios_of_nothing():
    """No loss is no number; what no memory gave is left out."""
    result = ratios(dict.fromkeys(SUMS, 0.0))
    assert result.keys() == {"loss", "accuracy"}
    assert math.isnan(result["loss"]) and math.isnan(result["accuracy"])


def test_sums_are_added_in_float64():
    """In float32, 2^24 + 1 = 2^24."""
    total = add(None, {"loss": np.float32(2**24)})
    for _ in range(3):
        total = add(total, {"loss": np.float32(1)})
    assert total == {"loss": 2**24 + 3}


GOOD = {"loss": 1.0, "kl": 0.0, "grad_norm": 2.0, "memory_finite": True}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": np.nan}, "loss"),
        ({"kl": np.inf}, "kl"),
        ({"grad_norm": -np.inf, "memory_finite": False}, "grad_norm, memory"),
    ],
)
def test_what_is_not_finite_is_named(change, named):
    check_finite(12, GOOD)
    with pytest.raises(NonFiniteError, match=f"^step 12: NaN or infinity in {named}$"):
        check_finite(12, GOOD | change)


def test_each_row_is_on_disk_when_written(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 3, {"loss": 0.5})
        one = {"step": 3, "split": "train", "loss": 0.5}
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == one
        writer.write("valid", 4, {"loss": 0.25, "kl": 2.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"step": 4, "split": "valid", "loss": 0.25, "kl": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def events(path):
    """(tag, step, value) of each scalar in a TensorBoard file: length, CRC, record, CRC."""
    from tensorboardX.proto.event_pb2 import Event

    data, start = path.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        event = Event.FromString(data[start + 12 : start + 12 + length])
        yield from ((v.tag, event.step, v.simple_value) for v in event.summary.value)
        start += 12 + length + 4


def test_tensorboard_events(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.write("train", 3, {"loss": 0.5, "accuracy": 0.25})
        writer.write("valid", 4, {"loss": 0.75})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    expected = [("train/loss", 3, 0.5), ("train/accuracy", 3, 0.25), ("valid/loss", 4, 0.75)]
    assert list(events(path)) == expected


def test_without_tensorboardx_the_option_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"^tensorboard: .* not installed.*pip install.*\[tens"):
        MetricsWriter(tmp_path, tensorboard=True)
    assert list(tmp_path.iterdir()) == []
    MetricsWriter(tmp_path).__exit__()  # not needed otherwise
