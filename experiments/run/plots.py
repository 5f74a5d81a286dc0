"""Pictures of runs, in one style."""

import collections
import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_LINES = ("-", "--", "-.", ":")


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


def accuracy_curve(
    path: Path,
    title: str,
    curve: Sequence[Sequence[float]],
    baselines: Mapping[str, float],
    points: Mapping[str, float],
) -> None:
    """Accuracy against step, with horizontal baselines and final figures.

    Args:
        curve: (step, validation accuracy in [0, 1], …).
        baselines: label → accuracy of a predictor that needs no training.
        points: label → accuracy on the test sequences at the end.
    """
    with picture(path) as axes:
        steps = [row[0] for row in curve]
        axes.plot(steps, [row[1] for row in curve], marker="o", label="validation")
        for i, (label, value) in enumerate(baselines.items()):
            axes.axhline(value, color="0.45", linestyle=_LINES[i % 4], linewidth=1)
            axes.annotate(
                f"{label} {value:.2f}",
                (0.01 + 0.4 * (i % 2), value),  # neighbours side by side, not on one another
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=8,
                color="0.3",
            )
        for marker, (label, value) in zip("*Xsd", points.items(), strict=False):
            axes.plot(steps[-1:], [value], marker, markersize=10, label=f"{label} {value:.3f}")
        axes.set(title=title, xlabel="step", ylabel="accuracy of the 20 answers", ylim=(0, 1.05))
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), fontsize=8)


def comparison(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of several models against step, against time and against length.

    Args:
        results: as runs leave them; several seeds of a model are drawn in its colour, and their
            mean against length.
    """
    by_model = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        by_model[result["preset"]][result["settings"]["length"]].append(result)
    with picture(path, columns=3, width=15, height=4.5) as axes:
        by_step, by_minute, by_length = axes[0]
        for number, (model, runs) in enumerate(by_model.items()):
            color, longest, lengths = f"C{number % 10}", max(runs), sorted(runs)
            for i, run in enumerate(runs[longest]):
                steps, accuracy, seconds = zip(*run["curve"], strict=True)
                label = f"{model}, {longest:,} tokens" if i == 0 else None
                by_step.plot(steps, accuracy, color=color, label=label, marker=".")
                by_minute.plot([s / 60 for s in seconds], accuracy, color=color, marker=".")
            means = [
                statistics.mean(run["test"]["as trained"]["accuracy"] for run in runs[length])
                for length in lengths
            ]
            by_length.plot(lengths, means, color=color, marker="o")
        for axis in axes[0]:
            axis.set(ylabel="accuracy of the 20 answers")
        by_step.set(xlabel="step")
        by_minute.set(xlabel="minutes of training")
        by_length.set(xlabel="tokens to sort")
        by_step.legend(fontsize=7)


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
            style = _LINES[number % len(_LINES)]
            axes.plot(places, level, style, color="0.5", linewidth=1, label=label)
        if list(places) == [2**i for i in range(len(places))]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.set(title=title, xlabel="segments back", ylabel="accuracy", ylim=(0, 1.05))
        axes.legend(fontsize=8)


def retention(path: Path, title: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """R² of past segments against their age: linear dashed, density solid.

    Args:
        curves: contraction → "linear" and "density" → R² by age.
    """
    with picture(path) as axes:
        for number, (label, curve) in enumerate(curves.items()):
            for read, style in (("density", "-"), ("linear", "--")):
                axes.plot(curve[read], style, color=f"C{number % 10}", label=f"{label}, {read}")
        axes.set(title=title, xlabel="age of the segment in writes", ylabel="R² of its mean")
        axes.set_ylim(0, 1.05)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8)


def heads(path: Path, found: Mapping[str, Any]) -> None:
    """Where each head attends: its mass over the memory's time, and by age.

    Args:
        found: as `experiments.analysis.memory.look` returns it.
    """
    layers = found["layers"]
    with picture(path, len(layers), 2, width=12, height=3 * len(layers)) as axes:
        for j, layer in enumerate(layers):
            for h, head in enumerate(layer["heads"]):
                mass = head["mass_by_time"]
                times = [(i + 0.5) / len(mass) for i in range(len(mass))]
                axes[j, 0].plot(times, [m * len(mass) for m in mass], label=f"head {h}")
                axes[j, 1].plot(range(len(head["mass_by_age"])), head["mass_by_age"], marker=".")
            axes[j, 0].set(ylabel=f"layer {j}: density")
            axes[j, 1].set(ylabel="share of the attention")
        axes[-1, 0].set(xlabel="time in the memory (1 = newest)")
        axes[-1, 1].set(xlabel="age of what was written, in writes")
        axes[0, 0].legend(fontsize=8)


def streams(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Size of the coefficients and error of float32 along a stream of writes.

    Args:
        found: label → as `experiments.analysis.stream.stream` returns it.
    """
    with picture(path, columns=2, width=12, height=4) as axes:
        sizes, errors = axes[0]
        for label, series in found.items():
            writes = range(1, len(series["rms"]) + 1)
            sizes.plot(writes, series["rms"], label=label)
            errors.plot(writes, series["error"], label=label)
        sizes.set(xlabel="writes", ylabel="rms coefficient", xscale="log")
        label = "error of the float32 signal"
        errors.set(xlabel="writes", ylabel=label, xscale="log", yscale="log")
        sizes.legend()


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
