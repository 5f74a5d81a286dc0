"""Perplexity of a trained language model on a text that it was not trained on.

The text is read with the model's own tokeniser and memory, as trained and with the controls of
every run. The model is a run's, or a published GPT-2 or Llama.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from experiments.language_modeling import start
from experiments.language_modeling.corpora import tokenized
from experiments.language_modeling.task import LanguageModeling, facts, show
from experiments.run import cli, devices, folders, training
from inf_former_jax.data.text import Skip
from inf_former_jax.fields import Natural, NonEmpty, Rate, Required
from inf_former_jax.files import read_json
from inf_former_jax.memory.state import init
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.presets import TRAINING_FREE
from inf_former_jax.require import require
from inf_former_jax.training import sharding
from inf_former_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Skip):
    """Which model reads what."""

    run: Annotated[str, Required("a run folder, or one of a GPT-2 or Llama")] = ""
    """A run folder of experiments.language_modeling, or a Hugging Face folder of a GPT-2 or a
    Llama."""
    memory: str = ""
    """Folder of a memory that was trained beside a published model (`experiments.weights memory`);
    "" = none."""
    segment_len: Natural = 0
    """Segments of a published model, a GPT-2's at most its positions; 0 = all of them, up to 1,024.
    A run has its own."""
    data: str = ""
    """Folder with the splits; "" = Shakespeare's plays."""
    splits: NonEmpty[Literal["valid", "test"]] = ("valid", "test")
    """Which of valid and test are read."""
    characters: Natural = 0
    """Characters of each document, from its beginning; 0 = all."""
    window: Natural = 0
    """Short-term memory of a published model, in tokens; beside cells whole segments. A run has its
    own."""
    sinks: Natural = 0
    """First tokens of a document that stay in the window, if there is one."""
    cells: Natural = 0
    """Give a model without a memory one of this many cells, which join its attention by its own
    matrices: nothing is trained (SPEC §9). A power of two; 0 = the model as it is."""
    cell_layers: tuple[Natural, ...] = ()
    """The layers that have the cells, counted from 0; () = all."""
    cell_distance: Natural = 0
    """With rotary positions, at how many tokens from every query the cells stand."""
    cells_by_age: bool = False
    """With rotary positions: cells stand before the window by their age, at most --cell-distance."""
    cell_tau: Rate = 0.0
    """0: cells are averaged in pairs when all are full, so that each holds as many tokens. Else τ of
    fixed contraction: the part of the cells that the past is squeezed into by each segment."""
    by_distance: Natural = 0
    """Sort the losses by how far back a word last occurred, in lengths of this many tokens; 0 = do
    not. `experiments.language_modeling distances` makes a table and a picture of it."""
    cache: str = "runs/tokens"
    out: str = ""
    """Folder of evaluation-DATA.json, with --cells evaluation-DATA-CELLS.json; "" = that of the
    model."""


#: What gives a model a memory that needs no training.
_GIVEN = ("window", "sinks", "cells", "cell_layers", "cell_distance", "cells_by_age", "cell_tau")


_OF_CELLS = tuple(name for name in _GIVEN if name.startswith("cell") and name != "cells")


def with_memory(model: ModelConfig, cfg: EvaluateConfig) -> ModelConfig:
    """The model with the window and the cells that are asked for, none of which has parameters.

    Raises:
        ValueError: a run and a window, or a model that has a memory of its own already, or one
            that it cannot have.
    """
    given = [name for name in _GIVEN if getattr(cfg, name)]
    if not given:
        return model
    first = f"{getattr(cfg, given[0])}"
    bare = model.long_term is None and model.compressed is None
    require(bare, given[0], f"{first} for a model with a memory", "none, or a model without one")
    of_run = start.is_run(cfg.run) and given[0] in ("window", "sinks")
    require(not of_run, given[0], f"{first} for a run", "none, since a run has its own")
    for name in given:
        if name in _OF_CELLS:
            require(cfg.cells > 0, name, f"{getattr(cfg, name)} without cells", "none there")
    window: dict[str, Any] = {"mem_len": cfg.window or model.mem_len, "sinks": cfg.sinks}
    if not cfg.cells:
        return dataclasses.replace(model, **window)
    require(cfg.cells & (cfg.cells - 1) == 0, "cells", cfg.cells, "a power of two")
    length = model.segment_len
    accepted = f"a multiple of segments of {length} beside cells"
    require(window["mem_len"] % length == 0, "window", window["mem_len"], accepted)
    contraction = {"contraction": "fixed", "tau": cfg.cell_tau} if cfg.cell_tau else {}
    memory = dataclasses.replace(TRAINING_FREE, num_basis=cfg.cells, **contraction)
    where = {
        "long_term_layers": cfg.cell_layers,
        "cell_distance": cfg.cell_distance,
        "cells_by_age": cfg.cells_by_age,
    }
    # Fused attention computes the same, but does not say what its scores sum to.
    attention: dict[str, Any] = {"fused_attention": False, "fused_by": "xla"}
    return dataclasses.replace(model, long_term=memory, **window, **where, **attention)


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """Figures by split and control, with what was read.

    Raises:
        ValueError: as `start.load`, no such text, or a document shorter than two tokens.
    """
    run, params, tokenizer = start.load(cfg.run, cfg.segment_len, cfg.memory)
    # Whatever mesh it was trained on.
    run = dataclasses.replace(run, mesh_model=1, devices=0, distributed=False)
    run, note = devices.settled(run)
    if note:
        print(note)
    run = dataclasses.replace(run, model=with_memory(run.model, cfg))
    limits = {str(split): cfg.characters for split in cfg.splits}
    corpus = tokenized(cfg.data, tokenizer, cfg.cache, limits, cfg)
    place = training.site(run, cfg.run)
    task, params = LanguageModeling(run, corpus, place), sharding.everywhere(params, place.mesh)
    step, key = jnp.zeros((), jnp.int32), jax.random.key(run.seed)
    state = TrainState(step, params, (), init(run.model, 1), key)
    settings = {
        "settings": folders.to_json(cfg),
        "trained": folders.read_config(Path(cfg.run)),
    }
    figures = {split: task.controls(state, split, cfg.by_distance) for split in cfg.splits}
    return provenance | facts(corpus) | settings | figures


def _check_free(file: Path, cfg: EvaluateConfig) -> None:
    """Refuse to write over the result of another evaluation.

    Raises:
        ValueError: the file is there, and holds a result of other settings.
    """
    if file.is_file():
        then = read_json(file).get("settings", {})
        others = folders.differences(then, folders.to_json(cfg))
        found = f"{file} of other settings, {', '.join(others)}"
        require(not others, "out", found, "another folder")


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling evaluate [--options]`."""
    program = "python -m experiments.language_modeling evaluate"
    cfg = cli.options(program, __doc__ or "", EvaluateConfig(), argv)
    devices.offer()
    with cli.refusals():
        folders.read_config(Path(cfg.run))
        folder = folders.make(cfg.out or cfg.run)
        provenance = folders.provenance(
            "language_modeling", Path(cfg.run).name, ["evaluate", *argv]
        )
        name = Path(cfg.data).resolve().name if cfg.data else "plays"
        file = folder / f"evaluation-{name}{f'-{cfg.cells}' if cfg.cells else ''}.json"
        _check_free(file, cfg)
        result = evaluate(cfg, provenance)
    folders.write_json(file, result)
    for split in cfg.splits:
        show(f"{result['corpus']}, {split}", result[split])
    print(file)
