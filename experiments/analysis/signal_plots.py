"""Pictures of what a memory's signal gives back."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from experiments.run.plots import band, entitle, name_lines, picture


def signal(path: Path | IO[bytes], found: Mapping[str, Any]) -> None:
    """Error of a signal against the number of functions, and against how much was written.

    Args:
        path: as `picture` takes it.
        found: as `experiments.analysis.signal.look` returns it.
    """
    own, *others = found["memories"]
    length, vectors = found["length"], found["writes"] * found["length"]
    kinds = dict.fromkeys(row["name"].split()[1] for row in others)
    with picture(path, columns=2, width=12, height=4.5) as axes:
        by_number, by_length = axes[0]
        for number, kind in enumerate(kinds):
            rows = [row for row in others if row["name"].endswith(kind)]
            numbers, color = [row["num_basis"] for row in rows], f"C{number}"
            for figure, style, how in (("in_turn", "o-", "in turn"), ("at_once", "--", "at once")):
                errors = [mean_of_layers(row, figure) for row in rows]
                by_number.plot(numbers, errors, style, color=color, label=f"{kind}, {how}")
            for row, style in ((rows[0], ":"), (rows[-1], "o-")):
                label = f"N = {row['num_basis']}, {kind}"
                by_length.plot(*_by_length(row, length), style, color=color, label=label)
        error = mean_of_layers(own, "in_turn")
        by_number.plot(own["num_basis"], error, "ks", label="the run's")
        tokens, errors = _by_length(own, length)
        by_length.plot(tokens, errors, "ks-", label=f"the run's, N = {own['num_basis']}")
        by_number.set(ylabel="error of the signal", xlabel=f"N, functions, at {vectors:,} tokens")
        by_length.set(xlabel="tokens written")
        _scale(by_number, sorted({row["num_basis"] for row in others}))
        _scale(by_length, tokens)
        best = min(others, key=lambda row: mean_of_layers(row, "in_turn"))
        entitle(by_number, f"The run's signal has an error of {error:.2f}; 1 is the mean alone")
        best_error = mean_of_layers(best, "in_turn")
        entitle(by_length, f"The best of these memories has {best_error:.2f} (N = {best['name']})")


def _scale(ax: Any, places: Sequence[int]) -> None:
    """Scale axes of errors or accuracies, from 0 on, places at equal ratios; name the lines."""
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{place:,}" for place in places])
    ax.minorticks_off()
    ax.set_ylim(0, 1.06 * ax.dataLim.y1)
    name_lines(ax)


def mean_of_layers(row: Mapping[str, Any], figure: str) -> float:
    """A figure of a memory (`experiments.analysis.signal.measure`), averaged over layers."""
    return float(np.mean([layer[figure] for layer in row["layers"]]))


def _by_length(row: Mapping[str, Any], length: int) -> tuple[list[int], list[float]]:
    """Tokens written, and the mean error of the layers after so many."""
    writes = list(row["layers"][0]["by_writes"])
    errors = [float(np.mean([layer["by_writes"][k] for layer in row["layers"]])) for k in writes]
    return [int(k) * length for k in writes], errors


class _Sorter(NamedTuple):
    """What a picture shows of a run of `experiments.analysis.precision`."""

    num_basis: int
    length: int
    kind: str  # of widths
    seed: int
    accuracy: float
    error: float


def _sorter(run: Mapping[str, Any]) -> _Sorter:
    settings, memory = run["settings"], run["signal"]["memories"][0]
    return _Sorter(
        num_basis=settings["model"]["long_term"]["num_basis"],
        length=settings["length"],
        kind=run["preset"].split("-")[0],
        seed=settings["seed"],
        accuracy=run["test"]["as trained"]["accuracy"],
        error=mean_of_layers(memory, "in_turn"),
    )


def precision(path: Path | IO[bytes], results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and the error of the signal: against N at one length, against length at one N.

    Args:
        path: as `picture` takes it.
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
            some = sorted(some, key=lambda one: one.kind)  # of one colour everywhere
            _against(axes[0, column], some, place, "accuracy")
            _against(axes[1, column], some, place, "error")
        axes[0, 0].set(ylabel="accuracy of the 20 answers")
        axes[1, 0].set(ylabel="error of the signal", xlabel=f"N, functions, at {length:,} tokens")
        axes[1, 1].set(xlabel=f"tokens, at N = {number}")
        entitle(axes[0, 0], *_findings(at_length))


def _against(ax: Any, sorters: Sequence[_Sorter], place: str, figure: str) -> None:
    """Draw a figure against a place, with a band over the seeds of each kind of widths."""
    for kind in dict.fromkeys(one.kind for one in sorters):
        by_seed = collections.defaultdict(list)
        for one in sorted(sorters, key=lambda one: getattr(one, place)):
            if one.kind == kind:
                by_seed[one.seed].append(one)
        curves = [
            ([getattr(one, place) for one in some], [getattr(one, figure) for one in some])
            for some in by_seed.values()
        ]
        band(ax, curves, marker="o", label=f"{kind} widths")
    _scale(ax, sorted({getattr(one, place) for one in sorters}))


def _findings(at_length: Sequence[_Sorter]) -> list[str]:
    """Of each kind of widths: where it sorts best, and the error from the least N to the most."""
    found = []
    for kind in dict.fromkeys(one.kind for one in at_length):
        by_number = collections.defaultdict(list)
        for one in at_length:
            if one.kind == kind:
                by_number[one.num_basis].append(one)
        accuracy = {
            number: statistics.mean(one.accuracy for one in some)
            for number, some in by_number.items()
        }
        best = max(accuracy, key=lambda number: accuracy[number])
        first, last = (
            statistics.mean(one.error for one in by_number[end(by_number)]) for end in (min, max)
        )
        found.append(
            f"{kind.capitalize()} widths sort best with N = {best} ({accuracy[best]:.2f}), "
            f"their error goes from {first:.2f} to {last:.2f}"
        )
    return found
