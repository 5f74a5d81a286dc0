"""One run of the passkey experiment: digits and keys right by distance, baselines, the report."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.passkey import data as task
from experiments.passkey.config import PasskeyConfig
from experiments.passkey.data import SPLITS
from experiments.run import batches as batching
from experiments.run import training
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit, tokenize
from inf_former_jax.data.tokens import Bytes, Tokenizer, load_bpe
from inf_former_jax.memory import state as memories
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training import evaluation, metrics, step
from inf_former_jax.training.state import TrainState


def run(cfg: PasskeyConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    return training.run(cfg, folder, provenance, lambda mesh, ops: Probe(cfg, mesh, ops))


class Texts:
    """The documents of a run.

    Raises:
        ValueError: no such tokeniser; on use, texts that are not found or too short for the task.
    """

    def __init__(self, cfg: PasskeyConfig):
        self._cfg = cfg
        self.tokenizer = _tokenizer(cfg.tokenizer)

    def documents(
        self, split: str, numbers: np.ndarray, distance: int | None = None
    ) -> task.Documents:
        """Those of the numbers, at a distance or, without, at one that is drawn."""
        cfg = self._cfg
        return task.generate(
            cfg.seed, split, numbers, cfg.task, cfg.model.segment_len,
            _tokens(cfg.data, split, cfg.tokenizer, cfg.cache), self.tokenizer, distance,
        )  # fmt: skip


@functools.cache
def _tokenizer(name: str) -> Tokenizer:
    return Bytes() if name == "bytes" else load_bpe(name)


@functools.cache  # read by the check at the door, then by the run
def _tokens(data: str, split: str, tokenizer: str, cache: str) -> TokenizedSplit:
    return tokenize(data, split, _tokenizer(tokenizer), cache or None)


def make_answer_step(cfg: ModelConfig, empty_memory: bool = False):
    """The jitted `(params, memory, last segment, operators, key) -> sums` of the questions.

    Sums over the rows that carry weight: loss, correct and weight of their digits, `keys` of which
    every digit is right, and `documents`.

    Args:
        empty_memory: clear the long-term or compressed memory before the segment (the control).
    """

    def answer_step(params, memory, last: Batch, ops, key):
        tokens, targets, weights = (
            leaf[:, 0] for leaf in (last.tokens, last.targets, last.weights)
        )
        if empty_memory:
            memory = memories.empty_long_term(cfg, memory)
        rngs = {"locations": key}
        out = Decoder(cfg).apply({"params": params}, tokens, memory, operators=ops, rngs=rngs)
        asked = weights > 0
        right = (out.logits.argmax(axis=-1) == targets) | ~asked
        keys = right.all(axis=1) & asked.any(axis=1)
        return step.token_sums(out.logits, targets, weights) | {
            "keys": keys.sum(),
            "documents": asked.any(axis=1).sum(),
        }

    return jax.jit(answer_step)


class Probe:
    """The passkey task as a run asks for it (`training.Task`).

    Args:
        ops: the model's operators on the devices of the mesh.
    """

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: PasskeyConfig, mesh: Mesh, ops: Any):
        self._cfg, self._mesh, self._ops, self._texts = cfg, mesh, ops, Texts(cfg)
        self._steps = [
            (evaluation.make_eval_step(cfg.model, empty), make_answer_step(cfg.model, empty))
            for empty in (False, True)
        ]
        self._memory = batching.fresh_memory(cfg.model, cfg.batch_size, mesh)
        size = cfg.task.segments * cfg.model.segment_len
        self.row = f"documents of {size:,} tokens in {cfg.task.segments} segments"
        self.tokens_per_step = cfg.batch_size * size

    def batches(self, begin: int) -> Iterator[Batch]:
        """Fresh documents."""
        cfg = self._cfg

        def make(numbers):
            documents = self._texts.documents("train", numbers)
            return task.batch(documents, cfg.model.segment_len, cfg.task.text_weight)

        return batching.training_batches(make, cfg.batch_size, self._mesh, begin)

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Loss, accuracy and keys, and accuracy at every distance, on the validation documents."""
        cfg = self._cfg
        row = self.figures(now, "valid", cfg.valid_documents, cfg.objective.empty_memory)
        at = zip(row["distances"], row["accuracy_by_distance"], strict=True)
        figures = {name: row[name] for name in ("loss", "accuracy", "keys")}
        return figures | {f"accuracy_distance_{distance}": value for distance, value in at}

    def figures(
        self, now: TrainState, split: str, count: int, empty_memory: bool
    ) -> dict[str, Any]:
        """What is right of `count` documents, each asked at every distance of the task.

        Args:
            empty_memory: clear long-term and compressed memory before every segment (the control).

        Returns:
            loss in nats a digit; accuracy, of digits, and keys, of whole keys, in [0, 1]; documents
            at each distance; distances, accuracy_by_distance and keys_by_distance, of equal length.
        """
        distances = sorted(self._cfg.task.distances)
        sums = [self._sums(now, split, count, empty_memory, distance) for distance in distances]
        total = functools.reduce(metrics.add, sums, None)
        return {
            "loss": total["loss"] / total["weight"],
            "accuracy": total["correct"] / total["weight"],
            "keys": total["keys"] / total["documents"],
            "documents": count,
            "distances": distances,
            "accuracy_by_distance": [of["correct"] / of["weight"] for of in sums],
            "keys_by_distance": [of["keys"] / of["documents"] for of in sums],
        }

    def _sums(self, now, split, count, empty_memory, distance):
        read, answer = self._steps[empty_memory]

        def make(numbers, counted):
            length = self._cfg.model.segment_len
            whole = task.batch(self._texts.documents(split, numbers, distance), length)
            whole = whole._replace(weights=whole.weights * np.float32(counted[:, None, None]))
            return _part(whole, np.s_[:-1]), _part(whole, np.s_[-1:])

        total = None
        for first, (context, last) in batching.counted_batches(
            make, count, self._cfg.batch_size, self._mesh
        ):
            key, later = jax.random.split(jax.random.fold_in(now.key, first))
            _, memory = read(now.params, self._memory, context, self._ops, key)
            total = metrics.add(total, answer(now.params, memory, last, self._ops, later))
        return total

    def results(self, final: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the memory emptied; baselines."""
        cfg = self._cfg
        return {
            "test": {
                label: self.figures(final, "test", cfg.test_documents, empty)
                for label, empty in training.controls(cfg).items()
            },
            "baselines_by_distance": baselines(cfg),
        }


def _part(batch: Batch, segments) -> Batch:
    return Batch(*(None if leaf is None else leaf[:, segments] for leaf in batch))


def baselines(cfg: PasskeyConfig) -> dict[str, list[float]]:
    """Label → accuracy of digits by distance, of what needs no learning."""
    window, layers = cfg.model.mem_len // cfg.model.segment_len, cfg.model.num_layers
    windows = {"chance": 0, "exact look-up, short-term window": window}
    if layers > 1:
        windows[f"exact look-up, {layers} layers × window"] = window * layers
    return {
        label: [task.lookup_accuracy(reach, distance) for distance in sorted(cfg.task.distances)]
        for label, reach in windows.items()
    }


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    from rich.console import Console
    from rich.table import Table

    from experiments.run import plots

    distances = result["test"]["as trained"]["distances"]
    table = Table(title=f"passkey, {name}, {result['steps']:,} updates", title_justify="left")
    table.add_column("right on the test documents, by distance in segments")
    for column in ("all", *map(str, distances)):
        table.add_column(column, justify="right")

    def add(label, whole, by_distance):
        table.add_row(label, f"{whole:.3f}", *(f"{value:.2f}" for value in by_distance))

    for label, row in result["test"].items():
        add(f"digits, {label}", row["accuracy"], row["accuracy_by_distance"])
        add(f"whole keys, {label}", row["keys"], row["keys_by_distance"])
    for label, values in result["baselines_by_distance"].items():
        add(f"digits, {label}", float(np.mean(values)), values)
    Console(width=max(100, 70 + 7 * len(distances))).print(table)
    plots.accuracy_by_distance(folder / "accuracy.png", f"Passkey, {name}", result)
    print(f"{folder}/result.json, {folder}/accuracy.png")


def check(cfg: PasskeyConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    if not cfg.data:
        raise ValueError("data: found nothing, accepted: a folder of text with train, valid, test")
    texts = Texts(cfg)
    found, least = cfg.model.vocab_size, texts.tokenizer.vocab_size
    if found < least:
        raise ValueError(
            f"model.vocab_size: found {found}, accepted: {least} or more, as the tokenizer "
            f"{cfg.tokenizer} has"
        )
    for name in ("test_documents", "valid_documents"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    for split in SPLITS:
        texts.documents(split, np.arange(1))
    training.check(cfg)
