"""The benchmark runs, measures what it says, and its document is read once and wholly."""

import json

import pytest

from experiments import benchmark


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    """Numbers of the right kind, not how large: no test of speed."""
    benchmark.main(["--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "result.json").read_text())["found"]
    assert found["gpt2"]["seconds"]["plain"] > 0 and found["gpt2"]["ratio"] > 0.5
    rows = found["stream"]["rows"]
    assert [row["tokens"] for row in rows] == [4096, 8192, 16384]
    # 128 segments: all but the last are written, and no array is kept of any.
    assert found["stream"]["writes"] == 127
    assert rows[0]["live_mib"] == pytest.approx(rows[-1]["live_mib"], rel=0.01)
    for rows in found["memory_gradient"].values():
        assert rows["1"]["temporaries_mib"] > rows["0"]["temporaries_mib"] > 0
        assert rows["0"]["seconds"] > 0
    assert "16,384" in capsys.readouterr().out


def test_variants_take_turns():
    said = []
    found = benchmark.interleaved({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 3)
    assert said == ["a", "b"] * 4 and [len(of) for of in found.values()] == [3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "all"], "measure: found all, accepted: gpt2, stream, memory_gradient"),
        (["--repeats", "0"], "repeats: found 0, accepted: 1 or more"),
        (["--tokens", "9"], "tokens: found 9, accepted: 4096 or more"),
    ],
)
def test_refusals(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*options, "--out", str(tmp_path)])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
