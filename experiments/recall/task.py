"""The recall task as a run asks for it: accuracy by the age of a question, baselines, report."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.recall import data
from experiments.recall.config import PRESETS, RecallConfig
from experiments.run import batches, controls, probes, training
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site, Task
from experiments.run.tables import TRAINED
from inf_former_jax.data.batches import Batch
from inf_former_jax.require import require
from inf_former_jax.training import metrics
from inf_former_jax.training.state import TrainState


class Recall(Task):
    """Documents with key–value pairs, whose last segment asks for some of them."""

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: RecallConfig, site: Site):
        self._cfg, self._site = cfg, site
        self._steps = controls.eval_steps(cfg, site.mesh)
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
        row = self.figures(state, "valid", cfg.valid_documents, controls.trained(cfg))
        by_age = zip(row.pop("ages"), row.pop("accuracy_by_age"), strict=True)
        del row["questions_by_age"]
        return row | {f"accuracy_age_{age}": value for age, value in by_age if value is not None}

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the controls; baselines."""
        cfg = self._cfg
        figures = functools.partial(self.figures, state, "test", cfg.test_documents)
        return {"test": controls.each(cfg, figures, self._steps), **baselines(cfg)}

    def figures(
        self, state: TrainState, split: str, count: int, control: Control
    ) -> dict[str, Any]:
        """Loss and accuracy over all questions of `count` documents, and by age.

        Returns:
            Those of `metrics.ratios`; ages, accuracy_by_age and questions_by_age, lists of equal
            length; the accuracy of an age that is not asked is None.
        """
        cfg, eval_step = self._cfg, self._steps[control]
        length = cfg.model.segment_len

        def make(numbers, counted):
            documents = self._documents(split, numbers)
            context, last = probes.context_and_last(data.batch(documents, length))
            ages = np.where(counted[:, None, None], documents.ages[:, None, -length:], 0)
            # The questions of an age are told apart by their weights.
            weights = {age: (ages == age).astype(np.float32) for age in cfg.task.ages}
            return context, {age: last._replace(weights=asked) for age, asked in weights.items()}

        def answer(*given):
            return eval_step(*given)[0]

        counted = batches.counted_batches(make, count, cfg.batch_size, self._site.mesh)
        sums = probes.sums_by_place(eval_step, answer, state, self._memory, self._site, counted)
        total: dict[str, float] = functools.reduce(metrics.add, sums.values(), {})
        asked = [int(at["weight"]) for at in sums.values()]
        right = [at["correct"] for at in sums.values()]
        return metrics.ratios(total) | {
            "ages": list(sums),
            "accuracy_by_age": [r / n if n else None for r, n in zip(right, asked, strict=True)],
            "questions_by_age": asked,
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
    data.generate(cfg.seed, "train", [0], cfg.task, cfg.model.segment_len)
    training.check(cfg)


def size(cfg: RecallConfig) -> tuple[int, int]:
    """Segments of a document, and bytes of the test documents for the baselines."""
    tokens = cfg.task.segments * cfg.model.segment_len
    return cfg.task.segments, 4 * cfg.test_documents * tokens


def report(preset: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    test, by_age = result["test"], result["baselines_by_age"]
    probes.report(
        folder,
        f"recall, {preset}, {result['steps']:,} updates",
        "accuracy on the test documents, by age in segments",
        test[TRAINED]["ages"],
        {label: (row["accuracy"], row["accuracy_by_age"]) for label, row in test.items()},
        {label: (value, by_age.get(label, ())) for label, value in result["baselines"].items()},
    )


RECALL = Experiment("recall", PRESETS, "infinity-former", Recall, check, report, size)
