"""Every model of the paper on the same sorting data: one table, one picture, resumable.

Cells are run one after the other; finished ones are kept and half-finished ones go on, so the same
command can be stopped and repeated. For each model with a memory there is a control *trained* with
the memory emptied before every segment (`-emptied`), beside the column in which the trained model's
memory is emptied at test time: what the memory adds is the difference to these.
"""

import collections
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.results.sorting import COMPARISON, comparison_row
from experiments.run import cli, folders, plots
from experiments.run.tables import markdown
from experiments.sorting import config as sorting
from experiments.sorting import task as sorting_task
from inf_former_jax.models import presets
from inf_former_jax.training.step import Objective

MODELS = {
    "infinity-former": presets.infinity_former,
    "infinity-former-sticky": presets.infinity_former_sticky,
    "compressive": presets.compressive,
    "transformer-xl": presets.transformer_xl,
}
EMPTIED = "-emptied"


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


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the table."""

    model: str
    length: int
    seed: int
    config: sorting.SortingConfig
    folder: Path


def cells(cfg: CompareConfig) -> list[Cell]:
    """All cells, models innermost, so that every stage of the table is a comparison.

    Raises:
        ValueError: an unknown model or an impossible length.
    """
    lengths = cfg.lengths
    if cfg.paper and lengths == CompareConfig.lengths:
        lengths = (4000, 8000, 16000)
    return list(_cells(cfg, lengths))


def _cells(cfg: CompareConfig, lengths: Sequence[int]) -> Iterator[Cell]:
    for length in lengths:
        for seed in range(cfg.seeds):
            for model in cfg.models:
                base = model.removesuffix(EMPTIED)
                if base not in MODELS or model == f"transformer-xl{EMPTIED}":
                    accepted = ", ".join(CompareConfig.models)
                    raise ValueError(f"models: found {model}, accepted: {accepted}")
                config = sorting.PRESETS[base][1]
                if cfg.paper:
                    config = sorting.paper(MODELS[base](), length)
                config = dataclasses.replace(
                    config,
                    length=length,
                    seed=seed,
                    loop=dataclasses.replace(config.loop, minutes=cfg.minutes),
                    objective=Objective(empty_memory=model != base),
                )
                sorting_task.check(config)
                yield Cell(model, length, seed, config, Path(cfg.out) / f"{length}/{model}-{seed}")


def finished(table: Sequence[Cell]) -> list[dict[str, Any]]:
    """Results of the cells that have one."""
    files = [cell.folder / "result.json" for cell in table]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def rows(table: Sequence[Cell]) -> list[list[str]]:
    """The table's cells as text, by COMPARISON; what has not run stays empty."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = collections.OrderedDict()
    for cell in table:
        results = groups.setdefault((cell.length, cell.model), [])
        results += finished([cell])
    return [comparison_row(model, length, made) for (length, model), made in groups.items()]


def report(title: str, folder: Path, table: Sequence[Cell]) -> None:
    """Print the table; write it as markdown, and draw the picture."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for name in COMPARISON:
        made.add_column(name, justify="left" if name == "model" else "right")
    for row in rows(table):
        made.add_row(*row)
    Console(width=150).print(made)
    (folder / "table.md").write_text(markdown(COMPARISON, rows(table)) + "\n", encoding="utf-8")
    if finished(table):
        plots.comparison(folder / "comparison.png", finished(table))
    print(f"{folder}/table.md, {folder}/comparison.png")


def fill(table: Sequence[Cell], argv: Sequence[str]) -> None:
    """Run the cells one after the other: finished ones are kept, half-finished ones go on."""
    for number, cell in enumerate(table, start=1):
        print(f"[{number}/{len(table)}] {cell.model}, {cell.length:,} tokens, seed {cell.seed}")
        with cli.refusals():
            result = folders.open_run(cell.folder, cell.config)
        if result is None:
            said = folders.provenance("sorting", cell.model, argv)
            with cli.stops():
                sorting_task.run(cell.config, cell.folder, said)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.sorting compare [--options]`."""
    program = "python -m experiments.sorting compare"
    cfg = cli.options(program, __doc__, CompareConfig(), argv)
    with cli.refusals():
        table = cells(cfg)
        folder = folders.made(cfg.out)
    fill(table, ["compare", *argv])
    report("sorting: every model on the same data", folder, table)
