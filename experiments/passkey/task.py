"""The passkey task as a run asks for it: digits and keys right by distance, baselines, report."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from experiments.language_modeling import start
from experiments.passkey import data, needles
from experiments.passkey.config import PRESETS, PasskeyConfig
from experiments.run import batches, controls, probes, training
from experiments.run.controls import Control
from experiments.run.experiment import Experiment, Site, Task
from experiments.run.lower import LowerOnce
from experiments.run.tables import TRAINED
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit, tokenize
from inf_former_jax.data.text import SPLITS
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.memory.state import empty_long_term, foreign_long_term
from inf_former_jax.models.decoder import Decoder, ModelConfig, Output
from inf_former_jax.require import require
from inf_former_jax.training import metrics
from inf_former_jax.training.objective import token_sums
from inf_former_jax.training.state import TrainState


def documents(
    cfg: PasskeyConfig, split: str, numbers: np.ndarray, distance: int | None = None
) -> data.Documents:
    """A run's documents, all at one distance; None = each at one that is drawn.

    Raises:
        ValueError: no such tokeniser, or texts that are not found or too short for the task.
    """
    text = _tokens(cfg.data, split, cfg.tokenizer, cfg.cache)
    length, tokenizer = cfg.model.segment_len, tokenizer_of(cfg.tokenizer)
    return data.generate(cfg.seed, split, numbers, cfg.task, length, text, tokenizer, distance)


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    """The tokeniser that an option names, as of `start.tokenizer_of`."""
    return start.tokenizer_of(name)


@functools.cache  # read by the check at the door, then by the run
def _tokens(folder: str, split: str, tokenizer: str, cache: str) -> TokenizedSplit:
    return tokenize(folder, split, tokenizer_of(tokenizer), cache or None)


def make_answer_step(cfg: ModelConfig, control: Control):
    """The jitted `(params, memory, last segment, operators, key) -> sums` of the questions.

    The sums are over the rows that carry weight: loss, correct and weight of their digits, `keys`,
    how many keys have all digits right, and `documents`, how many rows there are.

    Args:
        control: what becomes of the long-term or compressed memory before the segment.
    """

    def answer_step(params, memory, last: Batch, operators, key):
        tokens, targets, weights = last.tokens[:, 0], last.targets[:, 0], last.weights[:, 0]
        if control == "emptied":
            memory = empty_long_term(cfg, memory)
        elif control == "foreign":
            memory = foreign_long_term(memory)
        lower = None if last.lower is None else last.lower[:, 0]
        options = {"operators": operators, "lower": lower, "rngs": {"locations": key}}
        out = cast(Output, Decoder(cfg).apply({"params": params}, tokens, memory, **options))
        asked = weights > 0
        right = (out.logits.argmax(axis=-1) == targets) | ~asked
        keys = right.all(axis=1) & asked.any(axis=1)
        return token_sums(out.logits, targets, weights) | {
            "keys": keys.sum(),
            "documents": asked.any(axis=1).sum(),
        }

    return jax.jit(answer_step)


class Passkey(Task):
    """Stretches of a book that state a key, and ask for it in the last segment."""

    best, higher_is_better = "accuracy", True

    def __init__(self, cfg: PasskeyConfig, site: Site, params: Any = None):
        self._cfg, self._site, self.params = cfg, site, params
        self._steps: dict[Control, tuple[Any, Any]] = {
            control: (read, make_answer_step(cfg.model, control))
            for control, read in controls.eval_steps(cfg, site.mesh).items()
        }
        self._memory = batches.fresh_memory(cfg.model, cfg.batch_size, site.mesh)
        self._lower = LowerOnce(cfg, site.mesh)
        size = cfg.task.segments * cfg.model.segment_len
        self.row = f"documents of {size:,} tokens in {cfg.task.segments} segments"
        self.tokens_per_step = cfg.batch_size * size

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Fresh documents."""
        cfg = self._cfg
        fresh = documents(cfg, "train", update * cfg.batch_size + rows)
        return data.batch(fresh, cfg.model.segment_len, cfg.task.text_weight)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Loss, accuracy and keys, and accuracy at every distance, on the validation documents."""
        cfg = self._cfg
        row = self.figures(state, "valid", cfg.valid_documents, controls.trained(cfg))
        by_distance = zip(row["distances"], row["accuracy_by_distance"], strict=True)
        figures = {name: row[name] for name in ("loss", "accuracy", "keys")}
        return figures | {f"accuracy_distance_{d}": accuracy for d, accuracy in by_distance}

    def results(self, state: TrainState) -> dict[str, Any]:
        """Figures on the test documents, as trained and with the controls; baselines."""
        cfg = self._cfg
        figures = functools.partial(self.figures, state, "test", cfg.test_documents)
        return {
            "test": controls.each(cfg, figures, self._steps),
            "baselines_by_distance": baselines(cfg),
        }

    def figures(
        self, state: TrainState, split: str, count: int, control: Control
    ) -> dict[str, Any]:
        """What is right of `count` documents, each asked at every distance of the task.

        Returns:
            loss in nats a digit; accuracy, of digits, and keys, of whole keys, in [0, 1]; documents
            at each distance; distances, accuracy_by_distance and keys_by_distance, of equal length.
        """
        distances = sorted(self._cfg.task.distances)
        sums = [self._sums(state, split, count, control, distance) for distance in distances]
        total: dict[str, float] = functools.reduce(metrics.add, sums, {})
        return {
            "loss": total["loss"] / total["weight"],
            "accuracy": total["correct"] / total["weight"],
            "keys": total["keys"] / total["documents"],
            "documents": count,
            "distances": distances,
            "accuracy_by_distance": [at["correct"] / at["weight"] for at in sums],
            "keys_by_distance": [at["keys"] / at["documents"] for at in sums],
        }

    def _sums(
        self, state: TrainState, split: str, count: int, control: Control, distance: int
    ) -> dict[str, float]:
        cfg, steps = self._cfg, self._steps[control]

        def make(numbers, counted):
            whole = data.batch(documents(cfg, split, numbers, distance), cfg.model.segment_len)
            weights = whole.weights * np.float32(counted[:, None, None])
            return probes.context_and_last(whole._replace(weights=weights))

        def with_lower(first, some):
            context, last = self._lower.added(state.params, some, cfg.batch_size)
            return first, (context, {distance: last})

        every = batches.counted_batches(make, count, cfg.batch_size, self._site.mesh)
        every = itertools.starmap(with_lower, every)
        return probes.sums_by_place(*steps, state, self._memory, self._site, every)[distance]


def baselines(cfg: PasskeyConfig) -> dict[str, list[float]]:
    """Label → accuracy of digits, or of facts, by distance, of what needs no learning."""
    windows = {"chance": 0, **probes.lookup_windows(cfg.model)}
    chance, distances = needles.chance(cfg.task.kind), sorted(cfg.task.distances)
    found = {
        label: [data.lookup_accuracy(reach, distance, chance) for distance in distances]
        for label, reach in windows.items()
    }
    if cfg.task.others and cfg.task.kind == "fact":
        stated = 1 / (cfg.task.others + 1)
        found["what is stated, of anybody"] = [stated] * len(distances)
    return found


def check(cfg: PasskeyConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    training.check(cfg)
    found, least = cfg.model.vocab_size, tokenizer_of(cfg.tokenizer).vocab_size
    accepted = f"{least} or more, as the tokenizer {cfg.tokenizer} has"
    require(found >= least, "model.vocab_size", found, accepted)
    for split in SPLITS:
        documents(cfg, split, np.arange(1))
    start.parameters(cfg)


def complete(cfg: PasskeyConfig) -> PasskeyConfig:
    """The config with the architecture and the tokeniser of what it begins with.

    Raises:
        ValueError, FileNotFoundError: as of `start.resolved`.
    """
    if cfg.init_from and cfg.tokenizer == "bytes":
        cfg = dataclasses.replace(cfg, tokenizer="")
    return start.resolved(cfg)


def passkey(cfg: PasskeyConfig, site: Site) -> Passkey:
    """The task of a run, with what it begins with."""
    return Passkey(cfg, site, start.parameters(cfg))


def report(preset: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    show(f"passkey, {preset}, {result['steps']:,} updates", folder, result)


def show(title: str, folder: Path, result: Mapping[str, Any], figures: str = "result.json") -> None:
    """Print the table of a result's test figures, and draw its picture in the folder.

    Args:
        figures: the file in the folder that has the result.
    """
    trained, of_keys = {}, result["settings"]["task"].get("kind", "key") == "key"
    part, whole = ("digits", "whole keys") if of_keys else ("tokens", "whole answers")
    for label, row in result["test"].items():
        trained[f"{part}, {label}"] = row["accuracy"], row["accuracy_by_distance"]
        trained[f"{whole}, {label}"] = row["keys"], row["keys_by_distance"]
    probes.report(
        folder,
        title,
        "right on the test documents, by distance in segments",
        result["test"][TRAINED]["distances"],
        trained,
        {
            f"{part if of_keys else whole}, {label}": (float(np.mean(values)), values)
            for label, values in result["baselines_by_distance"].items()
        },
        figures,
    )


PASSKEY = Experiment(
    "passkey",
    PRESETS,
    "infinity-former-lasting",
    passkey,
    check,
    report,
    lambda cfg: (cfg.task.segments, 0),
    complete,
)
