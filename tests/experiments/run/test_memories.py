"""The table of memories: what a name means, and a cell that runs."""

import dataclasses
import json

import pytest

from experiments.passkey.memories import MEMORIES as PASSKEY
from experiments.questions.memories import MEMORIES as QUESTIONS
from experiments.recall import memories as recall
from experiments.run import memories
from experiments.run.memories import MemoriesConfig
from experiments.sorting.memories import MEMORIES as SORTING
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.loop import LoopConfig

GRIDS = {grid.experiment.name: grid for grid in (SORTING, recall.MEMORIES, PASSKEY, QUESTIONS)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "recall")) for name in GRIDS]
)
def test_every_memory_is_one_that_a_model_can_have(name):
    """All 46 names, at two sizes, with and without a window and a gradient: all differ."""
    options = dataclasses.replace(
        GRIDS[name].options,
        sizes=(4, 8),
        memories=memories.NAMES,
        windows=(0, 64),
        gradients=(0, 2),
    )
    cells = GRIDS[name].cells(options)
    assert len(cells) == 2 * 2 * 2 * 46 == len({cell.config for cell in cells})
    assert len({cell.folder for cell in cells}) == len(cells)


def test_what_a_name_means():
    ridge = memories.by_ridge(
        recall.PRESETS, fixed="infinity-former", power="infinity-former-lasting"
    )

    def made(name):
        return memories.memory(name, ridge, 4)

    assert made("ridge-gaussian-fixed-uniform") == ridge["fixed"]
    assert made("ridge-gaussian-power-uniform") == ridge["power"]
    assert made("ridge-gibbs-fixed-uniform").density == "gibbs"
    assert made("ridge-joined-fixed-uniform").joined
    assert made("intervals-gibbs-doubling-uniform").contraction == "doubling"
    queue, steered = (made(f"intervals-gibbs-kept-{how}") for how in ("uniform", "sticky"))
    assert queue.contraction == steered.contraction == "kept" and queue.tau == 0.75
    assert not queue.sticky and steered.sticky and steered.salience_bins == steered.num_basis
    mixed = made("intervals-mixed-power-sticky")
    assert (mixed.fit, mixed.functions) == ("intervals", "rectangular")
    assert (mixed.density, mixed.content_heads, mixed.contraction) == ("gaussian", 2, "power")
    assert mixed.sticky and mixed.num_samples == mixed.num_basis == ridge["power"].num_basis
    with pytest.raises(
        ValueError, match=r"^memories: found ridge, accepted: \(ridge\|intervals\)-\(ga"
    ):
        made("ridge")


def test_a_window_of_equal_cost():
    """Without a memory, attention has as many more keys as the memory has functions."""
    options = dataclasses.replace(recall.MEMORIES.options, memories=("window",), gradients=(3, 5))
    (cell,) = recall.MEMORIES.cells(options)
    model = cell.config.model
    assert (model.long_term, model.memory_gradient, model.mem_len) == (None, 0, 16 + 128)


@pytest.mark.parametrize("keys", [1, 2, 3, 40])
def test_recall_of_any_number_of_keys(keys):
    """Half of the pairs are asked for, two at least where there are two, and no more than fit."""
    asked = recall.config_of(keys, recall.MEMORIES.options).task.questions
    assert asked == {1: 1, 2: 2, 3: 2, 40: 8}[keys]


@pytest.mark.slow
def test_a_table_of_two_memories(tmp_path, monkeypatch, capsys):
    """They run one after the other; each is tested with its memory emptied and another's, too."""

    def tiny(keys: int, cfg: MemoriesConfig):
        given = recall_config(keys, cfg)
        sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 4, "d_model": 8, "d_inner": 8}
        model: ModelConfig = dataclasses.replace(given.model, **sizes)
        loop = LoopConfig(log_every=2, eval_every=2)
        counts = {"batch_size": 16, "test_documents": 16, "valid_documents": 16}
        return dataclasses.replace(given, model=model, loop=loop, **counts)

    recall_config = recall.config_of
    small = memories.grid(
        recall.RECALL,
        tiny,
        memories.by_ridge(recall.PRESETS, fixed="infinity-former", power="infinity-former-lasting"),
        MemoriesConfig(sizes=(2,), updates=4),
        "keys",
        recall.MEMORIES.columns,
    )
    names = ["ridge-gibbs-fixed-uniform", "intervals-mixed-power-sticky-emptied"]
    small.main(["--memories", *names, "--windows", "0", "--out", str(tmp_path)])
    title = "[2/2] intervals-mixed-power-sticky-emptied, keys 2, window 0, k = 0"
    assert title in capsys.readouterr().out
    first, second = (
        json.loads((tmp_path / "2-0" / f"{name}-0-0" / "result.json").read_text()) for name in names
    )
    controls = {"memory emptied before every segment", "another document's memory"}
    assert set(first["test"]) == {"as trained"} | controls
    assert set(second["test"]) == {"as trained"}
    assert second["settings"]["objective"]["empty_memory"] and second["steps"] == 4
    table = (tmp_path / "table.md").read_text().splitlines()
    assert len(table) == 4 and table[2].split(" | ")[4:6] == ["1", f"{_accuracy(first):.3f}"]


def _accuracy(result):
    return result["test"]["as trained"]["accuracy"]
