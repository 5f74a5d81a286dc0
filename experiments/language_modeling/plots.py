"""Pictures of language models."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def perplexity(path: Path, title: str, result: Mapping[str, Any]) -> None:
    """Validation perplexity against updates, and test perplexity by place in the document.

    Args:
        result: as a run of `experiments.language_modeling` leaves it.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    steps = [row[0] for row in result["curve"]]
    axes[0].plot(steps, [math.exp(row[1]) for row in result["curve"]], marker=".")
    axes[0].set(xlabel="update", ylabel="validation perplexity a token", title=title)
    for label, row in result["test"].items():
        _by_segment(axes[1], row["by_segment"], label)
    axes[1].set(xlabel="segment of the document", ylabel="test perplexity a token")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _by_segment(axes, found, label, **style):
    places = [max(first, 0.5) for first in found["first"]]
    axes.plot(places, [math.exp(loss) for loss in found["loss"]], marker=".", label=label, **style)
    axes.set_xscale("log", base=2)


def comparison(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Curves of all models, and what each gains over the plain one by place in the document.

    Args:
        runs: model → its results, one a seed; a model without any is left out.
    """
    figure, axes = plt.subplots(1, 3, figsize=(17, 4.8), constrained_layout=True)
    plain = runs.get("gpt2", ())
    for number, (name, results) in enumerate(runs.items()):
        style = {"color": f"C{number % 10}", "linestyle": "--" if "emptied" in name else "-"}
        for i, result in enumerate(results):
            label = name if i == 0 else None
            if result["settings"]["init_from"]:
                curve = [(row[0], math.exp(row[1])) for row in result["curve"]]
                axes[0].plot(*zip(*curve, strict=True), label=label, **style)
            found = result["test"]["as trained"]["by_segment"]
            _by_segment(axes[1], found, label, **style)
            for other in plain:
                if other["settings"]["seed"] == result["settings"]["seed"] and name != "gpt2":
                    _gain(axes[2], found, other["test"]["as trained"]["by_segment"], label, **style)
    axes[0].set(xlabel="update", ylabel="validation perplexity a token")
    axes[1].set(xlabel="segment of the document", ylabel="test perplexity a token")
    axes[2].set(xlabel="segment of the document = writes", ylabel="gain over gpt2 in %")
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _gain(axes, found, plain, label, **style):
    places = [max(first, 0.5) for first in found["first"]]
    pairs = zip(plain["loss"], found["loss"], strict=True)
    gains = [100 * (1 - math.exp(loss - before)) for before, loss in pairs]
    axes.plot(places, gains, marker=".", label=label, **style)
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xscale("log", base=2)
