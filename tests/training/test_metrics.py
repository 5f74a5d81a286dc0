"""Ratios, rows on disk, TensorBoard events."""

import json
import math
import struct
import sys

import numpy as np
import pytest

from inf_former_jax.training.metrics import (
    MetricsWriter,
    NonFiniteError,
    add,
    check_figures,
    check_finite,
    ratios,
    read_rows,
)
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


FINITE = dict.fromkeys(("memory_finite", "parameters_finite", "optimizer_finite"), True)
GOOD = {"loss": 1.0, "weight": 3.0, "kl": 0.0, "grad_norm": 2.0, **FINITE}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": np.nan}, "loss"),
        ({"weight": np.nan}, "weight"),  # as of NaN among a batch's weights
        ({"kl": np.inf}, "kl"),
        ({"grad_norm": -np.inf, "memory_finite": False}, "grad_norm, memory"),
        ({"parameters_finite": False, "optimizer_finite": False}, "parameters, optimizer"),
    ],
)
def test_what_is_not_finite_is_named(change, named):
    check_finite(12, GOOD)
    with pytest.raises(NonFiniteError, match=f"^step 12: NaN or infinity in {named}$"):
        check_finite(12, GOOD | change)


def test_an_evaluation_whose_loss_is_not_finite_is_named():
    """A perplexity may be infinite: it is the exponential of a finite loss."""
    check_figures(12, "test", {"loss": 800.0, "perplexity": math.inf})
    for name in ("loss", "kl", "reconstruction"):
        for bad in (math.nan, math.inf):
            match = rf"^step 12: NaN or infinity in {name} of test data"
            with pytest.raises(NonFiniteError, match=match):
                check_figures(12, "test", {"loss": 0.5, "kl": 0.1} | {name: bad})


def test_each_row_is_on_disk_when_written(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 3, {"loss": 0.5})
        one = {"step": 3, "split": "train", "loss": 0.5}
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == one
        writer.write("valid", 4, {"loss": 0.25, "kl": 2.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"step": 4, "split": "valid", "loss": 0.25, "kl": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


GOOD_LINE = b'{"step": 3, "split": "train", "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"", "no JSON"),
        (b"\0\0\0\0", "damaged JSON"),
        (b"[]", r"\[\]"),
        (b"5", "5"),
        (b"null", "None"),
        (b"{}", "step None"),
        (b'{"split": "train", "loss": 0.5}', "step None"),
        (b'{"step": true, "split": "train"}', "step True"),
        (b'{"step": -1, "split": "train"}', "step -1"),
        (b'{"step": 1}', "split None"),
        (b'{"step": 1, "split": "train", "loss": "low"}', "loss 'low'"),
        (b'{"step": 1, "split": "train", "loss": NaN}', "damaged JSON"),
        (GOOD_LINE[:20], "damaged JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named_and_kept(tmp_path, line, found):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD_LINE + line + b"\n" + GOOD_LINE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"jsonl: line 2: found {found}.*, accepted: a row"):
        MetricsWriter(tmp_path)
    assert path.read_bytes() == before


def test_what_is_no_file_of_rows_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(GOOD_LINE + b"\xff\n")
    with pytest.raises(ValueError, match="binary: byte 43: found 0xff, accepted: UTF-8"):
        read_rows(tmp_path / "binary")
    with pytest.raises(ValueError, match="found is a directory, accepted: "):
        read_rows(tmp_path)


@pytest.mark.parametrize("end", [b"", b"\xff", b'{"step": 4', b"\0\0"])
def test_a_last_line_that_a_kill_cut_is_no_row(tmp_path, end):
    """The rows of steps that were lost are dropped, and so is the cut line."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD_LINE + GOOD_LINE.replace(b"3", b"9") + end)
    with MetricsWriter(tmp_path, done=3) as writer:
        writer.write("valid", 4, {"loss": math.nan})
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [(3, 0.5), (4, None)]
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
