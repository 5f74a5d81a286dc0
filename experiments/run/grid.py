"""A table of runs: cells → runs → table → picture; the same command goes on where it stopped."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic

from experiments.run import cli, folders, tables, training
from experiments.run.experiment import Config, Experiment

EMPTIED = "-emptied"
"""Ends the name of a row that is trained with the memory emptied before every segment."""


@dataclasses.dataclass(frozen=True)
class Cell(Generic[Config]):
    """One run of a table.

    Attributes:
        row: what its row is of, such as (model, length); cells of one row differ in the seed.
        title: what is printed when its turn comes.
        preset: under which its result is kept.
    """

    row: tuple[Any, ...]
    title: str
    preset: str
    config: Config
    folder: Path


def fill(
    experiment: Experiment[Config], cells: Sequence[Cell[Config]], argv: Sequence[str]
) -> None:
    """Run the cells one after the other: finished ones are kept, half-finished ones go on.

    A cell may begin with what an earlier one has left: each is completed and checked in its turn.
    """
    for number, cell in enumerate(cells, start=1):
        print(f"[{number}/{len(cells)}] {cell.title}", flush=True)
        with cli.refusals():
            config = experiment.complete(cell.config)
            experiment.check(config)
            result = folders.open_run(cell.folder, config)
        if result is None:
            provenance = folders.provenance(experiment.name, cell.preset, argv)
            with cli.stops():
                training.run(experiment, config, cell.folder, provenance)


def results(cells: Sequence[Cell]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Row → results of its cells that have one, rows in the order of the cells."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {cell.row: [] for cell in cells}
    for cell in cells:
        file = cell.folder / "result.json"
        if file.exists():
            found[cell.row].append(json.loads(file.read_text(encoding="utf-8")))
    return found


def show(
    title: str, folder: Path, header: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> None:
    """Print the table, and write it as markdown."""
    tables.show(title, header, rows, width)
    text = tables.markdown(header, rows) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
