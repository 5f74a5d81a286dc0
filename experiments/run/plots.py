"""Pictures of runs, in one style."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LINES = ("-", "--", "-.", ":")


@contextlib.contextmanager
def picture(
    path: Path, rows: int = 1, columns: int = 1, width: float = 8.0, height: float = 5.0
) -> Iterator[Any]:
    """The axes to draw on, which are then saved as a PNG; an array [rows, columns] of several."""
    from matplotlib.figure import Figure  # half a second that most commands do not need

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    yield axes if axes.size > 1 else axes[0, 0]
    figure.savefig(path, dpi=120)


def accuracy_by_place(
    path: Path,
    title: str,
    places: Sequence[int],
    trained: Mapping[str, tuple[float, Sequence[float | None]]],
    baselines: Mapping[str, tuple[float, Sequence[float | None]]],
) -> None:
    """Accuracy against the segments between a question and what it asks about.

    Args:
        places: the ages or distances; powers of two stand at equal intervals.
        trained: label → (accuracy over all questions, accuracy at each place), of a model.
        baselines: the same of what needs no learning; a level line where no place is told apart.
    """
    with picture(path) as axes:
        for marker, (label, (whole, values)) in zip("osdX", trained.items(), strict=False):
            known = [float("nan") if value is None else value for value in values]
            axes.plot(places, known, marker=marker, label=f"{label} {whole:.3f}")
        for number, (label, (whole, values)) in enumerate(baselines.items()):
            level = values or [whole] * len(places)
            style = LINES[number % len(LINES)]
            axes.plot(places, level, style, color="0.5", linewidth=1, label=label)
        if list(places) == [2**i for i in range(len(places))]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.set(title=title, xlabel="segments back", ylabel="accuracy", ylim=(0, 1.05))
        axes.legend(fontsize=8)


def bars(path: Path, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Milliseconds of what was timed, with a line at each floor, on a logarithmic scale.

    Args:
        rows: label → as `experiments.benchmark.timing.row` returns it.
    """
    places = range(len(rows))
    with picture(path, width=9, height=1.5 + 0.35 * len(rows)) as axes:
        axes.barh(places, [1e3 * row["seconds"] for row in rows.values()], alpha=0.6)
        for name, style, label in (
            ("floor", "-", "operations at this machine's rate"),
            ("bytes_floor", ":", "arguments and results at its bandwidth"),
        ):
            low, high = ([place + half for place in places] for half in (-0.4, 0.4))
            least = [1e3 * row.get(name, math.nan) for row in rows.values()]
            axes.vlines(least, low, high, color="k", linestyle=style, label=label)
        axes.set_yticks(places, list(rows), fontsize=8)
        axes.set(title=title, xlabel="ms", xscale="log")
        axes.invert_yaxis()
        axes.figure.legend(fontsize=8, loc="outside lower center", ncols=2)
