"""Perplexity of a trained language model on a text that it was not trained on.

The text is read with the model's own tokeniser and memory, as trained and with the controls of
every run. The model is a run's, or a published GPT-2 or Llama.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.corpora import tokenized
from experiments.language_modeling.given import (
    EvaluatedConfig,
    evaluated,
    settings_of,
)
from experiments.language_modeling.task import LanguageModeling, facts, show
from experiments.run import cli, devices, training
from experiments.run.evaluated import state_of, written
from inf_former_jax.data.text import Skip
from inf_former_jax.fields import Natural, NonEmpty


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluatedConfig, Skip):
    """Which model reads what."""

    data: str = ""
    """Folder with the splits; "" = Shakespeare's plays."""
    splits: NonEmpty[Literal["valid", "test"]] = ("valid", "test")
    """Which of valid and test are read."""
    characters: Natural = 0
    """Characters of each document, from its beginning; 0 = all."""
    by_distance: Natural = 0
    """Sort the losses by how far back a word last occurred, in lengths of this many tokens; 0 = do
    not. `experiments.language_modeling distances` makes a table and a picture of it."""
    cache: str = "runs/tokens"
    out: str = ""
    """Folder of evaluation-DATA.json, with --cells evaluation-DATA-CELLS.json; "" = that of the
    model."""


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """Figures by split and control, with what was read.

    Raises:
        ValueError: as `evaluated`, no such text, or a document shorter than two tokens.
    """
    run, params, tokenizer = evaluated(cfg)
    assert isinstance(run, LanguageModelingConfig)
    limits = {str(split): cfg.characters for split in cfg.splits}
    corpus = tokenized(cfg.data, tokenizer, cfg.cache, limits, cfg)
    place = training.site(run, cfg.run)
    task, state = LanguageModeling(run, corpus, place), state_of(run, params, place.mesh)
    figures = {split: task.controls(state, split, cfg.by_distance) for split in cfg.splits}
    return provenance | facts(corpus) | settings_of(cfg) | figures


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling evaluate [--options]`."""
    program = "python -m experiments.language_modeling evaluate"
    cfg = cli.options(program, __doc__ or "", EvaluateConfig(), argv)
    devices.offer()
    name = Path(cfg.data).resolve().name if cfg.data else "plays"
    name += f"-{cfg.cells}" if cfg.cells else ""
    file = Path(cfg.out or cfg.run) / f"evaluation-{name}.json"
    result = written("language_modeling", cfg, argv, file, evaluate)
    for split in cfg.splits:
        show(f"{result['corpus']}, {split}", result[split])
    print(file)
