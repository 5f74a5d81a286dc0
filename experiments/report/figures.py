"""The figures of a result, whatever its task: in words, and as the rows of tables."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.results.summary import TASKS
from experiments.run.probes import Accuracies
from experiments.run.tables import CONTROL, TRAINED, Result

#: Name of a figure in results → its header, and how it is written.
FIGURES = {
    "accuracy": ("accuracy", ".3f"),
    "keys": ("whole answers right", ".3f"),
    "perplexity": ("perplexity a token", ".2f"),
    "word_perplexity": ("perplexity a word", ",.2f"),
    "bits_per_byte": ("bits a byte", ".3f"),
    "token_accuracy": ("accuracy of tokens", ".3f"),
    "loss": ("loss, nats", ".3f"),
    "kl": ("KL, nats", ",.1f"),
    "reconstruction": ("reconstruction", ".4g"),
}
#: A baseline that sees the whole sequence: a ceiling, nothing to be better than.
_CEILING = "full counts"


class Table(NamedTuple):
    """A table; the first cell of a row names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def judged_by(result: Result) -> str:
    """The figure that the task is judged by: accuracy, or perplexity, of which less is better."""
    return TASKS[result["experiment"]].figure


def shown(name: str, value: float | None) -> str:
    """A figure as pages have it; nothing for one that is not known."""
    return "" if value is None else format(value, FIGURES[name][1])


def baselines(result: Result) -> dict[str, float]:
    """Label → accuracy of what needs no training; of all distances the mean."""
    by_distance = result.get("baselines_by_distance", {}).items()
    means = {label: statistics.mean(values) for label, values in by_distance}
    return {**result.get("baselines", {}), **means}


def best_baseline(result: Result) -> tuple[str, float] | None:
    """(label, accuracy) of the best of what needs no training and does not see everything."""
    found = {label: value for label, value in baselines(result).items() if label != _CEILING}
    return max(found.items(), key=lambda pair: pair[1]) if found else None


def tested(result: Result) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """(split, label → figures) of the test data, or of the validation data if only they were read.

    Raises:
        KeyError: the result has neither.
    """
    split = "test" if "test" in result else "valid"
    return split, result[split]


def finding(result: Result) -> list[str]:
    """What was found, in sentences: the figure of the task, its controls and the best baseline."""
    (split, rows), name = tested(result), judged_by(result)
    where = {"test": "test", "valid": "validation"}[split]
    after = f" after {result['steps']:,} updates" if "steps" in result else ""
    figure, others = rows[TRAINED][name], {k: v for k, v in rows.items() if k != TRAINED}
    found = [f"{name.capitalize()} on the {where} data is {shown(name, figure)}{after}."]
    for label, row in others.items():
        words = f"With the {label}" if label == CONTROL else f"With {label}"
        found.append(f"{words} it is {shown(name, row[name])}.")
    if figure is not None and rows.get(CONTROL, {}).get(name) is not None:
        found.append(_worth(name, figure, rows[CONTROL][name]))
    if name == "perplexity":
        return [*found, "Lower is better."]
    if best := best_baseline(result):
        found.append(f"The best that needs no training, {best[0]}, has {shown(name, best[1])}.")
    return found


def _worth(name: str, trained: float, emptied: float) -> str:
    """What a memory's content is worth: the difference that emptying it makes."""
    if name == "accuracy":
        return f"So what the memory holds is worth {trained - emptied:+.3f}."
    gain = 100 * (1 - trained / emptied)
    words = "lowers" if gain >= 0 else "raises"
    return f"So what the memory holds {words} it by {abs(gain):.1f} %."


def tables(result: Result) -> Iterator[Table]:
    """Every table that the result has figures for."""
    for split in ("test", "valid"):
        if split in result:
            yield _by_control(result, split)
    for caption, places, rows in by_place(result):
        cells = [
            [label, shown("accuracy", whole), *(shown("accuracy", value) for value in values)]
            for label, (whole, values) in rows.items()
        ]
        yield Table(caption, ("segments back", "all", *map(str, places)), cells)
    rows = tested(result)[1]
    if all("by_segment" in row for row in rows.values()):
        yield _by_segment(rows)
    if replies := result.get("replies"):
        names = [name for name, value in replies.items() if isinstance(value, int | float)]
        yield Table(
            "Scores of the generated replies",
            ("", *(name.replace("_", " ") for name in names)),
            [["replies", *(f"{replies[name]:.4g}" for name in names)]],
        )
    if splits := result.get("splits"):
        first = next(iter(splits.values())).items()
        names = [name for name, value in first if type(value) is int]
        rows = [
            [split, *(f"{one.get(name, 0):,}" for name in names)] for split, one in splits.items()
        ]
        header = ("", *(name.replace("_", " ") for name in names))
        yield Table(f"The data: {result.get('corpus', '')}", header, rows)


def _by_control(result: Result, split: str) -> Table:
    """A row for each control and baseline, a column for each figure."""
    rows = result[split]
    names = [name for name in FIGURES if any(name in row for row in rows.values())]
    cells = [
        [label, *(shown(name, row.get(name)) for name in names)] for label, row in rows.items()
    ]
    if split == "test":
        for label, value in baselines(result).items():
            known = {_of_baselines(result): value}
            cells.append([label, *(shown(name, known.get(name)) for name in names)])
    where = {"test": "Test data", "valid": "Validation data"}[split]
    return Table(where, ("", *(FIGURES[name][0] for name in names)), cells)


def _of_baselines(result: Result) -> str:
    """The figure that baselines have: of facts that are asked for, whole answers."""
    facts = result["settings"].get("task", {}).get("kind") == "fact"
    return "keys" if facts else "accuracy"


def by_place(result: Result) -> Iterator[tuple[str, Sequence[int], Accuracies]]:
    """(what is right, places, label → (over all, at each place)) of questions about the past."""
    rows = tested(result)[1]
    for places, place in (("ages", "age"), ("distances", "distance")):
        for name in ("accuracy", "keys"):
            if not all(f"{name}_by_{place}" in row for row in rows.values()):
                continue
            found = {label: (row[name], row[f"{name}_by_{place}"]) for label, row in rows.items()}
            if name == _of_baselines(result):
                values = result.get(f"baselines_by_{place}", {})
                every = baselines(result).items()
                found |= {label: (mean, values.get(label, ())) for label, mean in every}
            caption = f"{FIGURES[name][0].capitalize()} by {place} in segments"
            yield caption, rows[TRAINED][places], found


def _by_segment(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    first = rows[TRAINED]["by_segment"]["first"]
    last = [*(start - 1 for start in first[1:]), None]
    ranges = [
        f"{start}+" if end is None else f"{start}–{end}" if end > start else f"{start}"
        for start, end in zip(first, last, strict=True)
    ]
    cells = [
        [label, *(shown("perplexity", math.exp(loss)) for loss in row["by_segment"]["loss"])]
        for label, row in rows.items()
    ]
    return Table("Perplexity by segment of the document", ("segment", *ranges), cells)
