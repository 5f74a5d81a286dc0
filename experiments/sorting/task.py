"""One run of the sorting experiment: its task for the shared run, its runs' states, its report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.run import batches as batching
from experiments.run import training
from experiments.sorting import data as task
from experiments.sorting import examples as sorting_data
from experiments.sorting.config import SortingConfig
from inf_former_jax.data.batches import Batch
from inf_former_jax.training.state import TrainState


def examples_of(cfg: SortingConfig) -> sorting_data.Examples:
    """The sequences that a config asks for."""
    return sorting_data.Examples(
        cfg.seed, cfg.length, cfg.model.segment_len, cfg.data, cfg.train_sequences
    )


def run(cfg: SortingConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    return training.run(cfg, folder, provenance, lambda mesh, ops: Sorting(cfg, mesh, ops))


class Sorting:
    """The sorting task as a run asks for it (`training.Task`).

    Args:
        ops: the model's operators on the devices of the mesh.
    """

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: SortingConfig, mesh: Mesh, ops: Any):
        self._cfg, self._mesh, self._ops = cfg, mesh, ops
        self._examples = examples_of(cfg)
        self._evaluator = sorting_data.Evaluator(cfg.model, self._examples, cfg.batch_size, mesh)
        self.row = f"sequences of {cfg.length:,} tokens"
        self.tokens_per_step = cfg.batch_size * (cfg.length + task.VOCAB)

    def batches(self, begin: int) -> Iterator[Batch]:
        """Fresh sequences, or those of a file round and round."""

        def make(numbers):
            return self._examples.batch("train", numbers)

        return batching.training_batches(make, self._cfg.batch_size, self._mesh, begin)

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy and more on the validation sequences."""
        empty = self._cfg.objective.empty_memory
        return self._figures(now, "valid", self._cfg.valid_sequences, empty)

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on the test sequences, as trained and with the memory emptied; baselines."""
        cfg = self._cfg
        return {
            "test": {
                label: self._figures(final, "test", cfg.test_sequences, empty)
                for label, empty in training.controls(cfg).items()
            },
            "baselines": sorting_data.baselines(cfg.model, self._examples, cfg.test_sequences),
        }

    def _figures(self, now, split, count, empty):
        return self._evaluator(now.params, self._ops, now.key, split, count, empty)


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    from rich.console import Console
    from rich.table import Table

    from experiments.run import plots

    table = Table(title=f"sorting, {name}, {result['steps']:,} updates", title_justify="left")
    table.add_column("on the test sequences")
    table.add_column("accuracy", justify="right")
    points = {label: row["accuracy"] for label, row in result["test"].items()}
    for label, value in (points | result["baselines"]).items():
        table.add_row(label, f"{value:.3f}")
    Console().print(table)
    plots.accuracy_curve(
        folder / "accuracy.png", f"Sorting, {name}", result["curve"], result["baselines"], points
    )
    until = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["seconds_until"].items())
    print(f"seconds from the start until: {until}")
    print(f"{folder}/result.json, {folder}/accuracy.png")


def check(cfg: SortingConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    if cfg.model.vocab_size < task.NUM_TOKENS:
        raise ValueError(
            f"model.vocab_size: found {cfg.model.vocab_size}, accepted: {task.NUM_TOKENS} or more"
        )
    for name in ("test_sequences", "valid_sequences"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    for split in task.SPLITS:
        examples_of(cfg).batch(split, np.arange(1))
    training.check(cfg)
