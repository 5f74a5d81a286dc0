"""The sorting experiment's sequences: to train on, to evaluate on, and what to compare with."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.run import batches as batching
from experiments.sorting import data as task
from inf_former_jax.data.batches import Batch
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import evaluation, metrics


@dataclasses.dataclass(frozen=True)
class Examples:
    """The task's sequences by split and number: generated, or read from files."""

    seed: int
    length: int
    segment_len: int
    folder: str = ""
    """Where train.txt, valid.txt and test.txt lie; "" = generate."""
    train_sequences: int = 0
    """Sequences to train on, round and round; 0 = all of a file, or endlessly many."""

    def sequences(self, split: str, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [B, n], answers [B, 20]); files are read round and round."""
        if split == "train" and self.train_sequences:
            numbers = numbers % self.train_sequences
        if not self.folder:
            return task.generate(self.seed, split, numbers, self.length)
        tokens, answers = _read(Path(self.folder) / f"{split}.txt", self.length)
        return tokens[numbers % len(tokens)], answers[numbers % len(tokens)]

    def count(self, split: str, wanted: int) -> int:
        """How many of the wanted sequences there are."""
        if not self.folder:
            return wanted
        return min(wanted, len(_read(Path(self.folder) / f"{split}.txt", self.length)[0]))

    def batch(self, split: str, numbers: np.ndarray) -> Batch:
        """The sequences as segments of the model."""
        return task.batch(*self.sequences(split, numbers), self.segment_len)


@functools.cache
def _read(path: Path, length: int):
    if not path.is_file():
        accepted = "a folder with train.txt, valid.txt and test.txt"
        raise ValueError(f"data: found no file {path}, accepted: {accepted}")
    return task.read(path, length)


class Evaluator:
    """Ratios over the first sequences of a split; compiled once a control, whatever the split.

    The last batch is filled up with sequences of weight 0, so that no shape changes.
    """

    def __init__(self, model: ModelConfig, examples: Examples, batch_size: int, mesh: Mesh):
        self._steps = [evaluation.make_eval_step(model, empty) for empty in (False, True)]
        self._examples, self._batch_size, self._mesh = examples, batch_size, mesh
        self._memory = batching.fresh_memory(model, batch_size, mesh)

    def __call__(
        self, params: Any, ops: Any, key: Any, split: str, count: int, empty_memory: bool = False
    ) -> dict[str, float]:
        """Loss, accuracy and more, over `count` sequences (all of a file that has fewer).

        Args:
            empty_memory: clear long-term and compressed memory before every segment (the control).
        """
        count = self._examples.count(split, count)

        def make(numbers, counted):
            batch = self._examples.batch(split, numbers)
            return batch._replace(weights=batch.weights * counted[:, None, None])

        total = None
        for first, batch in batching.counted_batches(make, count, self._batch_size, self._mesh):
            of_batch = jax.random.fold_in(key, first)
            sums, _ = self._steps[empty_memory](params, self._memory, batch, ops, of_batch)
            total = metrics.add(total, sums)
        return metrics.ratios(total)


def baselines(model: ModelConfig, examples: Examples, count: int) -> dict[str, float]:
    """Accuracies that need no learning, on the test sequences: what to compare with (SPEC §5)."""
    tokens, answers = examples.sequences("test", np.arange(examples.count("test", count)))

    def exact_counts(layers):
        window = task.visible_tokens(examples.length, model.segment_len, model.mem_len, layers)
        return task.baseline_accuracy(tokens, answers, window)

    return {
        "elimination alone": task.elimination_accuracy(),
        "exact counts, short-term window": exact_counts(1),
        f"exact counts, {model.num_layers} layers × window": exact_counts(model.num_layers),
        "full counts": task.baseline_accuracy(tokens, answers, examples.length),
    }
