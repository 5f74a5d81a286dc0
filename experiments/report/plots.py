"""Pictures that only a report has: the course of a run."""

from collections.abc import Mapping, Sequence
from typing import IO, Any

from experiments.report import figures
from experiments.run.plots import LINES, name_lines, picture

Rows = Sequence[Mapping[str, Any]]


def course(file: IO[bytes], rows: Rows, levels: Mapping[str, float]) -> None:
    """Loss of training and validation against updates, and the figure that validation is about.

    Args:
        rows: of metrics.jsonl.
        levels: label → final figure, as a level line beside the validation's course.
    """
    valid = [row for row in rows if row["split"] == "valid"]
    name = figure_of(rows)
    with picture(file, columns=2, width=10.2, height=3.8) as axes:
        loss, figure = axes[0]
        for split, label in (("train", "training"), ("valid", "validation")):
            _line(loss, [row for row in rows if row["split"] == split], label, "loss")
        best = min((row["loss"] for row in valid if row.get("loss") is not None), default=None)
        lowest = "No validation yet" if best is None else f"Validation loss falls to {best:.3f}"
        loss.set(title=lowest, xlabel="update", ylabel="loss, nats a target")
        _line(figure, valid, "validation", name)
        for number, (label, value) in enumerate(levels.items()):
            style: dict[str, Any] = {"color": f"C{number + 1}", "linestyle": LINES[1]}
            text = f"{label} {figures.shown(name, value)}"
            figure.axhline(value, linewidth=1.2, label=text, **style)
        last = next((row[name] for row in reversed(valid) if row.get(name) is not None), None)
        ends = f"{name.capitalize()} on validation ends at {figures.shown(name, last)}"
        figure.set(title=ends if valid else "", xlabel="update", ylabel=figures.FIGURES[name][0])
        name_lines(loss)
        name_lines(figure)


def figure_of(rows: Rows) -> str:
    """The figure that validation is about: perplexity where there is one, else accuracy."""
    found = any("perplexity" in row for row in rows if row["split"] == "valid")
    return "perplexity" if found else "accuracy"


def _line(axes: Any, rows: Rows, label: str, name: str) -> None:
    known = [row for row in rows if row.get(name) is not None]
    marker = "." if len(known) < 30 else ""
    steps, values = [row["step"] for row in known], [row[name] for row in known]
    axes.plot(steps, values, marker=marker, label=label)
