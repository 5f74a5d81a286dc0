"""The comparisons of models and of contractions, on models of a few numbers."""

import dataclasses
import json
import signal
from typing import Any

import pytest

from experiments.run import grid
from experiments.sorting import compare, lasting
from experiments.sorting.__main__ import main
from experiments.sorting.config import PRESETS
from inf_former_jax.training.checkpoint import CheckpointConfig
from inf_former_jax.training.loop import LoopConfig, StopSignal
from inf_former_jax.training.optim import OptimConfig


def shrunk(config):
    """A preset with the smallest sizes that can sort 30 tokens, for 4 updates."""
    sizes: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "head_dim": 4}
    sizes |= {"d_model": 8, "d_inner": 8, "segment_len": 24, "mem_len": 24}
    compressed = config.model.compressed
    if compressed is not None:
        sizes["compressed"] = dataclasses.replace(compressed, length=6)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **sizes),
        optim=OptimConfig(steps=4, learning_rate=1e-3),
        loop=LoopConfig(log_every=2, eval_every=2),
        checkpoint=CheckpointConfig(every=4),
        batch_size=8,
        test_sequences=8,
        valid_sequences=8,
    )


@pytest.fixture
def tiny_presets(monkeypatch):
    for name in ("compressive", "transformer-xl"):
        text, config = PRESETS[name]
        monkeypatch.setitem(PRESETS, name, (text, shrunk(config)))


def options(out, *more):
    given = "--models compressive-emptied transformer-xl --seeds 1 --lengths 28 --minutes 0"
    return ["compare", *given.split(), "--out", str(out), *more]


@pytest.mark.slow
def test_compare_fills_the_table_and_keeps_what_is_done(tiny_presets, tmp_path, capsys):
    """Two models; again: nothing is run anew; a further seed: its cells are empty until run."""
    main(options(tmp_path))
    assert "[2/2] transformer-xl, 28 tokens, seed 0" in capsys.readouterr().out
    files = sorted(tmp_path.glob("28/*/result.json"))
    assert [path.parent.name for path in files] == ["compressive-emptied-0", "transformer-xl-0"]
    emptied, plain = (json.loads(path.read_text()) for path in files)
    assert emptied["settings"]["objective"]["empty_memory"]
    assert emptied["steps"] == plain["steps"] == 4 and len(plain["curve"][0]) == 3
    # seen, 24 short-term rows of 8 channels, and for the other 24 pending and 6 compressed ones
    assert plain["memory_bytes_per_row"] == 4 + 4 * 24 * 8
    assert emptied["memory_bytes_per_row"] == 4 + 4 * (48 + 6) * 8
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    before = [path.stat().st_mtime_ns for path in files]
    main(options(tmp_path))
    assert [path.stat().st_mtime_ns for path in files] == before
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 4 and lines[2].startswith("| compressive-emptied | 28 | 1 | 0.")


@pytest.mark.slow
def test_a_signal_ends_compare_after_the_step_and_it_goes_on(tiny_presets, tmp_path, monkeypatch):
    """Exit 3 in the middle of the second cell; the same command keeps the first and goes on."""

    class Armed(StopSignal):
        def __enter__(self):
            entered = super().__enter__()
            if armed and list(tmp_path.glob("28/compressive-emptied-0/result.json")):
                signal.raise_signal(signal.SIGTERM)
            return entered

    armed = True
    monkeypatch.setattr("inf_former_jax.training.loop.StopSignal", Armed)
    with pytest.raises(SystemExit) as stopped:
        main(options(tmp_path))
    assert stopped.value.code == 3
    first = tmp_path / "28/compressive-emptied-0/result.json"
    assert first.exists() and not (tmp_path / "28/transformer-xl-0/result.json").exists()
    assert sorted((tmp_path / "28/transformer-xl-0/checkpoints").iterdir())
    before, armed = first.stat().st_mtime_ns, False
    main(options(tmp_path))
    assert first.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "28/transformer-xl-0/result.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_a_run_that_ended_before_its_result_is_finished(tiny_presets, tmp_path):
    """All updates done, killed in the final evaluation: repeating writes the same result."""
    main(options(tmp_path))
    path = tmp_path / "28/transformer-xl-0/result.json"
    before = json.loads(path.read_text())
    path.unlink()
    main(options(tmp_path))
    after = json.loads(path.read_text())
    for name in ("steps", "curve", "test", "training_seconds", "tokens_per_second"):
        assert after[name] == before[name]


