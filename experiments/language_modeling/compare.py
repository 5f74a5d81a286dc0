"""Every model of the paper from one checkpoint on the same text: one table, one picture, resumable.

First a GPT-2 without memory is trained, or --init-from gives one. Each row goes on from it with
equal steps. What a memory adds is the difference to two controls. A row `-emptied` is *trained*
with the memory emptied before every segment. A column has the trained model with its memory emptied
at test time. Finished cells are kept and half-finished ones go on, so the same command can be
stopped and repeated.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments.language_modeling import plots
from experiments.language_modeling.config import MODELS, PRESETS, DataConfig, LanguageModelingConfig
from experiments.language_modeling.task import LANGUAGE_MODELING
from experiments.results.language import COLUMNS
from experiments.run.grid import EMPTIED, Cell, Grid, Results, Seeds
from inf_former_jax.fields import Count, NonEmpty, Positive, Range
from inf_former_jax.require import require
from inf_former_jax.training.objective import Objective
from inf_former_jax.training.optim import OptimConfig

_WITH_MEMORY = [name for name in MODELS if name != "gpt2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(DataConfig):
    """Which cells of the table to fill."""

    models: NonEmpty[str] = (
        *MODELS,
        *(f"{name}{EMPTIED}" for name in _WITH_MEMORY),
    )
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    seeds: Seeds = 2
    """Seeds 0, 1, … of each row: the order of the documents and what is grafted."""
    base_updates: Annotated[int, Range(2)] = 3000
    """Updates of the GPT-2 without memory that all rows begin with; none with --init-from."""
    updates: Annotated[int, Range(2)] = 1000
    """Updates of each row."""
    learning_rate: Positive = 1e-3
    """Peak rate of a row's updates; a linear decay to zero."""
    memory_learning_rate: Positive = 2e-3
    """The same of the memory's parameters."""
    vocab_size: Count = 2048
    """Tokens of the BPE trained on the text, without --init-from."""
    init_from: str = ""
    """A published GPT-2 or Llama, with the paper's settings (SPEC §6) instead of the CPU's."""
    out: str = "runs/language_modeling/compare"
    """Folder of the runs, the table and the pictures."""


def cells(cfg: CompareConfig) -> list[Cell[LanguageModelingConfig]]:
    """The base, unless it is given, and all rows, models innermost.

    Raises:
        ValueError: an unknown row, or a number of updates that cannot be.
    """
    for name in cfg.models:
        known = name in CompareConfig.models
        require(known, "models", name, ", ".join(CompareConfig.models))
    base = [] if cfg.init_from else [_base(cfg)]
    return base + [_row(cfg, name, seed) for seed in range(cfg.seeds) for name in cfg.models]


def _base(cfg: CompareConfig) -> Cell[LanguageModelingConfig]:
    """The GPT-2 without memory that all rows begin with."""
    preset = PRESETS["gpt2"][1]
    warmup = min(100, cfg.base_updates // 2)
    optim = dataclasses.replace(preset.optim, steps=cfg.base_updates, warmup_steps=warmup)
    config = dataclasses.replace(_common(cfg, preset, optim), piece=0)
    folder = Path(cfg.out) / "base"
    return Cell(row=("base",), title="base", preset="gpt2", config=config, folder=folder)


def _row(cfg: CompareConfig, name: str, seed: int) -> Cell[LanguageModelingConfig]:
    """A model that goes on from the base."""
    plain = name.removesuffix(EMPTIED)
    preset = PRESETS[f"paper-{plain}" if cfg.init_from else plain][1]
    own = preset.optim if cfg.init_from else cfg  # published: the paper's rates
    optim = dataclasses.replace(
        preset.optim,
        steps=cfg.updates,
        schedule="linear",
        warmup_steps=min(50, cfg.updates // 2),
        learning_rate=own.learning_rate,
        memory_learning_rate=own.memory_learning_rate,
    )
    config = dataclasses.replace(
        _common(cfg, preset, optim),
        init_from=cfg.init_from or str(Path(cfg.out) / "base"),
        seed=seed,
        objective=Objective(empty_memory=name != plain),
    )
    title = f"{name}-{seed}"
    return Cell(
        row=(name,),
        title=title,
        preset=name,
        config=config,
        folder=Path(cfg.out) / title,
        independent=bool(cfg.init_from),
    )


def _common(
    cfg: CompareConfig, preset: LanguageModelingConfig, optim: OptimConfig
) -> LanguageModelingConfig:
    """The preset with the fields that all cells share."""
    model = preset.model
    if not cfg.init_from:
        model = dataclasses.replace(model, vocab_size=cfg.vocab_size)
    return dataclasses.replace(
        preset,
        model=model,
        optim=optim,
        loop=dataclasses.replace(preset.loop, minutes=0.0),
        sample=0,
        **{field.name: getattr(cfg, field.name) for field in dataclasses.fields(DataConfig)},
    )


def finish(folder: Path, found: Results) -> None:
    """Draw the pictures."""
    plots.comparison(folder / "comparison.png", {name: runs for (name,), runs in found.items()})
    print(f"{folder}/table.md, {folder}/comparison.png")


COMPARE = Grid(
    experiment=LANGUAGE_MODELING,
    command="compare",
    description=__doc__,
    options=CompareConfig(),
    cells=cells,
    title="language models from one checkpoint",
    labels=("model",),
    columns=COLUMNS,
    width=170,
    finish=finish,
)
