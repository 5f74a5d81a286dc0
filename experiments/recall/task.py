"""One run of the recall experiment: accuracy by the age of a question, baselines, the report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.recall import data as task
from experiments.recall.config import RecallConfig
from experiments.recall.data import generate
from experiments.run import batches as batching
from experiments.run import training
from inf_former_jax.data.batches import Batch
from inf_former_jax.training import evaluation, metrics
from inf_former_jax.training.state import TrainState


def run(cfg: RecallConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    return training.run(cfg, folder, provenance, lambda mesh, ops: Recall(cfg, mesh, ops))


class Recall:
    """The recall task as a run asks for it (`training.Task`).

    Args:
        ops: the model's operators on the devices of the mesh.
    """

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: RecallConfig, mesh: Mesh, ops: Any):
        self._cfg, self._mesh, self._ops = cfg, mesh, ops
        self._steps = [evaluation.make_eval_step(cfg.model, empty) for empty in (False, True)]
        self._memory = batching.fresh_memory(cfg.model, cfg.batch_size, mesh)
        size = cfg.task.segments * cfg.model.segment_len
        self.row = f"documents of {size:,} tokens in {cfg.task.segments} segments"
        self.tokens_per_step = cfg.batch_size * size

    def _documents(self, split, numbers):
        cfg = self._cfg
        return task.generate(cfg.seed, split, numbers, cfg.task, cfg.model.segment_len)

    def batches(self, begin: int) -> Iterator[Batch]:
        """Fresh documents."""

        def make(numbers):
            return task.batch(self._documents("train", numbers), self._cfg.model.segment_len)

        return batching.training_batches(make, self._cfg.batch_size, self._mesh, begin)

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy, and accuracy of every age, on the validation documents."""
        cfg = self._cfg
        row = self.figures(now, "valid", cfg.valid_documents, cfg.objective.empty_memory)
        by_age = zip(row.pop("ages"), row.pop("accuracy_by_age"), strict=True)
        del row["questions_by_age"]
        return row | {f"accuracy_age_{age}": value for age, value in by_age if value is not None}

    def figures(
        self, now: TrainState, split: str, count: int, empty_memory: bool
    ) -> dict[str, Any]:
        """Loss and accuracy over all questions of `count` documents, and by age.

        Args:
            empty_memory: clear long-term and compressed memory before every segment (the control).

        Returns:
            Those of `metrics.ratios`; ages, accuracy_by_age and questions_by_age, lists of equal
            length; the accuracy of an age that is not asked is None.
        """
        sums = self._sums(now, split, count, empty_memory)
        total = None
        for of_age in sums.values():
            total = metrics.add(total, of_age)
        asked = [int(of_age["weight"]) for of_age in sums.values()]
        right = [of_age["correct"] for of_age in sums.values()]
        return metrics.ratios(total) | {
            "ages": list(sums),
            "accuracy_by_age": [r / n if n else None for r, n in zip(right, asked, strict=True)],
            "questions_by_age": asked,
        }

    def _sums(self, now, split, count, empty_memory):
        """Age → sums over its questions.

        The context is read once; its memory then reads the questions of one age at a time, told
        apart by their weights.
        """
        sums: dict[int, Any] = dict.fromkeys(self._cfg.task.ages)
        evaluate = self._steps[empty_memory]

        def make(numbers, counted):
            return self._context_and_questions(self._documents(split, numbers), counted)

        for first, (context, questions) in batching.counted_batches(
            make, count, self._cfg.batch_size, self._mesh
        ):
            key, later = jax.random.split(jax.random.fold_in(now.key, first))
            _, memory = evaluate(now.params, self._memory, context, self._ops, key)
            for age, asked in questions.items():
                of_age, _ = evaluate(now.params, memory, asked, self._ops, later)
                sums[age] = metrics.add(sums[age], of_age)
        return sums

    def _context_and_questions(self, documents, counted):
        """(batch of the context, age → batch of the last segment with the age's questions)."""
        length = self._cfg.model.segment_len
        whole = task.batch(documents, length)._asdict()
        context, last = (
            Batch(**{name: leaf if leaf is None else leaf[:, part] for name, leaf in whole.items()})
            for part in (np.s_[:-1], np.s_[-1:])
        )
        ages = documents.ages[:, None, -length:]
        weights = {age: (ages == age) & counted[:, None, None] for age in self._cfg.task.ages}
        return context, {
            age: last._replace(weights=asked.astype(np.float32)) for age, asked in weights.items()
        }

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the memory emptied; baselines."""
        cfg = self._cfg
        return {
            "test": {
                label: self.figures(final, "test", cfg.test_documents, empty)
                for label, empty in training.controls(cfg).items()
            },
            **baselines(cfg),
        }


def baselines(cfg: RecallConfig) -> dict[str, Any]:
    """Accuracies that need no learning: `baselines` over all questions, some `by age` too."""
    window = cfg.model.mem_len // cfg.model.segment_len
    windows = {"exact look-up, short-term window": window}
    if cfg.model.num_layers > 1:
        windows[f"exact look-up, {cfg.model.num_layers} layers × window"] = (
            window * cfg.model.num_layers
        )
    length = cfg.model.segment_len
    test = task.generate(cfg.seed, "test", range(cfg.test_documents), cfg.task, length)
    return {
        "baselines": {
            "chance": task.chance(cfg.task),
            "values counted, none bound to its key": task.counting_accuracy(cfg.task, test, length),
            **{label: task.lookup_accuracy(cfg.task, reach) for label, reach in windows.items()},
        },
        "baselines_by_age": {
            label: [task.lookup_accuracy(cfg.task, reach, age) for age in cfg.task.ages]
            for label, reach in windows.items()
        },
    }


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    from rich.console import Console
    from rich.table import Table

    from experiments.run import plots

    ages = result["test"]["as trained"]["ages"]
    table = Table(title=f"recall, {name}, {result['steps']:,} updates", title_justify="left")
    table.add_column("accuracy on the test documents, by age in segments")
    for column in ("all", *map(str, ages)):
        table.add_column(column, justify="right")

    def add(label, whole, by_age):
        cells = ["" if value is None else f"{value:.2f}" for value in by_age]
        table.add_row(label, f"{whole:.3f}", *cells)

    for label, row in result["test"].items():
        add(label, row["accuracy"], row["accuracy_by_age"])
    for label, value in result["baselines"].items():
        add(label, value, result["baselines_by_age"].get(label, []))
    Console(width=max(100, 60 + 7 * len(ages))).print(table)
    plots.accuracy_by_age(folder / "accuracy.png", f"Associative recall, {name}", result)
    print(f"{folder}/result.json, {folder}/accuracy.png")


def check(cfg: RecallConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    found, least = cfg.model.vocab_size, cfg.task.num_tokens
    if found < least:
        raise ValueError(
            f"model.vocab_size: found {found}, accepted: {least} or more, the "
            f"{cfg.task.num_keys} keys, {cfg.task.num_values} values and {cfg.task.num_noise} "
            f"noise tokens of the task"
        )
    for name in ("test_documents", "valid_documents"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    generate(cfg.seed, "train", [0], cfg.task, cfg.model.segment_len)
    training.check(cfg)
