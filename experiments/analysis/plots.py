"""Pictures of the memory."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.run.plots import picture

#: Heat maps of at most so many columns have room for their figures.
_FIGURES = 8


def retention(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """R² of past segments against their age: linear dashed, density solid.

    Args:
        curves: contraction → "linear" and "density" → R² by age.
    """
    writes, last = max(len(curve["density"]) for curve in curves.values()), []
    with picture(path) as axes:
        for number, (label, curve) in enumerate(curves.items()):
            for read, style in (("density", "-"), ("linear", "--")):
                axes.plot(curve[read], style, color=f"C{number % 10}", label=f"{label}, {read}")
            last.append(f"{curve['density'][-1]:.2f} ({label})")
        axes.set(xlabel="age of the segment in writes", ylabel="R² of its mean")
        axes.set_title(
            f"Of the oldest of {writes} writes a density reads {', '.join(last)}", size=11
        )
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
            axes[j, 0].set(ylabel=f"layer {layer['layer']}: density")
            axes[j, 1].set(ylabel="share of the attention")
        axes[-1, 0].set(xlabel="time in the memory (1 = newest)")
        axes[-1, 1].set(xlabel="age of what was written, in writes")
        axes[0, 0].legend(fontsize=8)


def asked(path: Path, found: Mapping[str, Any]) -> None:
    """Where each head attends when an age is asked for: a heat map, asked segments in frames.

    Args:
        found: as `experiments.analysis.memory.look` returns it of a run of recall.
    """
    rows, columns, layers = found["asked_ages"], found["written_ages"], found["layers"]
    heads = len(layers[0]["heads"])
    width, height = max(8.0, 2.6 * heads + 1), 2.6 * len(layers) + 0.8
    with picture(path, len(layers), heads, width=width, height=height) as axes:
        axes = np.reshape(axes, (len(layers), heads))
        for (j, h), ax in np.ndenumerate(axes):
            head = layers[j]["heads"][h]
            _heat_map(ax, head["mass_by_asked_age"], rows, columns)
            ax.set_title(f"layer {layers[j]['layer']}, head {h}", size=10)
        for ax in axes[:, 0]:
            ax.set(ylabel="asked age in segments")
        for ax in axes[-1]:
            ax.set(xlabel="age of what is read")
        figure = axes[0, 0].figure
        figure.colorbar(axes[0, 0].images[0], ax=axes, label="mass", shrink=0.8)
        figure.suptitle(_asked_finding(found), size=11)


def _heat_map(
    ax: Any, mass: Sequence[Sequence[float]], rows: Sequence[int], columns: Sequence[int]
) -> None:
    """Draw masses from 0 to 1; a frame where a row and its column are of one age."""
    ax.imshow(mass, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for ages, axis in ((rows, ax.yaxis), (columns, ax.xaxis)):
        step = -(-len(ages) // _FIGURES)
        axis.set_ticks(range(0, len(ages), step), list(map(str, ages[::step])))
    for i, age in enumerate(rows):
        if age in columns:
            left, top = columns.index(age) - 0.5, i - 0.5
            right, bottom = left + 1, top + 1
            frame = ([left, right, right, left, left], [top, top, bottom, bottom, top])
            ax.plot(*frame, "C1", linewidth=2, clip_on=False, scalex=False, scaley=False)
        if len(columns) <= _FIGURES:
            for k, value in enumerate(mass[i]):
                color = "w" if value > 0.5 else "k"
                ax.text(k, i, f"{value:.2f}", ha="center", va="center", color=color, size=8)


def _asked_finding(found: Mapping[str, Any]) -> str:
    """How much of its mass the best head has on the asked segment, beside an even share."""
    shares = {
        (layer["layer"], h): head["mass_on_asked"]
        for layer in found["layers"]
        for h, head in enumerate(layer["heads"])
    }
    if None in shares.values():
        return "No question asks for a segment that is written"
    best = max(shares, key=lambda place: shares[place])
    return (
        f"Head {best[1]} of layer {best[0]} has {shares[best]:.2f} of its mass on the asked "
        f"segment (framed); an even share: {1 / found['writes']:.2f}"
    )


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


def signal(path: Path, found: Mapping[str, Any]) -> None:
    """Error of a signal against the number of functions, and against how much was written.

    Args:
        found: as `experiments.analysis.signal.look` returns it.
    """
    own, *others = found["memories"]
    length, writes = found["length"], found["writes"]
    with picture(path, columns=2, width=12, height=4.5) as axes:
        by_number, by_length = axes[0]
        for number, kind in enumerate(dict.fromkeys(row["name"].split()[1] for row in others)):
            rows = [row for row in others if row["name"].endswith(kind)]
            numbers = [row["num_basis"] for row in rows]
            for figure, style, how in (("in_turn", "-", "in turn"), ("at_once", "--", "at once")):
                errors = [mean_of_layers(row, figure) for row in rows]
                color, label = f"C{number}", f"{kind} widths, {how}"
                by_number.plot(numbers, errors, style, color=color, marker="o", label=label)
            for row in (rows[0], rows[-1]):
                tokens, errors = _errors_by_length(row, length)
                style, label = "-" if row is rows[-1] else ":", f"N = {row['num_basis']}, {kind}"
                by_length.plot(tokens, errors, style, color=f"C{number}", marker="o", label=label)
        tokens, errors = _errors_by_length(own, length)
        by_length.plot(
            tokens, errors, color="k", marker="s", label=f"the run's, {own['num_basis']}"
        )
        by_number.plot(own["num_basis"], mean_of_layers(own, "in_turn"), "ks", label="the run's")
        by_number.set(xlabel="N, functions", ylabel="error of the signal", xscale="log")
        by_length.set(xlabel="tokens written", xscale="log")
        by_number.set_xticks(shown := sorted({row["num_basis"] for row in others}), shown)
        by_length.set_xticks(tokens, [f"{number:,}" for number in tokens])
        for ax in axes[0]:
            ax.minorticks_off()
            ax.set_ylim(0)
            ax.legend(fontsize=8)
        best = min(others, key=lambda row: mean_of_layers(row, "in_turn"))
        axes[0, 0].figure.suptitle(
            f"Of {writes * length:,} hidden states the run's memory loses "
            f"{mean_of_layers(own, 'in_turn'):.0%}, the best of these, N = {best['name']}, "
            f"{mean_of_layers(best, 'in_turn'):.0%}",
            size=11,
        )


def mean_of_layers(row: Mapping[str, Any], figure: str) -> float:
    """A figure of a memory (`experiments.analysis.signal.measure`), averaged over layers."""
    return float(np.mean([layer[figure] for layer in row["layers"]]))


def _errors_by_length(row: Mapping[str, Any], length: int) -> tuple[list[int], list[float]]:
    """Tokens written, and the mean error of the layers after so many."""
    writes = list(row["layers"][0]["by_writes"])
    errors = [float(np.mean([layer["by_writes"][k] for layer in row["layers"]])) for k in writes]
    return [int(k) * length for k in writes], errors


class _Sorter(NamedTuple):
    """What a picture shows of a run of `experiments.analysis.precision`."""

    num_basis: int
    length: int
    kind: str  # of widths
    accuracy: float
    error: float


def _sorter(run: Mapping[str, Any]) -> _Sorter:
    settings, memory = run["settings"], run["signal"]["memories"][0]
    return _Sorter(
        num_basis=settings["model"]["long_term"]["num_basis"],
        length=settings["length"],
        kind=run["preset"].split("-")[0],
        accuracy=run["test"]["as trained"]["accuracy"],
        error=mean_of_layers(memory, "in_turn"),
    )


def precision(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and the error of the signal: against N at one length, against length at one N.

    Seeds are a band from the least to the largest.

    Args:
        results: of runs of `experiments.analysis.precision`, with their signals.
    """
    sorters = list(map(_sorter, results))
    # The length at which N differs most, and the N at which the length does.
    sizes = {(one.num_basis, one.length) for one in sorters}
    length = collections.Counter(length for _, length in sizes).most_common(1)[0][0]
    number = collections.Counter(number for number, _ in sizes).most_common(1)[0][0]
    at_length = [one for one in sorters if one.length == length]
    at_number = [one for one in sorters if one.num_basis == number]
    with picture(path, 2, 2, width=12, height=7) as axes:
        for column, (some, place) in enumerate(((at_length, "num_basis"), (at_number, "length"))):
            _bands(axes[0, column], some, place, "accuracy")
            _bands(axes[1, column], some, place, "error")
        axes[0, 0].set(ylabel="accuracy of the 20 answers")
        axes[1, 0].set(ylabel="error of the signal", xlabel=f"N, functions, at {length:,} tokens")
        axes[1, 1].set(xlabel=f"tokens, at N = {number}")
        axes[0, 0].legend(fontsize=8)
        axes[0, 0].figure.suptitle(_precision_finding(at_length), size=11)


