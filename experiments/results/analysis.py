"""Tables of the memory by itself: retention, long streams, searches for constants."""

import statistics
from collections.abc import Callable, Iterable

from experiments.run import tables
from experiments.run.tables import (
    CONTROL,
    SOURCE,
    TRAINED,
    Columns,
    Result,
    Runs,
    markdown,
    source,
    tested,
)


def retention_table(results: list[Result]) -> str:
    """R² of a segment's mean by its age: by the best linear read-out and by the best density."""
    ages = sorted({age for result in results for age in result["settings"]["ages"]})
    rows = []
    for result in results:
        settings = result["settings"]
        memory = [str(settings["num_basis"]), _numbers(settings["widths"])]
        for contraction, curves in result["retention"].items():
            cells = contraction.endswith("intervals")
            kind = [memory[0], "equal cells" if cells else memory[1]]
            for reader, values in curves.items():
                shown = [f"{values[age]:.2f}" if age < len(values) else "" for age in ages]
                mean = f"{statistics.mean(values):.3f}"
                rows.append([*kind, contraction, reader, *shown, mean, source([result])])
    header = ("N", "widths", "contraction", "read by", *map(str, ages), "mean")
    return markdown((*header, SOURCE), rows)


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


_STREAM = (
    "contraction | writes: rms of the coefficients | largest ever | bound | float32's worst error"
)


def stream_table(results: list[Result]) -> str:
    """Coefficients along a stream of writes, and how far float32's signal is from float64's."""
    rows = []
    for result in results:
        for contraction, run in result["found"].items():
            sizes = ", ".join(f"{writes}: {rms:.4f}" for writes, rms in run["rms"].items())
            worst = [f"{run['largest']:.3f}", f"{run['bound']:.2f}", f"{run['error']:.1e}"]
            rows.append([contraction, sizes, *worst, source([result])])
    return markdown([*_STREAM.split(" | "), SOURCE], rows)


_SIZES = ("tokens", "segment", "N")
_SCORES = ("memories tried", "best density", "its worst", "published")


def choice_table(results: list[Result]) -> str:
    """What a search for constants found: mean R² by one density over all segments, and the code."""
    rows = []
    for result in results:
        settings, best = result["settings"], result["best"][0]
        sizes = [f"{settings[name]:,}" for name in ("tokens", "segment", "num_basis")]
        scores = (best["density"], best["worst"], result["published"]["density"])
        figures = [str(result["tried"]), *(f"{score:.3f}" for score in scores)]
        rows.append([*sizes, *figures, f"`{best['config']}`", source([result])])
    return markdown((*_SIZES, *_SCORES, "configuration", SOURCE), rows)


def _error(figure: str) -> Callable[[Runs], str]:
    """The cell of an error of the signal (`experiments.analysis.signal`), averaged over layers."""

    def cell(runs: Runs) -> str:
        layers = [run["signal"]["memories"][0]["layers"] for run in runs]
        return tables.spread(statistics.mean(one[figure] for one in found) for found in layers)

    return cell


def _told_apart(runs: Runs) -> str:
    found = runs[0]["signal"]["memories"][0]["told_apart"]
    return "" if found is None else f"{found:.0f}"


#: Of sorters that differ in N: how well they sort, and what their signal gives back.
FUNCTIONS: Columns = {
    "seeds": tables.count,
    "accuracy": tested(TRAINED, "accuracy"),
    "emptied": tested(CONTROL, "accuracy"),
    "error, newest segment": _error("newest"),
    "error, all in turn": _error("in_turn"),
    "error, all at once": _error("at_once"),
    "told apart": _told_apart,
    "updates": tables.updates,
    "tokens/s": tables.rate,
    "memory of a row": tables.memory_of_a_row,
}


def _functions_of(runs: Runs) -> tuple[int, int, str]:
    """(tokens, N, kind of widths) of runs."""
    settings = runs[0]["settings"]
    number = settings["model"]["long_term"]["num_basis"]
    return settings["length"], number, runs[0]["preset"].split("-")[0]


def functions_table(results: list[Result]) -> str:
    """Accuracy and the error of the signal by N, kind of widths and tokens."""
    rows: Columns = {
        "tokens": lambda runs: f"{_functions_of(runs)[0]:,}",
        "N": lambda runs: str(_functions_of(runs)[1]),
        "widths": lambda runs: _functions_of(runs)[2],
        **FUNCTIONS,
        SOURCE: source,
    }
    return tables.table(rows, sorted(tables.groups(results), key=_functions_of))
