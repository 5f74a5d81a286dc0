"""README's tables of conversations about documents."""

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
