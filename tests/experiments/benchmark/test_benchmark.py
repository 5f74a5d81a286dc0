"""The benchmark runs, measures what it says, and its document is read once and wholly."""

import json

import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import generation as benchmark_generation
from experiments.results.benchmark import benchmark_table


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    """Numbers of the right kind, not how large: no test of speed."""
    measures = ("gpt2", "stream", "memory_gradient", "generation")
    benchmark.main(["--quick", "--measure", *measures, "--out", str(tmp_path)])
    files = [json.loads((tmp_path / f"{name}.json").read_text()) for name in measures]
    found = {name: of for file in files for name, of in file["found"].items()}
    assert found["gpt2"]["seconds"]["plain"] > 0 and found["gpt2"]["ratio"] > 0.5
    assert all(of["share"] > 0 for of in found["gpt2"]["floors"].values())
    assert (tmp_path / "stream.png").is_file()
    rows = found["stream"]["rows"]
    assert [row["tokens"] for row in rows] == [4096, 8192, 16384]
    # Of 128 segments all but the last are written.
    assert found["stream"]["writes"] == 128 - 1
    times = [row["seconds_per_segment"] for row in rows]
    assert found["stream"]["spread"] == pytest.approx(max(times) / min(times) - 1)
    assert all(row["floor"] > 0 and row["seconds_per_token"] > 0 for row in rows)
    # No array is kept of any.
    assert rows[0]["live_mib"] == pytest.approx(rows[-1]["live_mib"], rel=0.01)
    (row,) = (rows["1"] for rows in found["memory_gradient"].values())
    assert row["temporaries_mib"] > 0 and row["seconds"] > 0 and row["program_bytes"] > 1000
    assert row["share"] == pytest.approx(row["floor"] / row["seconds"]) and row["floor"] > 0
    of = found["generation"]
    assert (of["context"], of["tokens"], of["same"]) == (16, 2, 2)
    assert min(of["seconds_per_token"].values()) > 0 and min(of["ratio"].values()) > 0
    assert len(of["seconds_per_token"]) == len(of["ratio"]) == 3
    assert of["ratio"]["with the cache"] == 1
    work = {label: row["operations"] for label, row in of["floors"].items()}
    # A token alone, a segment of 16, and that with the gate, the write and all the logits.
    assert 10 * work["with the cache"] < work["recomputed, memory written once"]
    assert work["recomputed, memory written once"] < work["recomputed"]
    moved = {label: row["bytes"] for label, row in of["floors"].items()}
    assert 2**10 < min(moved.values()) <= max(moved.values()) < 2**20
    assert set(of["program_bytes"]) == set(work) and min(of["program_bytes"].values()) > 1000
    assert "16,384" in capsys.readouterr().out


def test_variants_take_turns():
    said = []
    found = benchmark.interleaved({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 3)
    assert said == ["a", "b"] * 4 and [len(of) for of in found.values()] == [3, 3]


def said(tokens, leads):
    cached = (np.array([[5, 6, 7, 8]]), None)
    return {benchmark_generation.CACHED: cached, "anew": (np.array([tokens]), np.array(leads))}


@pytest.mark.parametrize(
    ("tokens", "leads", "same"),
    [
        ([5, 6, 7, 8], [1.0, 1.0, 1.0, 1.0], 4),
        ([5, 6, 1, 8], [1.0, 1.0, 1e-4, 1.0], 2),  # what follows a tie says nothing
        ([5, 6, 1, 2], [1.0, 1.0, 1e-4, 1.0], 2),
    ],
)
def test_tokens_are_the_same_up_to_a_tie(tokens, leads, same):
    assert benchmark_generation.require_same(said(tokens, leads)) == same


@pytest.mark.parametrize(
    ("tokens", "leads"),
    [
        ([5, 6, 1, 8], [1e-4, 1.0, 1.0, 1e-4]),
        ([5, 6, 1, 2], [1.0, 1.0, np.nan, 1.0]),
        ([5, 6, 1, 2], [1.0, 1.0, -0.1, 1.0]),
    ],
)
def test_the_first_other_token_is_an_error(tokens, leads):
    message = "^generation: token 2 of 4: found 7 with the cache; expected 1, anew, which leads by"
    with pytest.raises(RuntimeError, match=message):
        benchmark_generation.require_same(said(tokens, leads))


def test_a_measure_keeps_the_file_of_another(tmp_path, monkeypatch):
    """Each has the commit and the command that it was measured with."""
    of = {"context": 16, "tokens": 2, "same": 2, "seconds_per_token": {}, "ratio": {}}
    monkeypatch.setitem(benchmark.MEASURES, "generation", lambda cfg: of)
    monkeypatch.setitem(benchmark.MEASURES, "stream", lambda cfg: {"rows": [], "spread": 0.0})
    benchmark.main(["--measure", "generation", "--out", str(tmp_path)])
    kept = (tmp_path / "generation.json").read_bytes()
    monkeypatch.setattr(benchmark.plots_benchmark, "PICTURES", {})
    benchmark.main(["--measure", "stream", "--out", str(tmp_path)])
    assert (tmp_path / "generation.json").read_bytes() == kept
    assert json.loads(kept)["found"] == {"generation": of}
    assert json.loads((tmp_path / "stream.json").read_text())["found"] == {
        "stream": {"rows": [], "spread": 0.0}
    }


def test_a_row_of_the_table_for_each_way_to_generate():
    found = {
        "context": 512,
        "tokens": 64,
        "same": 63,
        "seconds_per_token": {"with the cache": 0.0123, "recomputed": 0.4},
        "ratio": {"with the cache": 1.0, "recomputed": 31.6},
    }
    result = {"found": {"generation": found}, "device": "cpu", "commit": "c", "date": "d"}
    floor = {"floor": 0.0041, "share": 1 / 3, "bytes_floor": 0.002, "bytes_share": 0.16}
    with_floors = found | {
        "floors": dict.fromkeys(found["ratio"], floor),
        "program_bytes": dict.fromkeys(found["ratio"], 2**19),
    }
    newer = result | {"found": {"generation": with_floors}}
    assert benchmark_table([newer]).splitlines()[2] == (
        "| a token at 512 of context, with the cache | 12.3 ms | 63 of 64 greedy tokens the same; "
        "floor 4.10 ms (33%), of bytes 2.00 ms (16%); 0.5 MiB of HLO | cpu, c, d |"
    )
    assert benchmark_table([result]).splitlines()[2:] == [
        "| a token at 512 of context, with the cache | 12.3 ms | "
        "63 of 64 greedy tokens the same | cpu, c, d |",
        "| a token at 512 of context, recomputed | 400.0 ms | "
        "32 × with the cache, in pairs | cpu, c, d |",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "all"], "measure: found all, accepted: gpt2, stream, steps, "),
        (["--repeats", "0"], "repeats: found 0, accepted: 1 or more"),
        (["--batch", "0"], "batch: found 0, accepted: 1 or more"),
        (["--tokens", "9"], "tokens: found 9, accepted: 4096 or more"),
    ],
)
def test_refusals(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*options, "--out", str(tmp_path)])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