def _bands(ax: Any, sorters: Sequence[_Sorter], place: str, figure: str) -> None:
    """Draw a figure against a place: of each kind of widths the mean of seeds, and their range."""
    for color, kind in enumerate(dict.fromkeys(one.kind for one in sorters)):
        found = _by_place([one for one in sorters if one.kind == kind], place, figure)
        low, high = map(min, found.values()), map(max, found.values())
        means = list(map(statistics.mean, found.values()))
        ax.plot(list(found), means, color=f"C{color}", marker="o", label=f"{kind} widths")
        ax.fill_between(list(found), list(low), list(high), color=f"C{color}", alpha=0.2)
        ax.set_xscale("log")
        ax.set_xticks(list(found), [f"{at:,}" for at in found])
        ax.minorticks_off()
    ax.set_ylim(0)


def _by_place(sorters: Sequence[_Sorter], place: str, figure: str) -> dict[int, list[float]]:
    """Place → the figures of the seeds there, places in increasing order."""
    found = collections.defaultdict(list)
    for one in sorted(sorters, key=lambda one: getattr(one, place)):
        found[getattr(one, place)].append(getattr(one, figure))
    return found


def _precision_finding(at_length: Sequence[_Sorter]) -> str:
    """The N at which each kind of widths sorts best, and the error from the least N to the most."""
    parts = []
    for kind in dict.fromkeys(one.kind for one in at_length):
        some = [one for one in at_length if one.kind == kind]
        accuracy, error = (_by_place(some, "num_basis", name) for name in ("accuracy", "error"))
        means = {number: statistics.mean(found) for number, found in accuracy.items()}
        best = max(means, key=lambda number: means[number])
        errors = list(map(statistics.mean, error.values()))
        parts.append(
            f"{kind.capitalize()} widths sort best with N = {best} ({means[best]:.2f}); "
            f"their error goes from {errors[0]:.2f} to {errors[-1]:.2f}"
        )
    return "\n".join(parts)
