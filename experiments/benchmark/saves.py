"""What checkpoints cost a run: blocks of updates with a save and without one, in turns."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.steps import begin, config
from experiments.benchmark.timing import BenchmarkConfig
from inf_former_jax.training import optim, sharding
from inf_former_jax.training.checkpoint import CheckpointConfig, Checkpoints
from inf_former_jax.training.step import make_train_step

#: Updates in a block.
UPDATES = 50


def saves(cfg: BenchmarkConfig) -> dict[str, Any]:
    """A checkpoint every 50 updates of the default sorter, beside the same updates without one.

    A block of updates begins with the save, if it has one, and ends when it is on disk. Blocks with
    and without follow each other in pairs, of which each has the other order.
    """
    preset = config("infinity-former", cfg.quick)
    tx, updates = optim.optimizer(preset.optim), 3 if cfg.quick else UPDATES
    _, (state, batch, operators), mesh = begin(preset, preset.model, tx)
    placed = sharding.shardings(state, mesh)
    step = make_train_step(preset.model, tx, preset.objective, placed)
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder), CheckpointConfig()) as checkpoints,
    ):

        def block(save: bool) -> float:
            nonlocal state
            begun = time.perf_counter()
            if save:
                checkpoints.save(int(state.step), state)
            for _ in range(updates):
                state, _ = step(state, batch, operators)
            jax.block_until_ready(state)
            checkpoints.wait()
            return time.perf_counter() - begun

        for save in (False, True, True):  # in the first ones programs are compiled
            block(save)
        kept_waiting, repeats = checkpoints.seconds, 1 if cfg.quick else cfg.repeats
        pairs = [_pair(block, turn % 2 == 0) for turn in range(repeats)]
        kept_waiting = (checkpoints.seconds - kept_waiting) / repeats
    costs = sorted(with_save / without - 1 for with_save, without in pairs)
    return {
        "preset": "infinity-former",
        "batch": preset.batch_size,
        "devices": mesh.size,
        "updates": updates,
        "state_mib": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20,
        "seconds": statistics.median(without for _, without in pairs),
        "kept_waiting": kept_waiting,
        "costs": costs,
        "cost": statistics.median(costs),
    }


def _pair(block: Any, save_first: bool) -> tuple[float, float]:
    """Seconds of a block (with a save, without one)."""
    if save_first:
        return block(True), block(False)
    without = block(False)
    return block(True), without
