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


def heads(path: Path, found: Mapping[str, Any]) -> None:
    """Where each head attends: its mass over the memory's time, and by age, as a PNG.

    Args:
        found: as `analysis_memory.look` returns it.
    """
    figure, axes = plt.subplots(
        len(found["layers"]), 2, figsize=(12, 3 * len(found["layers"])), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for j, layer in enumerate(found["layers"]):
        for h, head in enumerate(layer["heads"]):
            mass = head["mass_by_time"]
            times = [(i + 0.5) / len(mass) for i in range(len(mass))]
            axes[j][0].plot(times, [m * len(mass) for m in mass], label=f"head {h}")
            axes[j][1].plot(range(len(head["mass_by_age"])), head["mass_by_age"], marker=".")
        axes[j][0].set(ylabel=f"layer {j}: density")
        axes[j][1].set(ylabel="share of the attention")
    axes[-1][0].set(xlabel="time in the memory (1 = newest)")
    axes[-1][1].set(xlabel="age of what was written, in writes")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def streams(path: Path, found: Mapping[str, Any]) -> None:
    """Size of the coefficients and error of float32 along a stream of writes, as a PNG.

    Args:
        found: label → as `analysis_stream.stream` returns it.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True)
    for label, of in found.items():
        writes = range(1, len(of["rms"]) + 1)
        axes[0].plot(writes, of["rms"], label=label)
        axes[1].plot(writes, of["error"], label=label)
    axes[0].set(xlabel="writes", ylabel="rms coefficient", xscale="log")
    axes[1].set(xlabel="writes", ylabel="error of the float32 signal", xscale="log", yscale="log")
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def retention(path: Path, title: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """R² of past segments against their age, as a PNG: linear dashed, density solid.

    Args:
        curves: contraction → "linear" and "density" → R² by age.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for number, (label, curve) in enumerate(curves.items()):
        for read, style in (("density", "-"), ("linear", "--")):
            axes.plot(curve[read], style, color=f"C{number % 10}", label=f"{label}, {read}")
    axes.set(title=title, xlabel="age of the segment in writes", ylabel="R² of its mean")
    axes.set_ylim(0, 1.05)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def accuracy_by_age(path: Path, title: str, result: Mapping[str, Any]) -> None:
    """Accuracy against the age of the question, with what needs no learning, as a PNG.

    Args:
        result: as a run of `experiments.recall` or `experiments.questions` leaves it.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for marker, (label, row) in zip("osd", result["test"].items(), strict=False):
        accuracy = [float("nan") if v is None else v for v in row["accuracy_by_age"]]
        axes.plot(row["ages"], accuracy, marker=marker, label=f"{label} {row['accuracy']:.3f}")
    ages = next(iter(result["test"].values()))["ages"]
    by_age = result["baselines_by_age"]
    for style, (label, values) in zip(("--", ":"), by_age.items(), strict=False):
        axes.step(ages, values, style, where="mid", color="0.45", linewidth=1, label=label)
    of_all = [pair for pair in result["baselines"].items() if pair[0] not in by_age]
    for style, (label, value) in zip(("-", "-."), of_all, strict=False):
        axes.axhline(value, color="0.7", linestyle=style, linewidth=1, label=label)
    axes.set(title=title, xlabel="age of the question in segments", ylabel="accuracy")
    axes.set(ylim=(0, 1.05), xticks=ages)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def accuracy_by_distance(path: Path, title: str, result: Mapping[str, Any]) -> None:
    """Digits (solid) and whole keys (dashed) that are right, against distance, as a PNG.

    Args:
        result: as a run of `experiments.passkey` leaves it.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for number, (label, row) in enumerate(result["test"].items()):
        for what, whole, style in (("accuracy", "digits", "o-"), ("keys", "whole keys", "s--")):
            axes.plot(
                row["distances"], row[f"{what}_by_distance"], style, color=f"C{number}",
                label=f"{whole}, {label} {row[what]:.3f}",
            )  # fmt: skip
    distances = next(iter(result["test"].values()))["distances"]
    styles = ("-", "--", ":")
    for style, (label, values) in zip(
        styles, result["baselines_by_distance"].items(), strict=False
    ):
        axes.plot(distances, values, style, color="0.6", linewidth=1, label=f"digits, {label}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(distances, [str(distance) for distance in distances])
    axes.set(title=title, xlabel="distance in segments", ylabel="right", ylim=(0, 1.05))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
