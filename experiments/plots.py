"""Pictures of runs."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def accuracy_curve(
    path: Path,
    title: str,
    curve: Sequence[Sequence[float]],
    baselines: Mapping[str, float],
    points: Mapping[str, float],
) -> None:
    """Accuracy against step, with horizontal baselines and final figures, as a PNG.

    Args:
        curve: (step, validation accuracy in [0, 1], …).
        baselines: label → accuracy of a predictor that needs no training.
        points: label → accuracy on the test sequences at the end.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    steps = [row[0] for row in curve]
    axes.plot(steps, [row[1] for row in curve], marker="o", label="validation")
    styles = ["-", "--", "-.", ":"]
    for i, (label, value) in enumerate(baselines.items()):
        axes.axhline(value, color="0.45", linestyle=styles[i % 4], linewidth=1)
        place = (0.01 + 0.4 * (i % 2), value)  # neighbours side by side, not on one another
        axes.annotate(
            f"{label} {value:.2f}", place, xycoords=("axes fraction", "data"),
            xytext=(0, 2), textcoords="offset points", fontsize=8, color="0.3",
        )  # fmt: skip
    for marker, (label, value) in zip("*Xsd", points.items(), strict=False):
        axes.plot(steps[-1:], [value], marker, markersize=10, label=f"{label} {value:.3f}")
    axes.set(title=title, xlabel="step", ylabel="accuracy of the 20 answers", ylim=(0, 1.05))
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def comparison(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of several models against step, against time and against length, as a PNG.

    Args:
        results: as runs leave them; several seeds of a model are drawn in its colour, and their
            mean against length.
    """
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    models = list(dict.fromkeys(result["preset"] for result in results))
    for number, model in enumerate(models):
        color = f"C{number % 10}"
        runs = [result for result in results if result["preset"] == model]
        longest = max(run["settings"]["length"] for run in runs)
        for i, run in enumerate(run for run in runs if run["settings"]["length"] == longest):
            steps, accuracy, seconds = zip(*run["curve"], strict=True)
            label = f"{model}, {longest:,} tokens" if i == 0 else None
            axes[0].plot(steps, accuracy, color=color, label=label, marker=".")
            axes[1].plot([s / 60 for s in seconds], accuracy, color=color, marker=".")
        by_length = collections.defaultdict(list)
        for run in runs:
            by_length[run["settings"]["length"]].append(run["test"]["as trained"]["accuracy"])
        lengths = sorted(by_length)
        means = [statistics.mean(by_length[length]) for length in lengths]
        axes[2].plot(lengths, means, color=color, marker="o")
    for axis, label in zip(axes, ("step", "minutes of training", "tokens to sort"), strict=True):
        axis.set(xlabel=label, ylabel="accuracy of the 20 answers")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def accuracy_by_age(path: Path, title: str, result: Mapping[str, Any]) -> None:
    """Accuracy of recall against the age of the question, with what needs no learning, as a PNG.

    Args:
        result: as a run of `experiments.recall` leaves it.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for marker, (label, row) in zip("osd", result["test"].items(), strict=False):
        accuracy = [float("nan") if v is None else v for v in row["accuracy_by_age"]]
        axes.plot(row["ages"], accuracy, marker=marker, label=f"{label} {row['accuracy']:.3f}")
    ages = next(iter(result["test"].values()))["ages"]
    for style, (label, values) in zip(
        ("--", ":"), result["baselines_by_age"].items(), strict=False
    ):
        axes.step(ages, values, style, where="mid", color="0.45", linewidth=1, label=label)
    for style, label in (("-", "chance"), ("-.", "values counted, none bound to its key")):
        axes.axhline(
            result["baselines"][label], color="0.7", linestyle=style, linewidth=1, label=label
        )
    axes.set(title=title, xlabel="age of the question in segments", ylabel="accuracy")
    axes.set(ylim=(0, 1.05), xticks=ages)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
