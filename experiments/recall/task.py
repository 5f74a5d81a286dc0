"""The recall task as a run asks for it: accuracy by the age of a question, baselines, report."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.recall import data
from experiments.recall.config import PRESETS, RecallConfig
from experiments.run import batches, plots, probes, training
from experiments.run.experiment import Experiment, Site, Task
from inf_former_jax.data.batches import Batch
from inf_former_jax.require import require, require_at_least
from inf_former_jax.training import evaluation, metrics
from inf_former_jax.training.state import TrainState


class Recall(Task):
    """Documents with key–value pairs, whose last segment asks for some of them."""

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: RecallConfig, site: Site):
        self._cfg, self._site = cfg, site
        self._steps = {
            empty: evaluation.make_eval_step(cfg.model, empty) for empty in (False, True)
        }
        self._memory = batches.fresh_memory(cfg.model, cfg.batch_size, site.mesh)
        size = cfg.task.segments * cfg.model.segment_len
        self.row = f"documents of {size:,} tokens in {cfg.task.segments} segments"
        self.tokens_per_step = cfg.batch_size * size

    def _documents(self, split: str, numbers: np.ndarray) -> data.Documents:
        cfg = self._cfg
        return data.generate(cfg.seed, split, numbers, cfg.task, cfg.model.segment_len)

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Fresh documents."""
        numbers = update * self._cfg.batch_size + rows
        return data.batch(self._documents("train", numbers), self._cfg.model.segment_len)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy, and accuracy of every age, on the validation documents."""
        cfg = self._cfg
        row = self.figures(state, "valid", cfg.valid_documents, cfg.objective.empty_memory)
        by_age = zip(row.pop("ages"), row.pop("accuracy_by_age"), strict=True)
        del row["questions_by_age"]
        return row | {f"accuracy_age_{age}": value for age, value in by_age if value is not None}

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the memory emptied; baselines."""
        cfg = self._cfg
        figures = functools.partial(self.figures, state, "test", cfg.test_documents)
        return {
            "test": training.with_controls(cfg, figures),
            **baselines(cfg),
        }

    def figures(
        self, state: TrainState, split: str, count: int, empty_memory: bool
    ) -> dict[str, Any]:
        """Loss and accuracy over all questions of `count` documents, and by age.

        Args:
            empty_memory: clear long-term and compressed memory before every segment (the control).

        Returns:
            Those of `metrics.ratios`; ages, accuracy_by_age and questions_by_age, lists of equal
            length; the accuracy of an age that is not asked is None.
        """
        sums = self._sums(state, split, count, empty_memory)
        total: dict[str, float] = {}
        for sums_of_age in sums.values():
            total = metrics.add(total, sums_of_age)
        asked = [int(sums_of_age["weight"]) for sums_of_age in sums.values()]
        right = [sums_of_age["correct"] for sums_of_age in sums.values()]
        return metrics.ratios(total) | {
            "ages": list(sums),
            "accuracy_by_age": [r / n if n else None for r, n in zip(right, asked, strict=True)],
            "questions_by_age": asked,
        }

    def _sums(
        self, state: TrainState, split: str, count: int, empty_memory: bool
    ) -> dict[int, dict[str, float]]:
        """Age → sums over its questions.

        The context is read once; its memory then reads the questions of one age at a time, told
        apart by their weights.
        """
        sums: dict[int, dict[str, float]] = {age: {} for age in self._cfg.task.ages}
        eval_step, (_, mesh, operators) = self._steps[empty_memory], self._site

        def make(numbers, counted):
            return self._context_and_questions(self._documents(split, numbers), counted)

        counted = batches.counted_batches(make, count, self._cfg.batch_size, mesh)
        reads = probes.after_context(eval_step, state, self._memory, self._site, counted)
        for memory, questions, key in reads:
            for age, asked in questions.items():
                sums_of_age, _ = eval_step(state.params, memory, asked, operators, key)
                sums[age] = metrics.add(sums[age], sums_of_age)
        return sums

    def _context_and_questions(
        self, documents: data.Documents, counted: np.ndarray
    ) -> tuple[Batch, dict[int, Batch]]:
        """The context, and age → the last segment with the questions of this age."""
        length = self._cfg.model.segment_len
        context, last = probes.context_and_last(data.batch(documents, length))
        ages = documents.ages[:, None, -length:]
        weights = {age: (ages == age) & counted[:, None, None] for age in self._cfg.task.ages}
        return context, {
            age: last._replace(weights=asked.astype(np.float32)) for age, asked in weights.items()
        }


def baselines(cfg: RecallConfig) -> dict[str, Any]:
    """Accuracies that need no learning: `baselines` over all questions, some `by age` too."""
    windows, length = probes.lookup_windows(cfg.model), cfg.model.segment_len
    test = data.generate(cfg.seed, "test", range(cfg.test_documents), cfg.task, length)
    return {
        "baselines": {
            "chance": data.chance(cfg.task),
            "values counted, none bound to its key": data.counting_accuracy(cfg.task, test, length),
            **{label: data.lookup_accuracy(cfg.task, reach) for label, reach in windows.items()},
        },
        "baselines_by_age": {
            label: [data.lookup_accuracy(cfg.task, reach, age) for age in cfg.task.ages]
            for label, reach in windows.items()
        },
    }


def check(cfg: RecallConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    found, task = cfg.model.vocab_size, cfg.task
    tokens = f"{task.num_keys} keys, {task.num_values} values and {task.num_noise} noise tokens"
    accepted = f"{task.num_tokens} or more, the {tokens} of the task"
    require(found >= task.num_tokens, "model.vocab_size", found, accepted)
    for name in ("test_documents", "valid_documents"):
        require_at_least(name, getattr(cfg, name), 1)
    data.generate(cfg.seed, "train", [0], cfg.task, cfg.model.segment_len)
    training.check(cfg)


def report(preset: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    test, by_age = result["test"], result["baselines_by_age"]
    rows = {label: (row["accuracy"], row["accuracy_by_age"]) for label, row in test.items()}
    rows |= {label: (value, by_age.get(label, [])) for label, value in result["baselines"].items()}
    title = f"recall, {preset}, {result['steps']:,} updates"
    first = "accuracy on the test documents, by age in segments"
    probes.show(title, first, test["as trained"]["ages"], rows)
    plots.accuracy_by_age(folder / "accuracy.png", f"Associative recall, {preset}", result)
    print(f"{folder}/result.json, {folder}/accuracy.png")


RECALL = Experiment(
    name="recall",
    presets=PRESETS,
    default="infinity-former",
    task=Recall,
    check=check,
    report=report,
)
