"""Pictures of language models."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.plots import picture

Result = Mapping[str, Any]
"""The result of a run of `experiments.language_modeling`."""


def perplexity(path: Path, title: str, result: Result) -> None:
    """Validation perplexity against updates, and test perplexity by place in the document."""
    with picture(path, columns=2, width=12, height=4.5) as axes:
        course, places = axes[0]
        _course(course, result, marker=".")
        course.set(xlabel="update", ylabel="validation perplexity a token", title=title)
        for label, row in result["test"].items():
            _by_segment(places, row["by_segment"], label=label)
        places.set(xlabel="segment of the document", ylabel="test perplexity a token")
        places.legend(fontsize=8)


def comparison(path: Path, runs: Mapping[str, Sequence[Result]]) -> None:
    """Courses of all models, and what each gains over the plain one by place in the document.

    Args:
        runs: model → its results, one a seed; a model without any is left out.
    """
    plain = {result["settings"]["seed"]: result for result in runs.get("gpt2", ())}
    with picture(path, columns=3, width=17, height=4.8) as axes:
        course, places, gains = axes[0]
        for number, (name, results) in enumerate(runs.items()):
            style = {"color": f"C{number % 10}", "linestyle": "--" if "emptied" in name else "-"}
            for i, result in enumerate(results):
                style["label"] = name if i == 0 else "_"  # matplotlib lists no such label
                if result["settings"]["init_from"]:
                    _course(course, result, **style)
                found = result["test"]["as trained"]["by_segment"]
                _by_segment(places, found, **style)
                other = plain.get(result["settings"]["seed"])
                if other and name != "gpt2":
                    _gain(gains, found, other["test"]["as trained"]["by_segment"], **style)
        course.set(xlabel="update", ylabel="validation perplexity a token")
        places.set(xlabel="segment of the document", ylabel="test perplexity a token")
        gains.set(xlabel="segment of the document = writes", ylabel="gain over gpt2 in %")
        places.legend(fontsize=7)


def _course(axes: Any, result: Result, **style: Any) -> None:
    steps = [row[0] for row in result["curve"]]
    axes.plot(steps, [math.exp(row[1]) for row in result["curve"]], **style)


def _by_segment(axes: Any, found: Mapping[str, Sequence[float]], **style: Any) -> None:
    """Perplexity against the segment, on a logarithmic axis that has no place for segment 0."""
    places = [max(first, 0.5) for first in found["first"]]
    axes.plot(places, [math.exp(loss) for loss in found["loss"]], marker=".", **style)
    axes.set_xscale("log", base=2)


def _gain(
    axes: Any,
    found: Mapping[str, Sequence[float]],
    plain: Mapping[str, Sequence[float]],
    **style: Any,
) -> None:
    places = [max(first, 0.5) for first in found["first"]]
    pairs = zip(plain["loss"], found["loss"], strict=True)
    gains = [100 * (1 - math.exp(loss - before)) for before, loss in pairs]
    axes.plot(places, gains, marker=".", **style)
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xscale("log", base=2)
