"""Every model of the paper on the same sorting data: one table, one picture, resumable.

Cells are run one after the other; finished ones are kept and half-finished ones go on, so the same
command can be stopped and repeated. What a memory adds is the difference to two controls. A row
`-emptied` is *trained* with the memory emptied before every segment. A column has the trained model
with its memory emptied at test time.
"""

import dataclasses
from pathlib import Path

from experiments.results.sorting import COMPARISON
from experiments.run import grid
from experiments.run.grid import EMPTIED, Cell, Grid, Seeds
from experiments.sorting import plots
from experiments.sorting.config import PRESETS, SortingConfig, paper
from experiments.sorting.task import SORTING
from inf_former_jax.fields import Checked, Count, NonEmpty, NonNegative
from inf_former_jax.models import presets
from inf_former_jax.require import require
from inf_former_jax.training.objective import Objective

MODELS = {
    "infinity-former": presets.infinity_former,
    "infinity-former-sticky": presets.infinity_former_sticky,
    "compressive": presets.compressive,
    "transformer-xl": presets.transformer_xl,
}


@dataclasses.dataclass(frozen=True)
class CompareConfig(Checked):
    """Which cells of the table to fill."""

    models: NonEmpty[str] = (
        *MODELS,
        *(f"{m}{EMPTIED}" for m in list(MODELS)[:3]),
    )
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    lengths: NonEmpty[Count] = (1068,)
    """Tokens to sort; each with its answer inside one segment."""
    seeds: Seeds = 2
    """Seeds 0, 1, … of each cell."""
    minutes: NonNegative = 5.0
    """Training time of a run, compile included; 0 = all updates."""
    paper: bool = False
    """The paper's sizes and, unless given, its lengths 4,000, 8,000 and 16,000."""
    out: str = "runs/sorting/compare"
    """Folder of the runs, the table and the picture."""


def cells(cfg: CompareConfig) -> list[Cell[SortingConfig]]:
    """All cells, models innermost, so that every stage of the table is a comparison.

    Raises:
        ValueError: an unknown model or an impossible length.
    """
    lengths = cfg.lengths
    if cfg.paper and lengths == CompareConfig.lengths:
        lengths = (4000, 8000, 16000)
    table = []
    for length in lengths:
        for seed in range(cfg.seeds):
            for model in cfg.models:
                base = model.removesuffix(EMPTIED)
                known = base in MODELS and model != f"transformer-xl{EMPTIED}"
                require(known, "models", model, ", ".join(CompareConfig.models))
                config = paper(MODELS[base](), length) if cfg.paper else PRESETS[base][1]
                loop = dataclasses.replace(config.loop, minutes=cfg.minutes)
                config = dataclasses.replace(config, length=length, seed=seed, loop=loop)
                table.append(cell(model, config, Path(cfg.out) / str(length)))
    return table


def cell(model: str, config: SortingConfig, folder: Path) -> Cell[SortingConfig]:
    """The cell of a model, which is trained with its memory emptied if its name says so."""
    objective = Objective(empty_memory=model.endswith(EMPTIED))
    return Cell(
        row=(model, f"{config.length:,}"),
        title=f"{model}, {config.length:,} tokens, seed {config.seed}",
        preset=model,
        config=dataclasses.replace(config, objective=objective),
        folder=folder / f"{model}-{config.seed}",
    )


def finish(folder: Path, found: grid.Results) -> None:
    """Draw the picture."""
    results = [result for finished in found.values() for result in finished]
    if results:
        plots.comparison(folder / "comparison.png", results)
    print(f"{folder}/table.md, {folder}/comparison.png")


COMPARE = Grid(
    experiment=SORTING,
    command="compare",
    description=__doc__,
    options=CompareConfig(),
    cells=cells,
    title="sorting: every model on the same data",
    labels=("model", "tokens"),
    columns=COMPARISON,
    width=150,
    finish=finish,
)
