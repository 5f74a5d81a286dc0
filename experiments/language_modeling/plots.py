"""Pictures of language models."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.grid import EMPTIED
from experiments.run.plots import band, name_lines, picture

Result = Mapping[str, Any]
"""The result of a run of `experiments.language_modeling`."""


def perplexity(path: Path, title: str, result: Result) -> None:
    """Validation perplexity against updates, and test perplexity by place in the document."""
    with picture(path, columns=2, width=12, height=4.5) as axes:
        course, places = axes[0]
        _course(course, [result], marker=".")
        course.set(xlabel="update", ylabel="validation perplexity a token", title=title)
        by_segment(places, result["test"])


def comparison(path: Path, runs: Mapping[str, Sequence[Result]]) -> None:
    """Courses of all models, and what each gains over the plain one by place in the document.

    Models that were trained with their memory emptied are dashed, in the colour of the model.

    Args:
        runs: model → its results, one a seed; a model without any is left out.
    """
    runs = {name: results for name, results in runs.items() if results and name != "base"}
    names = dict.fromkeys(name.removesuffix(EMPTIED) for name in runs)
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    plain = {result["settings"]["seed"]: _losses(result) for result in runs.get("gpt2", ())}
    with picture(path, columns=2, width=14, height=5) as axes:
        (course, gains), whole = axes[0], {}
        for name, results in runs.items():
            style = {"color": colors[name.removesuffix(EMPTIED)], "label": name}
            style["linestyle"] = "--" if name.endswith(EMPTIED) else "-"
            _course(course, results, **style)
            pairs = [
                (plain[result["settings"]["seed"]], _losses(result))
                for result in results
                if result["settings"]["seed"] in plain and name != "gpt2"
            ]
            if pairs:
                every = [_gains(before, after) for before, after in pairs]
                first = _places(results[0]["test"]["as trained"]["by_segment"]["first"])
                band(gains, [(first, values) for values in every], marker=".", **style)
                whole[name] = statistics.mean(values[-1] for values in every)
        course.set(xlabel="update", ylabel="validation perplexity a token")
        gains.set(xlabel="segment of the document", ylabel="gain over gpt2 in %, mean over seeds")
        gains.set_xscale("log", base=2)
        gains.axhline(0, color="0.7", linewidth=1)
        name_lines(course)
        if whole:
            best = max(whole, key=lambda name: whole[name])
            emptied = [gain for name, gain in whole.items() if name.endswith(EMPTIED)]
            beside = f";\ntrained emptied at most {max(emptied):+.1f} %" if emptied else ""
            gains.set_title(
                f"Late in a document {best} gains {whole[best]:+.1f} %{beside}", size=10
            )


def _course(axes: Any, results: Sequence[Result], **style: Any) -> None:
    """Validation perplexity of the seeds of a model."""
    curves = [result["curve"] for result in results]
    courses = [([row[0] for row in rows], [math.exp(row[1]) for row in rows]) for rows in curves]
    band(axes, courses, **style)


def by_segment(axes: Any, figures: Mapping[str, Result]) -> None:
    """Draw test perplexity against the segment of the document, a line for each control.

    Args:
        figures: label → figures, among them `by_segment`, as `LanguageModeling.figures` has them.
    """
    for label, row in figures.items():
        perplexities = [math.exp(loss) for loss in row["by_segment"]["loss"]]
        axes.plot(_places(row["by_segment"]["first"]), perplexities, marker=".", label=label)
    first = sorted({place for row in figures.values() for place in row["by_segment"]["first"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(_places(first), [str(place) for place in first])
    axes.set(xlabel="segment of the document", ylabel="test perplexity a token")
    name_lines(axes)


def _losses(result: Result) -> Sequence[float]:
    return result["test"]["as trained"]["by_segment"]["loss"]


def _gains(plain: Sequence[float], losses: Sequence[float]) -> list[float]:
    """By how many per cent perplexity is lower than that of the plain model, by segment."""
    pairs = zip(plain, losses, strict=True)
    return [100 * (1 - math.exp(loss - before)) for before, loss in pairs]


def _places(first: Sequence[float]) -> list[float]:
    """Segments on a logarithmic axis, which has no place for segment 0."""
    return [max(number, 0.5) for number in first]
