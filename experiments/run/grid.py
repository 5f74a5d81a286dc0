"""A table of runs: cells → runs → table → picture; the same command goes on where it stopped."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic

from experiments.run import cli, devices, folders, tables, training
from experiments.run.experiment import Config, Experiment
from inf_former_jax import files
from inf_former_jax.fields import Range

EMPTIED = "-emptied"
"""Ends the name of a row that is trained with the memory emptied before every segment."""

#: How many seeds a table has of each row.
Seeds = Annotated[int, Range(1, 1000)]

#: What a row is of, such as (model, tokens) → the results of its finished cells.
Results = Mapping[tuple[str, ...], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Generic[Config]):
    """One run of a table.

    Attributes:
        row: what its row is of; the cells of one row differ in the seed.
        title: what is printed when its turn comes.
        preset: the name that its result is kept under.
        independent: whether it can be checked before the cells before it have run.
    """

    row: tuple[str, ...]
    title: str
    preset: str
    config: Config
    folder: Path
    independent: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Generic[Config]):
    """What the command of a table offers: `python -m experiments.NAME COMMAND [--options]`.

    Attributes:
        description: what `--help` says.
        options: the default ones; `seeds` of each row, and `out`, the folder of runs and table.
        cells: makes the cells that the options ask for; ValueError for impossible options.
        title, width: of the printed table.
        labels: headers of what a row is of.
        columns: headers and cells of its results.
        finish: draws the picture, and prints which files there are.
        program: the package whose command it is; "" = the experiment's.
        measure: what is measured of the folder of a finished cell and joins its result; figures
            that are there already are read, not measured again.
    """

    experiment: Experiment[Config]
    command: str
    description: str | None
    options: Any
    cells: Callable[[Any], Sequence[Cell[Config]]]
    title: str
    labels: Sequence[str]
    columns: tables.Columns
    width: int
    finish: Callable[[Path, Results], None]
    program: str = ""
    measure: Callable[[Path], Mapping[str, Any]] | None = None

    def main(self, argv: Sequence[str]) -> None:
        """Run the cells one after the other, print the table, and write it as markdown.

        One independent cell of every row is checked before the first one runs. Finished cells are
        kept and half-finished ones go on, so that the command can be stopped and repeated.
        """
        name = self.program or self.experiment.name
        program = f"python -m experiments.{name} {self.command}"
        options = cli.options(program, self.description, self.options, argv)
        with cli.refusals():
            cells = self.cells(options)
            devices.offer()
            for cell in {cell.row: cell for cell in cells if cell.independent}.values():
                config, _ = devices.settled(self.experiment.complete(cell.config))
                training.check_room(self.experiment, config)
                self.experiment.check(config)
            folder = folders.make(options.out)
        for number, cell in enumerate(cells, start=1):
            print(f"[{number}/{len(cells)}] {cell.title}", flush=True)
            with cli.refusals():  # a cell may begin with what an earlier one has left
                config = self.experiment.complete(cell.config)
            given = [self.command, *argv], self.program
            cli.start(self.experiment, cell.preset, config, cell.folder, *given)
        with cli.refusals():
            found = results(cells, self.measure)
        header, rows = (*self.labels, *self.columns), self.rows(found)
        tables.show(self.title, header, rows, self.width)
        text = tables.markdown(header, rows)
        with cli.stops():
            files.write_text(folder / "table.md", text + "\n")
            self.finish(folder, found)

    def rows(self, found: Results) -> list[list[str]]:
        """The table as text; what has not run stays empty."""
        return [[*row, *tables.cells(self.columns, finished)] for row, finished in found.items()]


def results(
    cells: Sequence[Cell], measure: Callable[[Path], Mapping[str, Any]] | None = None
) -> Results:
    """Rows in the order of the cells, each with the results of its finished cells.

    Args:
        measure: as `Grid.measure`.
    """
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {cell.row: [] for cell in cells}
    for cell in cells:
        result = folders.read_result(cell.folder)
        if result is not None:
            found[cell.row].append({**result, **(measure(cell.folder) if measure else {})})
    return found