def test_what_has_not_run_stays_empty(tiny_presets, tmp_path):
    """Cells without a result are rows without figures."""
    cfg = compare.CompareConfig(
        models=("transformer-xl",), lengths=(28,), seeds=1, out=str(tmp_path)
    )
    found = grid.results(compare.cells(cfg))
    assert compare.COMPARE.rows(found) == [["transformer-xl", "28", "0"] + [""] * 8]


@pytest.mark.parametrize("name", ["foo", "transformer-xl-emptied"])
def test_unknown_models_are_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--models", name, "--out", str(tmp_path / "none")])
    assert capsys.readouterr().err.startswith(f"error: models: found {name}, accepted: ")
    assert not (tmp_path / "none").exists()


def test_the_paper_grid():
    """4,000, 8,000 and 16,000 tokens in the paper's sizes."""
    cfg = compare.CompareConfig(models=("infinity-former",), paper=True, seeds=1)
    made = compare.cells(cfg)
    assert [cell.row[1] for cell in made] == ["4,000", "8,000", "16,000"]
    assert made[0].config.model.d_model == 300 and made[0].config.train_sequences == 8000


def test_lasting_rows_differ_in_their_memory_only(tmp_path):
    """Hand-written table: contraction and locations of each row; segments, sizes and updates."""
    cfg = lasting.LastingConfig(seeds=1, segments=(64,), updates=50, out=str(tmp_path))
    table = {cell.row[0]: cell.config for cell in lasting.cells(cfg)}
    memories = {name: config.model.long_term for name, config in table.items()}
    assert memories.pop("transformer-xl") is None
    taus = {name: (memory.tau_of(1), memory.tau_of(9)) for name, memory in memories.items()}
    assert taus == {
        "infinity-former": (0.75, 0.75),
        "infinity-former-tau-0.9": (0.9, 0.9),
        "infinity-former-power": (0.5, 0.9),
        "infinity-former-lasting": (0.5, 0.9),
        "infinity-former-sticky": (0.75, 0.75),
        "infinity-former-sticky-drawn": (0.75, 0.75),
        "infinity-former-lasting-sticky": (0.5, 0.9),
        "infinity-former-lasting-emptied": (0.5, 0.9),
    }
    assert {name for name, memory in memories.items() if memory.sticky} == {
        "infinity-former-sticky",
        "infinity-former-sticky-drawn",
        "infinity-former-lasting-sticky",
    }
    assert memories["infinity-former-sticky-drawn"].locations == "draw"
    assert memories["infinity-former-power"].widths == memories["infinity-former"].widths
    assert memories["infinity-former-lasting"].widths == (0.0078,)
    assert {memory.num_basis for memory in memories.values()} == {128}
    for name, config in table.items():
        assert (config.length, config.batch_size, config.optim.steps) == (2028, 8, 50)
        assert (config.model.segment_len, config.optim.warmup_steps) == (32, 25)
        assert config.model.mem_len == (64 if name == "transformer-xl" else 32)
        assert config.objective.empty_memory == name.endswith("-emptied")


@pytest.mark.slow
def test_lasting_fills_its_table(monkeypatch, tmp_path, capsys):
    """One memory through the whole of training, evaluation and report."""
    small = lasting.small
    monkeypatch.setattr(lasting, "small", lambda model, **made: shrunk(small(model, **made)))
    given = "--models infinity-former-lasting --segments 3 --seeds 1 --updates 4"
    main(["lasting", *given.split(), "--out", str(tmp_path)])
    assert "[1/1] infinity-former-lasting, 76 tokens, seed 0" in capsys.readouterr().out
    result = json.loads((tmp_path / "3/infinity-former-lasting-0/result.json").read_text())
    assert result["steps"] == 4 and "memory emptied before every segment" in result["test"]
    assert result["command"].startswith("python -m experiments.sorting lasting --models")
    assert (tmp_path / "table.md").read_text().count("infinity-former-lasting | 76 | 1 | 0.") == 1


@pytest.mark.parametrize(
    "given, said",
    [
        ("lasting --models unknown", "models: found unknown, accepted: transformer-xl, "),
        ("lasting --segments 0", "segments: found 0, accepted: a whole number ≥ 1"),
        ("lasting --updates 0", "updates: found 0"),
        ("lasting --seeds 0", "seeds: found 0"),
        ("lasting --models", "models: found none"),
        ("compare --seeds 0", "seeds: found 0, accepted: a whole number in [1, 1000]"),
        ("compare --models", "models: found none"),
        ("compare --lengths", "lengths: found none, accepted: one or more"),
    ],
)
def test_a_table_without_runs_is_refused_in_one_line(given, said, tmp_path, capsys):
    """Exit 2 before anything is written."""
    with pytest.raises(SystemExit) as stopped:
        main([*given.split(), "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
