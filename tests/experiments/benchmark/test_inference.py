"""Inference is measured as it says: a document is read once and wholly, tokens are the same."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.inference import CACHED, require_same, require_whole
from experiments.benchmark.timing import TINY
from experiments.run.room import host_bytes
from inf_former_jax.memory import state


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    """Numbers of the right kind, not how large: no test of speed."""
    measures = ("gpt2", "smollm2", "stream", "generation")
    benchmark.main(["--quick", "--measure", *measures, "--out", str(tmp_path)])
    files = [json.loads((tmp_path / f"{name}.json").read_text()) for name in measures]
    found = {name: measured for file in files for name, measured in file["found"].items()}
    assert found["gpt2"]["seconds"]["plain"] > 0 and found["gpt2"]["ratio"] > 0.5
    assert all(row["share"] > 0 for row in found["gpt2"]["floors"].values())
    rows = {(row["what"], row["label"]): row for row in found["smollm2"]["rows"]}
    assert len(rows) == 8 and all(row["seconds"] > 0 for row in rows.values())
    for what, half in itertools.product(("a segment", "a token"), ("", ", bfloat16")):
        plain, memory = (rows[what, label + half] for label in ("plain", "with memory"))
        assert plain["ratio"] == 1 and memory["operations"] > plain["operations"]
    assert rows["a segment", "plain"]["operations"] > 10 * rows["a token", "plain"]["operations"]
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
    tokens = found["generation"]
    assert (tokens["context"], tokens["tokens"], tokens["same"]) == (32, 4, 4)
    assert min(tokens["seconds_per_token"].values()) > 0 and min(tokens["ratio"].values()) > 0
    assert len(tokens["seconds_per_token"]) == len(tokens["ratio"]) == 3
    assert tokens["ratio"]["with the cache"] == 1
    work = {label: row["operations"] for label, row in tokens["floors"].items()}
    # A token alone, a segment of 32, and that with the gate, the write and all the logits.
    assert 10 * work["with the cache"] < work["recomputed, memory written once"]
    assert work["recomputed, memory written once"] < work["recomputed"]
    moved = {label: row["bytes"] for label, row in tokens["floors"].items()}
    assert 2**10 < min(moved.values()) <= max(moved.values()) < 2**22
    # The operators of one write, A and G of the first fit and of further ones, and a layer's
    # coefficients. Not those of 64 writes.
    numbers = 64 * (64 + 2 * TINY["segment_len"] + TINY["d_model"])
    assert moved["recomputed"] - moved["recomputed, memory written once"] <= 4 * numbers
    assert (
        set(tokens["program_bytes"]) == set(work) and min(tokens["program_bytes"].values()) > 1000
    )
    assert "16,384" in capsys.readouterr().out


def written(tokens, leads):
    cached = (np.array([[5, 6, 7, 8]]), np.zeros(4))
    return {CACHED: cached, "anew": (np.array([tokens]), np.array(leads))}


@pytest.mark.parametrize(
    ("tokens", "leads", "same"),
    [
        ([5, 6, 7, 8], [1.0, 1.0, 1.0, 1.0], 4),
        ([5, 6, 1, 8], [1.0, 1.0, 1e-4, 1.0], 2),  # what follows a tie says nothing
        ([5, 6, 1, 2], [1.0, 1.0, 1e-4, 1.0], 2),
    ],
)
def test_tokens_are_the_same_up_to_a_tie(tokens, leads, same):
    assert require_same(written(tokens, leads)) == same


@pytest.mark.parametrize(
    ("tokens", "leads"),
    [
        ([5, 6, 1, 8], [1e-4, 1.0, 1.0, 1e-4]),
        ([5, 6, 1, 2], [1.0, 1.0, np.nan, 1.0]),
        ([5, 6, 1, 2], [1.0, 1.0, -0.1, 1.0]),
    ],
)
def test_the_first_other_token_is_an_error(tokens, leads):
    message = "^generation: token 2 of 4: found 7 with the cache, accepted: 1, anew, which leads by"
    with pytest.raises(ValueError, match=message):
        require_same(written(tokens, leads))


def test_growth_is_an_error(tiny_model):
    """Of live arrays by more than a hundredth, of the process by more than a tenth."""
    memory = state.init(tiny_model, 1)

    def rows(live, host):
        return [{"live_mib": 10.0, "host_mib": 100.0}, {"live_mib": live, "host_mib": host}]

    require_whole(rows(10.05, 109.0), memory, 0)
    for live, host, name in ((10.2, 100.0, "live_mib"), (10.0, 111.0, "host_mib")):
        with pytest.raises(ValueError, match=f"^stream: {name}: found .*, accepted: no growth"):
            require_whole(rows(live, host), memory, 0)
    with pytest.raises(ValueError, match="found 0 writes, finite True, accepted: 1 writes"):
        require_whole(rows(10.0, 100.0), memory, 1)
    broken = jax.tree.map(
        lambda leaf: leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, memory
    )
    with pytest.raises(ValueError, match="finite False"):
        require_whole(rows(10.0, 100.0), broken, 0)
    assert 2**20 < host_bytes() < 2**40
