"""Pictures of sorting."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.grid import EMPTIED
from experiments.run.plots import LINES, picture
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
            axes.axhline(value, color="0.45", linestyle=LINES[i % 4], linewidth=1)
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
            axes.plot([last], [value], marker, markersize=10, label=f"{label} {value:.3f}")
        axes.set(title=title, xlabel="step", ylabel="accuracy of the 20 answers", ylim=(0, 1.05))
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), fontsize=8)


def comparison(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of several models against step, against time and against length.

    Models that were trained with their memory emptied are dashed, in the colour of the model.

    Args:
        results: as runs leave them. Every seed of a model has its curve. Against length stands the
            mean over seeds, with the standard deviation if there are several.
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
            for run in runs[max(runs)]:
                accuracy = [row[1] for row in run["curve"]]
                by_step.plot([row[0] for row in run["curve"]], accuracy, **style)
                by_minute.plot([row[2] / 60 for row in run["curve"]], accuracy, **style)
            lengths, found = sorted(runs), [_accuracies(runs[length]) for length in sorted(runs)]
            means, spread = (
                [statistics.mean(a) for a in found],
                [statistics.pstdev(a) for a in found],
            )
            by_length.errorbar(lengths, means, spread, capsize=3, label=model, **style)
        longest = max(max(runs) for runs in by_model.values())
        by_step.set(xlabel="step", ylabel="accuracy of the 20 answers", title=f"{longest:,} tokens")
        by_minute.set(xlabel="minutes of training", title=f"{longest:,} tokens")
        by_length.set(xlabel="tokens to sort", title="test sequences")
        by_length.legend(fontsize=7)
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
