"""The sorting task as a run asks for it, its check at the door and its report."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.run import batches, controls, tables, training
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site, Task
from experiments.sorting import data, plots
from experiments.sorting.config import PRESETS, SortingConfig
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.text import SPLITS
from inf_former_jax.require import require_at_least
from inf_former_jax.training import metrics
from inf_former_jax.training.state import TrainState


class Sorting(Task):
    """Sequences to sort: fresh ones, or those of a file round and round."""

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: SortingConfig, site: Site):
        self._cfg, self._site = cfg, site
        self._steps = controls.eval_steps(cfg, site.mesh)
        self._memory = batches.fresh_memory(cfg.model, cfg.batch_size, site.mesh)
        self.row = f"sequences of {cfg.length:,} tokens"
        self.tokens_per_step = cfg.batch_size * (cfg.length + data.VOCAB)

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Fresh sequences, or those of a file round and round."""
        return data.run_batch(self._cfg, "train", update * self._cfg.batch_size + rows)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy and more on the validation sequences."""
        control = controls.trained(self._cfg)
        return self.figures(state, "valid", self._cfg.valid_sequences, control)

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test sequences, as trained and with the controls; baselines."""
        cfg, figures = self._cfg, partial(self.figures, state, "test", self._cfg.test_sequences)
        return {"test": controls.each(cfg, figures, self._steps), "baselines": data.baselines(cfg)}

    def figures(
        self, state: TrainState, split: str, count: int, control: Control
    ) -> dict[str, float]:
        """Loss, accuracy and more over `count` sequences (all of a file that has fewer)."""
        cfg, (_, mesh, operators) = self._cfg, self._site

        def make(numbers, counted):
            batch = data.run_batch(cfg, split, numbers)
            return batch._replace(weights=batch.weights * counted[:, None, None])

        count, total = data.count(cfg, split, count), {}
        for first, batch in batches.counted_batches(make, count, cfg.batch_size, mesh):
            key = jax.random.fold_in(state.key, first)
            sums, _ = self._steps[control](state.params, self._memory, batch, operators, key)
            total = metrics.add(total, sums)
        return metrics.ratios(total)


def check(cfg: SortingConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    require_at_least("model.vocab_size", cfg.model.vocab_size, data.NUM_TOKENS)
    for split in SPLITS:
        data.run_batch(cfg, split, np.arange(1))
    training.check(cfg)


def size(cfg: SortingConfig) -> tuple[int, int]:
    """Segments of a sequence with its answer, and bytes of the test sequences for the baselines."""
    tokens = cfg.length + data.VOCAB
    return -(-tokens // cfg.model.segment_len), 2 * cfg.test_sequences * tokens


def report(preset: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    points = show(f"sorting, {preset}, {result['steps']:,} updates", result)
    path, title, baselines = folder / "accuracy.png", f"Sorting, {preset}", result["baselines"]
    plots.accuracy_curve(path, title, result["curve"], baselines, points, result["steps"])
    until = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["seconds_until"].items())
    print(f"seconds from the start until: {until}")
    print(f"{folder}/result.json, {path}")


def show(title: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Print the table of a result: label → accuracy, of a model, which is returned, and without."""
    points = {label: row["accuracy"] for label, row in result["test"].items()}
    rows = [(label, f"{value:.3f}") for label, value in (points | result["baselines"]).items()]
    tables.show(title, ("on the test sequences", "accuracy"), rows)
    return points


SORTING = Experiment("sorting", PRESETS, "infinity-former", Sorting, check, report, size)
