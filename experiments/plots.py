"""Pictures of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def accuracy_curve(
    path: Path,
    title: str,
    curve: Sequence[tuple[int, float]],
    baselines: Mapping[str, float],
    points: Mapping[str, float],
) -> None:
    """Accuracy against step, with horizontal baselines and final figures, as a PNG.

    Args:
        curve: (step, validation accuracy in [0, 1]).
        baselines: label → accuracy of a predictor that needs no training.
        points: label → accuracy on the test sequences at the end.
    """
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    steps = [step for step, _ in curve]
    axes.plot(steps, [value for _, value in curve], marker="o", label="validation")
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
