"""The sorting experiment's sequences: to train on, to evaluate on, and what to compare with."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from inf_former_jax.data import sorting as task
from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state as memories
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import metrics, sharding, step


@dataclasses.dataclass(frozen=True)
class Examples:
    """The task's sequences by split and number: generated, or read from files."""

    seed: int
    length: int
    segment_len: int
    folder: str = ""
    """Where train.txt, valid.txt and test.txt lie; "" = generate."""

    def sequences(self, split: str, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [B, n], answers [B, 20]); files are read round and round."""
        if not self.folder:
            return task.generate(self.seed, split, numbers, self.length)
        tokens, answers = _read(Path(self.folder) / f"{split}.txt", self.length)
        return tokens[numbers % len(tokens)], answers[numbers % len(tokens)]

    def batch(self, split: str, numbers: np.ndarray) -> Batch:
        """The sequences as segments of the model."""
        return task.batch(*self.sequences(split, numbers), self.segment_len)


@functools.cache
def _read(path: Path, length: int):
    if not path.is_file():
        accepted = "a folder with train.txt, valid.txt and test.txt"
        raise ValueError(f"data: found no file {path}, accepted: {accepted}")
    return task.read(path, length)


def training_batches(examples: Examples, batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Batch after batch: global row r of update s is sequence s·B + r of the training split."""
    for number in itertools.count():
        first = number * batch_size

        def make(rows, first=first):
            return examples.batch("train", first + rows)

        yield sharding.place_batch(make, batch_size, mesh)


def evaluator(
    model: ModelConfig,
    examples: Examples,
    batch_size: int,
    mesh: Mesh,
    empty_memory: bool = False,
) -> Callable[[Any, Any, Any, str, int], dict[str, float]]:
    """`(params, operators, key, split, count) -> ratios` over a split's first sequences.

    The last batch is filled up with sequences of weight 0, so that no shape changes.

    Args:
        empty_memory: clear the long-term memory before every segment (the control).
    """
    eval_step = step.make_eval_step(model, empty_memory)
    fresh = memories.init(model, batch_size)
    memory = sharding.place_batch(
        lambda rows: jax.tree.map(lambda leaf: np.asarray(leaf)[rows], fresh), batch_size, mesh
    )

    def evaluate(params, ops, key, split, count):
        def make(rows, first):
            batch = examples.batch(split, np.minimum(first + rows, count - 1))
            counted = (first + rows < count).astype(np.float32)[:, None, None]
            return batch._replace(weights=batch.weights * counted)

        total = None
        for first in range(0, count, batch_size):
            batch = sharding.place_batch(functools.partial(make, first=first), batch_size, mesh)
            total = metrics.add(total, eval_step(params, memory, batch, ops, key)[0])
        return metrics.ratios(total)

    return evaluate


def baselines(model: ModelConfig, examples: Examples, count: int) -> dict[str, float]:
    """Accuracies that need no learning, on the test sequences: what to compare with (SPEC §5)."""
    tokens, answers = examples.sequences("test", np.arange(count))

    def exact_counts(layers):
        window = task.visible_tokens(examples.length, model.segment_len, model.mem_len, layers)
        return task.baseline_accuracy(tokens, answers, window)

    return {
        "elimination alone": task.elimination_accuracy(),
        "exact counts, short-term window": exact_counts(1),
        f"exact counts, {model.num_layers} layers × window": exact_counts(model.num_layers),
        "full counts": task.baseline_accuracy(tokens, answers, examples.length),
    }
