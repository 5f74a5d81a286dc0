"""Weak scaling by counts: sums by hand, and of a model of a few numbers."""

import dataclasses
import json

import pytest

from experiments.results.sharding import scaling_table
from experiments.sharding import __main__ as command
from experiments.sharding import scaling
from experiments.sharding.scaling import Hardware
from tests.experiments.sharding.test_sharding import tiny

#: Two a second, in groups of four; a fourth of that between groups.
DEVICE = Hardware(operations=100, memory=1e9, near=2.0, group=4, far=0.5)


@pytest.mark.parametrize(
    "number, seconds",
    [
        (1, 0),
        (2, 2 * 8 / 2 / 2),  # each sends a half, and then the half that it has summed
        (4, 2 * 8 * 3 / 4 / 2),
        (8, 2 * 8 * 3 / 4 / 2 + 2 * (8 / 4) / 2 / 0.5),
        (16, 2 * 8 * 3 / 4 / 2 + 2 * (8 / 4) * 3 / 4 / 0.5),
    ],
)
def test_seconds_of_a_sum_of_eight_bytes(number, seconds):
    assert scaling.seconds_to_sum(8, number, DEVICE) == seconds


def sorter():
    """Whose segments are long enough for the task: two of them, of 24 tokens."""
    config = tiny()
    model = dataclasses.replace(config.model, segment_len=24, mem_len=24)
    return dataclasses.replace(config, model=model, length=28)


def test_operations_grow_with_the_rows():
    one, segments, tokens = scaling.counted(dataclasses.replace(sorter(), batch_size=4))
    two, *_ = scaling.counted(dataclasses.replace(sorter(), batch_size=8))
    assert one > 0 and two == pytest.approx(2 * one, rel=0.01)
    assert segments == 2 and tokens == 4 * 48  # 28 tokens, a separator, 20 answers but one


@pytest.mark.slow
def test_a_table_of_a_tiny_model(tmp_path, monkeypatch, capsys):
    """By what the table says itself: seconds and shares follow from its counts."""
    monkeypatch.setattr(scaling, "_config", lambda name: sorter())
    monkeypatch.setattr(scaling, "HARDWARE", {"slow": DEVICE})
    options = ["--presets", "sorting/tiny", "--devices", "4", "8", "--share", "0.5"]
    command.main(["scaling", *options, "--out", str(tmp_path)])
    result = json.loads((tmp_path / "scaling.json").read_text())
    (row,), command_line = result["rows"], result["command"]
    assert command_line.startswith("python -m experiments.sharding scaling --presets")
    assert row["computing"] == row["operations"] / 50 and row["fits"]
    for number in (4, 8):
        telling = scaling.seconds_to_sum(row["told"], number, DEVICE)
        assert row["telling"][str(number)] == telling
        assert row["share"][str(number)] == telling / (telling + row["computing"])
    line = f"| {row['share']['4']:.1%} | {row['share']['8']:.1%} | "
    assert line in capsys.readouterr().out and line in scaling_table([result])


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--presets", "paper-4k"], "presets: found paper-4k, accepted: EXPERIMENT/PRESET of sort"),
        (["--presets", "passkey/none"], "presets: found passkey/none, accepted: EXPERIMENT/PRESET"),
        (["--presets", "sorting/no"], "presets: found sorting/no, accepted: sorting/ with infinit"),
        (["--share", "0"], "share: found 0.0, accepted"),
    ],
)
def test_bad_input_is_one_line(argv, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["scaling", *argv])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}") and error.count("\n") == 1
