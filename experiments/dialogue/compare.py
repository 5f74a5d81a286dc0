"""The rows of the paper from one checkpoint on the same conversations: one table, resumable.

Each row goes on from --init-from (a published GPT-2 or Llama, or a run of language_modeling) with
equal steps; without it, every row begins with fresh parameters. A row `-emptied` is trained with
its memory emptied before every segment. A column has the trained model with its memory emptied at
test time. Finished cells are kept and half-finished ones go on, so the command can be stopped and
repeated.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from experiments.dialogue.config import PRESETS, ROWS, DataConfig, DialogueConfig
from experiments.dialogue.task import DIALOGUE
from experiments.language_modeling.start import is_run
from experiments.results.dialogue import COLUMNS
from experiments.run import tables
from experiments.run.grid import EMPTIED, Cell, Grid, Results, Seeds
from inf_former_jax.fields import Count, Natural, NonEmpty, NonNegative, Range
from inf_former_jax.require import require
from inf_former_jax.training.objective import Objective

_WITH_MEMORY = [name for name in ROWS if name not in ("no-document", "window")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(DataConfig):
    """Which cells of the table to fill."""

    models: NonEmpty[str] = (
        *ROWS,
        *(f"{name}{EMPTIED}" for name in _WITH_MEMORY),
    )
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    seeds: Seeds = 1
    """Seeds 0, 1, … of each row: the order of the conversations and what is grafted."""
    updates: Annotated[int, Range(2)] = 200
    """Updates of each row."""
    learning_rate: NonNegative = 0.0
    """Peak rate of a row's updates, a linear decay to zero; 0 = 1e-3, with a published
    model 5e-5."""
    memory_learning_rate: NonNegative = 0.0
    """The same of the memory's parameters; 0 = 1e-2, with a published model 2.5e-4."""
    memory_gradient: Natural = 0
    """Segments that the loss reaches back through a long-term memory's writes."""
    document: Literal["whole", "section"] = "whole"
    """What the rows with a document read: whole, or the section that a turn refers to."""
    scored: Literal["both", "readers"] = "both"
    """Speakers whose utterances count: both, or readers, who saw the document."""
    batch_size: Count = 8
    """Conversations in one update."""
    init_from: str = ""
    """What all rows begin with. A published GPT-2 or Llama: the paper's settings (SPEC §7)."""
    cache: str = "runs/tokens"
    out: str = "runs/dialogue/compare"
    """Folder of the runs and the table."""


def cells(cfg: CompareConfig) -> list[Cell[DialogueConfig]]:
    """All rows, models innermost.

    Raises:
        ValueError: an unknown row, or a number of updates that cannot be.
    """
    for name in cfg.models:
        known = name in CompareConfig.models
        require(known, "models", name, ", ".join(CompareConfig.models))
    once = len(set(cfg.models)) == len(cfg.models)
    require(once, "models", " ".join(cfg.models), "each row once")
    return [_cell(cfg, name, seed) for seed in range(cfg.seeds) for name in cfg.models]


def _cell(cfg: CompareConfig, name: str, seed: int) -> Cell[DialogueConfig]:
    plain = name.removesuffix(EMPTIED)
    published = bool(cfg.init_from) and not is_run(cfg.init_from)
    preset = PRESETS[f"paper-{plain}" if published else plain][1]
    optim = preset.optim
    usual = (optim.learning_rate, optim.memory_learning_rate) if published else (1e-3, 1e-2)
    model, layout = preset.model, dataclasses.replace(preset.layout, scored=cfg.scored)
    if model.long_term is not None:
        model = dataclasses.replace(model, memory_gradient=cfg.memory_gradient)
    if layout.document != "none":
        layout = dataclasses.replace(layout, document=cfg.document)
    config = dataclasses.replace(
        preset,
        model=model,
        layout=layout,
        optim=dataclasses.replace(
            optim,
            steps=cfg.updates,
            schedule="linear",
            warmup_steps=min(20, cfg.updates // 2),
            learning_rate=cfg.learning_rate or usual[0],
            memory_learning_rate=cfg.memory_learning_rate or usual[1],
        ),
        loop=dataclasses.replace(preset.loop, minutes=0.0, eval_every=cfg.updates),
        seed=seed,
        objective=Objective(empty_memory=name != plain),
        init_from=cfg.init_from,
        batch_size=cfg.batch_size,
        cache=cfg.cache,
        **{field.name: getattr(cfg, field.name) for field in dataclasses.fields(DataConfig)},
    )
    title = f"{name}-{seed}"
    folder = Path(cfg.out) / title
    return Cell(row=(name,), title=title, preset=name, config=config, folder=folder)


def finish(folder: Path, found: Results) -> None:
    """Print ten replies of every row."""
    from rich.console import Console

    ten = {name: runs[0]["ten_replies"] for (name,), runs in found.items() if runs}
    console = Console(width=190)
    for replies in zip(*ten.values(), strict=False):
        before, true = (tables.foreign(replies[0][key]) for key in ("before", "true"))
        console.print(f"\n[bold]{before}[/]\n  true: {true}")
        for name, one in zip(ten, replies, strict=True):
            console.print(f"  {name}: {tables.foreign(one['reply'])}")
    print(f"{folder}/table.md")


COMPARE = Grid(
    experiment=DIALOGUE,
    command="compare",
    description=__doc__,
    options=CompareConfig(),
    cells=cells,
    title="dialogue from one checkpoint",
    labels=("model",),
    columns=COLUMNS,
    width=190,
    finish=finish,
)
