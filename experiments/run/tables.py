"""What every table of results is made of: markdown, means over seeds, where a figure is from."""

import collections
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inf_former_jax.files import printable

Result = Mapping[str, Any]
#: Runs that differ in their seed only.
Runs = Sequence[Result]
#: Header of a column → its cell for such runs.
Columns = Mapping[str, Callable[[Runs], str]]

TRAINED = "as trained"
CONTROL = "memory emptied before every segment"
#: A model that is tested with what another document left in its memory.
FOREIGN = "another document's memory"

#: Header of the column that `source` fills.
SOURCE = "device, commit, date"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None
) -> None:
    """Print a table on the terminal; all columns but the first are right-justified."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=foreign(title), title_justify="left")
    for number, name in enumerate(header):
        shown.add_column(foreign(name), justify="right" if number else "left")
    for row in rows:
        shown.add_row(*map(foreign, row))
    Console(width=width).print(shown)


def foreign(text: str) -> str:
    """A text for `rich` to print: nothing in it gives orders to the terminal or is markup."""
    from rich.markup import escape

    return escape(printable(text))


def cells(columns: Columns, runs: Runs) -> list[str]:
    """The cells of a row. Without runs all are empty but the first one, the number of runs."""
    if not runs:
        return ["0", *[""] * (len(columns) - 1)]
    return [cell(runs) for cell in columns.values()]


def table(columns: Columns, rows: Iterable[Runs]) -> str:
    """A table in markdown of a row for each group of runs."""
    return markdown(tuple(columns), (cells(columns, runs) for runs in rows))


def count(runs: Runs) -> str:
    """The number of runs."""
    return str(len(runs))


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation over seeds; a single figure stands alone."""
    values = list(values)
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def tested(label: str, figure: str, digits: int = 3, split: str = "test") -> Callable[[Runs], str]:
    """The cell of a test figure: its `spread` over the runs tested under this label, "" if none."""

    def cell(runs: Runs) -> str:
        values = [run[split][label][figure] for run in runs if label in run[split]]
        return spread(values, digits) if values else ""

    return cell


def updates(runs: Runs) -> str:
    """Updates of runs: one number, or from the least to the most."""
    return "–".join(f"{steps:,}" for steps in sorted({run["steps"] for run in runs}))


def parameters(runs: Runs) -> str:
    """Parameters of the model."""
    return f"{runs[0]['parameters']:,}"


def memory_of_a_row(runs: Runs) -> str:
    """Size of all that one row remembers."""
    return f"{runs[0]['memory_bytes_per_row'] / 1024:,.0f} KiB"


def rate(runs: Runs) -> str:
    """Tokens a second of training, the median over the runs; "" of evaluations."""
    found = [run["tokens_per_second"] for run in runs if "tokens_per_second" in run]
    return f"{statistics.median(found):,.0f}" if found else ""


def source(runs: Runs) -> str:
    """Device, commits and date of runs."""
    commits = sorted({run["commit"] for run in runs})
    return ", ".join([runs[0]["device"], *commits, runs[-1]["date"]])


def trained_by(result: Result, field: str) -> dict[str, Any] | None:
    """The config of the run that made a result, or whose model an evaluation was of.

    Args:
        field: that only configs of one experiment have; None of another's, or of a published model.
    """
    run = result.get("trained", result["settings"])  # of a run's own result the settings are it
    return run if "optim" in run and field in run else None


def as_run(result: Result) -> Result:
    """A result as that of a run; an evaluation of a run has the run's model and updates.

    What was evaluated, the task and the seed, is the evaluation's. Where the run lies is left out.
    """
    run = trained_by(result, "model")
    if run is None:
        return result
    steps = result.get("steps", run["optim"]["steps"])
    asked = {name: value for name, value in result["settings"].items() if name != "run"}
    return {**result, "settings": run | asked, "steps": steps}


#: Settings in which runs of one kind may differ: no update depends on the mesh or the hosts.
_NOT_THE_RUN = ("seed", "out", "mesh_model", "mesh_fsdp", "distributed", "hosts")


def groups(results: Iterable[Result]) -> Iterable[list[Result]]:
    """Runs that differ in their seed or mesh only, together, and evaluations of such runs.

    A setting that is off is like none: older versions had not all of them.
    """
    found = collections.defaultdict(list)
    for result in results:
        settings = as_run(result)["settings"]
        same = _that_are_on({k: v for k, v in settings.items() if k not in _NOT_THE_RUN})
        key = (result["preset"], result["device"], json.dumps(same, sort_keys=True))
        found[key].append(result)
    return found.values()


def _that_are_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are 0, empty, False or None, at any depth."""
    found = {}
    for name, value in settings.items():
        value = _that_are_on(value) if isinstance(value, Mapping) else value
        if value:
            found[name] = value
    return found
