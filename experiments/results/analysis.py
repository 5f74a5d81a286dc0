"""Tables of the memory by itself: retention, long streams, searches for constants."""

import statistics
from collections.abc import Iterable

from experiments.run.tables import SOURCE, Result, markdown, source


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
