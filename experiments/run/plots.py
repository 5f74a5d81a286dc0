"""Pictures of runs, in one style: lines named where they end, and seeds as a band."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from inf_former_jax.files import printable

LINES = ("-", "--", "-.", ":")

#: Okabe and Ito's colours, which people with any colour vision tell apart; a picture has no more
#: series than these.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "axes.axisbelow": True,
    "axes.edgecolor": "0.5",
    "axes.grid": True,
    "axes.labelcolor": "0.2",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9.5,
    "grid.color": "0.92",
    "legend.frameon": False,
    "svg.fonttype": "none",  # texts stay texts, which can be searched and read aloud
    "svg.hashsalt": "inf_former_jax",  # the same picture has the same bytes
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}


@contextlib.contextmanager
def picture(
    path: Path | IO[bytes],
    rows: int = 1,
    columns: int = 1,
    width: float = 8.0,
    height: float = 5.0,
) -> Iterator[Any]:
    """The axes to draw on, which are then saved; an array [rows, columns] of several.

    Args:
        path: the file, a PNG or what its suffix says. A buffer gets an SVG.
        width, height: in inches.
    """
    import matplotlib as mpl  # half a second that most commands do not need
    from matplotlib.figure import Figure

    how: dict[str, Any] = {"dpi": 120}
    if not isinstance(path, Path):
        how |= {"format": "svg", "metadata": dict.fromkeys(("Creator", "Date", "Format", "Type"))}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield axes if axes.size > 1 else axes[0, 0]
        with warnings.catch_warnings():  # of a letter that the font lacks there is a box
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            figure.savefig(path, **how)


def entitle(axes: Any, *lines: str) -> None:
    """Give axes a title of the lines that are not empty, in which nothing is a formula."""
    axes.set_title("\n".join(filter(None, map(printable, lines))), parse_math=False)


def name_lines(axes: Any, size: float = 8.5) -> None:
    """Write the label of each line beside the axes, behind a piece of it, at its last height.

    Labels that would be on one another are moved apart. Call it when all is drawn and scaled.

    Args:
        size: of the letters, in points.
    """
    from matplotlib.lines import Line2D

    axes.autoscale_view()  # otherwise only when it is drawn
    found = []
    for line in axes.get_lines():
        known = np.flatnonzero(np.isfinite(np.asarray(line.get_ydata(), float)))
        if len(known) and not line.get_label().startswith("_"):
            last = (np.asarray(values)[known[-1]] for values in line.get_data())
            shown = axes.transData.transform(tuple(last))
            found.append((float(axes.transAxes.inverted().transform(shown)[1]), line))
    found.sort(key=lambda pair: pair[0])
    letters = 1.3 * size / 72 / (axes.get_position().height * axes.figure.get_figheight())
    heights = _apart([height for height, _ in found], letters)
    for height, (_, line) in zip(heights, found, strict=True):
        color, sample = line.get_color(), (1.012, 1.045)
        how = {"color": color, "linestyle": line.get_linestyle()}
        how |= {"linewidth": line.get_linewidth()}
        how |= {"marker": line.get_marker()} if line.get_linestyle() == "None" else {}
        drawn = Line2D(sample, (height, height), **how, clip_on=False)  # tells twins apart
        drawn.set_transform(axes.transAxes)
        axes.add_artist(drawn)
        axes.annotate(
            printable(line.get_label()),
            (1.06, height),
            xycoords="axes fraction",
            va="center",
            color=color,
            fontsize=size,
            parse_math=False,
        )


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Increasing heights, moved up where they differ by less, and down again from the top."""
    moved, floor = [], -math.inf
    for height in heights:
        moved.append(max(height, floor))
        floor = moved[-1] + least
    ceiling = max(1.0, *heights) if heights else 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - least
    return moved


def band(axes: Any, curves: Sequence[tuple[Sequence[float], Sequence[float]]], **style: Any) -> Any:
    """Draw the mean of several seeds' curves (x, y), and a band from the lowest to the highest.

    It is drawn where all of them are known. Between its own points a curve is straight.

    Returns:
        The line.
    """
    xs = sorted({x for places, _ in curves for x in places})
    if not all(places for places, _ in curves):
        xs = []
    first = max((places[0] for places, _ in curves if places), default=0)
    last = min((places[-1] for places, _ in curves if places), default=0)
    xs = [x for x in xs if first <= x <= last]
    every = [np.interp(xs, *curve) for curve in curves if xs] or [np.zeros(0)]
    (line,) = axes.plot(xs, np.mean(every, 0), **style)
    if len(every) > 1:
        low, high = np.min(every, 0), np.max(every, 0)
        axes.fill_between(xs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def accuracy_by_place(
    path: Path | IO[bytes],
    title: str,
    places: Sequence[int],
    trained: Mapping[str, tuple[float, Sequence[float | None]]],
    baselines: Mapping[str, tuple[float, Sequence[float | None]]],
) -> None:
    """Accuracy against the segments between a question and what it asks about.

    The title goes on with what is right at the farthest place that is asked about.

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
            axes.plot(places, level, style, color="0.45", linewidth=1, label=f"{label} {whole:.3f}")
        if list(places) == [2**i for i in range(len(places))]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.set(xlabel="segments back", ylabel="accuracy", ylim=(0, 1.05))
        entitle(axes, title, farthest(places, trained))
        name_lines(axes)


def farthest(
    places: Sequence[int], trained: Mapping[str, tuple[float, Sequence[float | None]]]
) -> str:
    """In words, what of each label is right at the farthest place of which all are known."""
    rows = [values for _, values in trained.values()]
    known = [i for i in range(len(places)) if rows and all(row[i] is not None for row in rows)]
    if not known:
        return ""
    last = known[-1]
    figures = (f"{label} {values[last]:.2f}" for label, (_, values) in [*trained.items()][:2])
    return f"{places[last]} segments back: {', '.join(figures)}"


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
        axes.grid(False, axis="y")
        axes.invert_yaxis()
        axes.figure.legend(fontsize=8, loc="outside lower center", ncols=2)
