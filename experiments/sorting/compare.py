"""Every model of the paper on the same sorting data: one table, one picture, resumable.

Cells are run one after the other; finished ones are kept and half-finished ones go on, so the same
command can be stopped and repeated. For each model with a memory there is a control *trained* with
the memory emptied before every segment (`-emptied`), beside the column in which the trained model's
memory is emptied at test time: what the memory adds is the difference to these.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.results.sorting import COMPARISON, comparison_row
from experiments.run import cli, folders, grid, plots
from experiments.run.grid import EMPTIED, Cell
from experiments.sorting.config import PRESETS, SortingConfig, paper
from experiments.sorting.task import SORTING, check
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
class CompareConfig:
    """Which cells of the table to fill."""

    models: tuple[str, ...] = (*MODELS, *(f"{m}{EMPTIED}" for m in list(MODELS)[:3]))
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    lengths: tuple[int, ...] = (1068,)
    """Tokens to sort; each with its answer inside one segment."""
    seeds: int = 2
    """Seeds 0, 1, … of each cell."""
    minutes: float = 5.0
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
    configs = [
        (model, dataclasses.replace(config_of(model, length, cfg), seed=seed))
        for length in lengths
        for seed in range(cfg.seeds)
        for model in cfg.models
    ]
    return [cell(model, config, Path(cfg.out) / str(config.length)) for model, config in configs]


def config_of(model: str, length: int, cfg: CompareConfig) -> SortingConfig:
    """A row's config.

    Raises:
        ValueError: an unknown model.
    """
    base = model.removesuffix(EMPTIED)
    known = base in MODELS and model != f"transformer-xl{EMPTIED}"
    require(known, "models", model, ", ".join(CompareConfig.models))
    config = paper(MODELS[base](), length) if cfg.paper else PRESETS[base][1]
    return dataclasses.replace(
        config,
        length=length,
        loop=dataclasses.replace(config.loop, minutes=cfg.minutes),
        objective=Objective(empty_memory=model != base),
    )


def cell(model: str, config: SortingConfig, folder: Path) -> Cell[SortingConfig]:
    """The cell of a checked config, in a subfolder.

    Raises:
        ValueError: a config that cannot be run.
    """
    check(config)
    title = f"{model}, {config.length:,} tokens, seed {config.seed}"
    return Cell((model, config.length), title, model, config, folder / f"{model}-{config.seed}")


def rows(table: Sequence[Cell]) -> list[list[str]]:
    """The table's cells as text, by COMPARISON; what has not run stays empty."""
    return [comparison_row(*row, results) for row, results in grid.results(table).items()]


def report(title: str, folder: Path, table: Sequence[Cell]) -> None:
    """Print the table; write it as markdown, and draw the picture."""
    grid.show(title, folder, COMPARISON, rows(table), width=150)
    finished = [result for results in grid.results(table).values() for result in results]
    if finished:
        plots.comparison(folder / "comparison.png", finished)
    print(f"{folder}/table.md, {folder}/comparison.png")


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.sorting compare [--options]`."""
    program = "python -m experiments.sorting compare"
    cfg = cli.options(program, __doc__, CompareConfig(), argv)
    with cli.refusals():
        table = cells(cfg)
        folder = folders.made(cfg.out)
    grid.fill(SORTING, table, ["compare", *argv])
    report("sorting: every model on the same data", folder, table)
