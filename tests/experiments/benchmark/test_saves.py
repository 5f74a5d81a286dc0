"""What checkpoints cost: blocks with a save and without one."""

import json

import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import saves
from experiments.benchmark.timing import BenchmarkConfig
from experiments.results.benchmark import benchmark_rows


def test_pairs_in_both_orders():
    """By hand: a block with a save takes 3 s, one without 2 s."""
    asked = []

    def block(save):
        asked.append(save)
        return 3.0 if save else 2.0

    assert saves._pair(block, True) == saves._pair(block, False) == (3.0, 2.0)
    assert asked == [True, False, False, True]


@pytest.mark.slow
def test_quick(tmp_path):
    benchmark.main(["--measure", "saves", "--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "saves.json").read_text())["found"]
    measured = found["saves"]
    assert measured["updates"] == 3 and measured["seconds"] > 0
    assert measured["kept_waiting"] > 0 and measured["costs"] == [measured["cost"]]
    assert (tmp_path / "saves.png").stat().st_size > 1000
    (row,) = benchmark_rows(found)
    assert row.what == "a checkpoint every 3 updates of `infinity-former`"
    assert row.median == f"{measured['cost']:+.1%} of the time"


@pytest.mark.slow
def test_which_blocks_have_a_save(monkeypatch):
    """Two of the three in which programs are compiled, and one of the pair."""
    steps, save = [], saves.Checkpoints.save

    def saved(self, step, state):
        steps.append(step)
        save(self, step, state)

    monkeypatch.setattr(saves.Checkpoints, "save", saved)
    saves.saves(BenchmarkConfig(quick=True))
    assert steps == [3, 6, 9]
