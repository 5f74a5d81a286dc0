"""The sorting task as a run asks for it, its check at the door and its report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.run import batches, plots, tables, training
from experiments.run.experiment import Experiment, Site, Task
from experiments.sorting import data
from experiments.sorting.config import PRESETS, SortingConfig
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.text import SPLITS
from inf_former_jax.require import require_at_least
from inf_former_jax.training import evaluation, metrics
from inf_former_jax.training.state import TrainState


def examples_of(cfg: SortingConfig) -> data.Examples:
    """The sequences that a config asks for."""
    return data.Examples(cfg.seed, cfg.length, cfg.model.segment_len, cfg.data, cfg.train_sequences)


class Sorting(Task):
    """Sequences to sort: fresh ones, or those of a file round and round."""

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: SortingConfig, site: Site):
        self._cfg, self._site, self._examples = cfg, site, examples_of(cfg)
        # Compiled once for each control, whatever the split.
        self._steps = {
            empty: evaluation.make_eval_step(cfg.model, empty) for empty in (False, True)
        }
        self._memory = batches.fresh_memory(cfg.model, cfg.batch_size, site.mesh)
        self.row = f"sequences of {cfg.length:,} tokens"
        self.tokens_per_step = cfg.batch_size * (cfg.length + data.VOCAB)

    def batches(self, begin: int) -> Iterator[Batch]:
        """Global batches of training sequences from update `begin` on."""

        def make(numbers):
            return self._examples.batch("train", numbers)

        return batches.training_batches(make, self._cfg.batch_size, self._site.mesh, begin)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy and more on the validation sequences."""
        empty = self._cfg.objective.empty_memory
        return self.figures(state, "valid", self._cfg.valid_sequences, empty)

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test sequences, as trained and with the memory emptied; baselines."""
        cfg, wanted = self._cfg, self._cfg.test_sequences
        numbers = np.arange(self._examples.count("test", wanted))
        return {
            "test": training.with_controls(
                cfg, lambda empty: self.figures(state, "test", wanted, empty)
            ),
            "baselines": data.baselines(cfg.model, *self._examples.sequences("test", numbers)),
        }

    def figures(
        self, state: TrainState, split: str, count: int, empty_memory: bool
    ) -> dict[str, float]:
        """Loss, accuracy and more over `count` sequences (all of a file that has fewer).

        Args:
            empty_memory: clear long-term and compressed memory before every segment (the control).
        """

        def make(numbers, counted):
            batch = self._examples.batch(split, numbers)
            return batch._replace(weights=batch.weights * counted[:, None, None])

        count = self._examples.count(split, count)
        size, (_, mesh, operators) = self._cfg.batch_size, self._site
        total: dict[str, float] = {}
        for first, batch in batches.counted_batches(make, count, size, mesh):
            key = jax.random.fold_in(state.key, first)
            sums, _ = self._steps[empty_memory](state.params, self._memory, batch, operators, key)
            total = metrics.add(total, sums)
        return metrics.ratios(total)


def check(cfg: SortingConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    least = data.NUM_TOKENS
    require_at_least("model.vocab_size", cfg.model.vocab_size, least)
    for name in ("test_sequences", "valid_sequences"):
        require_at_least(name, getattr(cfg, name), 1)
    for split in SPLITS:
        examples_of(cfg).batch(split, np.arange(1))
    training.check(cfg)


def report(preset: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    points = {label: row["accuracy"] for label, row in result["test"].items()}
    baselines = result["baselines"]
    tables.show(
        f"sorting, {preset}, {result['steps']:,} updates",
        ("on the test sequences", "accuracy"),
        [(label, f"{value:.3f}") for label, value in (points | baselines).items()],
    )
    path, title = folder / "accuracy.png", f"Sorting, {preset}"
    plots.accuracy_curve(path, title, result["curve"], baselines, points)
    until = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["seconds_until"].items())
    print(f"seconds from the start until: {until}")
    print(f"{folder}/result.json, {path}")


SORTING = Experiment(
    name="sorting",
    presets=PRESETS,
    default="infinity-former",
    task=Sorting,
    check=check,
    report=report,
)
