"""README's tables of conversations about documents, of questions about them, and of recall."""

from collections.abc import Sequence
from typing import Any

from experiments.tables import CONTROL, Result, groups, markdown, source, spread, updates

#: Columns of the scores, and the figures that they hold.
_SCORES = {"F1": "f1", "ROUGE-1": "rouge_1", "its recall": "rouge_1_recall",
           "ROUGE-L": "rouge_l", "its recall ": "rouge_l_recall", "METEOR": "meteor",
           "distinct-1": "distinct_1", "distinct-2": "distinct_2", "words": "words"}  # fmt: skip

DIALOGUE = (
    "model",
    "seeds",
    "perplexity, valid",
    "test",
    "memory emptied",
    "another document",
    *_SCORES,
    "updates",
)


def dialogue_row(model: str, runs: Sequence[Result]) -> list[str]:
    """Cells by DIALOGUE of one model: mean and spread over its runs."""
    if not runs:
        return [model, "0"] + [""] * (len(DIALOGUE) - 2)

    def of(found: list[Any], digits: int = 2) -> str:
        found = [value for value in found if value is not None]
        return spread(found, digits) if found else ""

    def perplexities(split, label):
        return of([run[split][label]["perplexity"] for run in runs if label in run[split]])

    return [
        model,
        str(len(runs)),
        perplexities("valid", "as trained"),
        perplexities("test", "as trained"),
        perplexities("test", CONTROL),
        perplexities("test", "another document"),
        *(of([run["replies"][figure] for run in runs], 1) for figure in _SCORES.values()),
        updates(runs),
    ]


def dialogue_table(results: list[Result]) -> str:
    """Conversations by corpus: a row for each way to read the document."""
    rows = [
        [runs[0]["corpus"], *dialogue_row(runs[0]["preset"], runs), source(runs)]
        for runs in groups(results)
    ]
    return markdown(("corpus", *DIALOGUE, "device, commit, date"), rows)


def by_age_table(results: list[Result]) -> str:
    """What is right of what was stated so many segments ago: recall, and questions about a text."""
    ages = sorted({age for one in results for row in one["test"].values() for age in row["ages"]})
    rows = []
    for result in results:
        model = result["settings"]["model"]
        name = result["preset"]
        if (model["long_term"] or {}).get("locations") == "draw":
            name += ", drawn"
        for label, row in result["test"].items():
            by = dict(zip(row["ages"], row["accuracy_by_age"], strict=True))
            cells = [f"{by[age]:.2f}" if by.get(age) is not None else "" for age in ages]
            whole = [f"{row['accuracy']:.3f}", *cells]
            if label == CONTROL:
                rows.append(["", "", label, "", *whole, ""])
            else:
                facts = [str(model["memory_gradient"]), label, f"{result['steps']:,}"]
                rows.append([name, *facts, *whole, source([result])])
        for label, value in result["baselines"].items():
            by = result.get("baselines_by_age", {}).get(label, [])
            of = dict(zip(next(iter(result["test"].values()))["ages"], by, strict=False))
            cells = [f"{of[age]:.2f}" if age in of else "" for age in ages]
            if result is results[-1]:
                rows.append(["", "", label, "", f"{value:.3f}", *cells, ""])
    header = ("model", "k", "", "updates", "all", *map(str, ages), "device, commit, date")
    return markdown(header, rows)
