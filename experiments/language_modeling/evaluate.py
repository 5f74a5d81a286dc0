"""Perplexity of a trained language model on a text that it was not trained on.

The run's own tokeniser and memory; as trained, and with the controls of every run.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.language_modeling import corpora
from experiments.language_modeling import start as language_modeling_init
from experiments.language_modeling import task as language_modeling_task
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.run import cli, folders, training
from inf_former_jax.data.text import SPLITS
from inf_former_jax.memory import state as memories
from inf_former_jax.models.decoder import operators
from inf_former_jax.training import sharding
from inf_former_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Which run reads what."""

    run: str = ""
    """Folder of a run of experiments.language_modeling."""
    data: str = ""
    """Folder with the splits; "" = Shakespeare's plays."""
    splits: tuple[str, ...] = ("valid", "test")
    """Of valid and test."""
    characters: int = 0
    """Of each document, from its beginning; 0 = all."""
    cache: str = "runs/tokens"
    out: str = ""
    """Folder of evaluation-DATA.json; "" = the run's."""


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """Figures by split and control, with what was read.

    Raises:
        ValueError: no run, no such text, or a document shorter than two tokens.
    """
    given, _, params, _ = training.load(LanguageModelingConfig, cfg.run, ("params",))
    given = dataclasses.replace(given, mesh_model=1)  # whatever it was trained on
    tokenizer = language_modeling_init.tokenizer_of_run(cfg.run)
    corpus = corpora.for_evaluation(cfg.data, tokenizer, cfg.cache, cfg.splits, cfg.characters)
    mesh = sharding.make_mesh(given.mesh_model)
    ops = sharding.everywhere(operators(given.model), mesh)
    task = language_modeling_task.LanguageModeling(given, corpus, mesh, ops)
    memory = memories.init(given.model, 1)
    now = TrainState(jnp.zeros((), jnp.int32), params, (), memory, jax.random.key(given.seed))
    trained = folders.read_config(Path(cfg.run))
    return provenance | language_modeling_task.facts(given, corpus) | {
        "settings": folders.to_json(cfg),
        "trained": trained,
        **{split: task.controls(now, split) for split in cfg.splits},
    }  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling evaluate [--options]`."""
    program = "python -m experiments.language_modeling evaluate"
    cfg = cli.options(program, __doc__, EvaluateConfig(), argv)
    with cli.refusals():
        if not cfg.run:
            raise ValueError("run: found none, accepted: the folder of a run")
        if cfg.characters < 0:
            raise ValueError(f"characters: found {cfg.characters}, accepted: 0 or more")
        for split in cfg.splits:
            if split not in SPLITS[1:]:
                raise ValueError(f"splits: found {split}, accepted: {', '.join(SPLITS[1:])}")
        folders.read_config(Path(cfg.run))
        folder = folders.made(cfg.out or cfg.run)
        said = folders.provenance("language_modeling", Path(cfg.run).name, ["evaluate", *argv])
        found = evaluate(cfg, said)
    file = folder / f"evaluation-{Path(cfg.data).resolve().name if cfg.data else 'plays'}.json"
    folders.write_json(file, found)
    for split in cfg.splits:
        language_modeling_task.table(f"{found['corpus']}, {split}", found[split])
    print(file)
