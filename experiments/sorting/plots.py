"""Pictures of sorting."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.grid import EMPTIED
from experiments.run.plots import LINES, band, entitle, name_lines, picture
from experiments.run.tables import TRAINED


def accuracy_curve(
    path: Path,
    title: str,
    curve: Sequence[Sequence[float]],
    baselines: Mapping[str, float],
    points: Mapping[str, float],
    last: int,
) -> None:
    """Accuracy against step, with horizontal baselines and final figures.

    Args:
        curve: (step, validation accuracy in [0, 1], …); none if metrics.jsonl was lost.
        baselines: label → accuracy of a predictor that needs no training.
        points: label → accuracy on the test sequences after the `last` step.
    """
    with picture(path) as axes:
        steps = [row[0] for row in curve]
        axes.plot(steps, [row[1] for row in curve], marker="o", label="validation")
        for i, (label, value) in enumerate(baselines.items()):
            style: dict[str, Any] = {"color": "0.45", "linestyle": LINES[i % 4], "linewidth": 1}
            axes.axhline(value, label=f"{label} {value:.3f}", **style)
        for marker, (label, value) in zip("*Xsd", points.items(), strict=False):
            axes.plot([last], [value], marker, markersize=10, label=f"{label} {value:.3f}")
        found = ", ".join(f"{label} {value:.3f}" for label, value in points.items())
        entitle(axes, title, found)
        axes.set(xlabel="update", ylabel="accuracy of the 20 answers", ylim=(0, 1.05))
        name_lines(axes)


def comparison(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of several models against step, against time and against length.

    Models that were trained with their memory emptied are dashed, in the colour of the model.

    Args:
        results: as runs leave them. The seeds of a model are a band around their mean. Against
            length stands the mean over seeds, with the standard deviation if there are several.
    """
    by_model = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        by_model[result["preset"]][result["settings"]["length"]].append(result)
    names = dict.fromkeys(model.removesuffix(EMPTIED) for model in by_model)
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    with picture(path, columns=3, width=15, height=4.8) as axes:
        by_step, by_minute, by_length = axes[0]
        for model, runs in by_model.items():
            style = {"color": colors[model.removesuffix(EMPTIED)], "marker": "."}
            style["linestyle"] = "--" if model.endswith(EMPTIED) else "-"
            courses = [
                list(zip(*run["curve"], strict=True)) or [(), (), ()] for run in runs[max(runs)]
            ]
            band(by_step, [(steps, accuracy) for steps, accuracy, _ in courses], **style)
            minutes = [([s / 60 for s in seconds], found) for _, found, seconds in courses]
            band(by_minute, minutes, **style)
            lengths, found = sorted(runs), [_accuracies(runs[length]) for length in sorted(runs)]
            means, spread = (
                [statistics.mean(a) for a in found],
                [statistics.pstdev(a) for a in found],
            )
            by_length.errorbar(lengths, means, spread, capsize=3, label=model, **style)
        longest = max(max(runs) for runs in by_model.values())
        by_step.set(
            xlabel="update", ylabel="accuracy of the 20 answers", title=f"{longest:,} tokens"
        )
        by_minute.set(xlabel="minutes of training", title=f"{longest:,} tokens")
        by_length.set(xlabel="tokens to sort", title="test sequences")
        by_length.legend(fontsize=7, handlelength=4)  # else dashes look like lines
        at_longest = {
            model: statistics.mean(_accuracies(runs[longest]))
            for model, runs in by_model.items()
            if longest in runs
        }
        order = sorted(at_longest.items(), key=lambda item: -item[1])
        by_step.figure.suptitle(
            f"At {longest:,} tokens: " + ", ".join(f"{model} {mean:.2f}" for model, mean in order),
            fontsize=10,
        )


def _accuracies(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [run["test"][TRAINED]["accuracy"] for run in runs]
