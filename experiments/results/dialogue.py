"""README's tables of conversations about documents, of questions about them, and of recall."""

import collections
from collections.abc import Sequence
from typing import Any

from experiments.run.tables import CONTROL, Result, groups, markdown, source, spread, updates

#: Columns of the scores, and the figures that they hold.
SCORES = {"F1": "f1", "ROUGE-1": "rouge_1", "its recall": "rouge_1_recall",
           "ROUGE-L": "rouge_l", "its recall ": "rouge_l_recall", "METEOR": "meteor",
           "distinct-1": "distinct_1", "distinct-2": "distinct_2", "words": "words"}  # fmt: skip

DIALOGUE = (
    "model",
    "seeds",
    "perplexity, valid",
    "test",
    "memory emptied",
    "another document",
    *SCORES,
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
        *(of([run["replies"][figure] for run in runs], 1) for figure in SCORES.values()),
        updates(runs),
    ]


def dialogue_table(results: list[Result]) -> str:
    """Conversations by corpus: a row for each way to read the document."""
    rows = [
        [runs[0]["corpus"], *dialogue_row(runs[0]["preset"], runs), source(runs)]
        for runs in groups(results)
    ]
    return markdown(("corpus", *DIALOGUE, "device, commit, date"), rows)


#: What tells one size of a probe from another, of which each has some.
_SIZES = ("num_keys", "people", "sentences", "questions", "segments")


def by_age_table(results: list[Result]) -> str:
    """What is right of what was stated so many segments ago: recall, and questions about a text."""
    ages = sorted({age for one in results for row in one["test"].values() for age in row["ages"]})
    tasks = collections.defaultdict(list)
    for result in results:
        sizes = result["settings"]["task"]
        said = (f"{sizes[name]} {name.removeprefix('num_')}" for name in _SIZES if name in sizes)
        length = f"{result['settings']['model']['segment_len']} tokens each"
        tasks[", ".join([*said, length])].append(result)
    rows = []
    for task, of_task in tasks.items():
        for result in of_task:
            model = result["settings"]["model"]
            name = result["preset"]
            if (model["long_term"] or {}).get("locations") == "draw":
                name += ", drawn"
            facts = [task, name, str(model["memory_gradient"])]
            for label, row in result["test"].items():
                by = dict(zip(row["ages"], row["accuracy_by_age"], strict=True))
                said = [f"{result['steps']:,}", f"{row['accuracy']:.3f}", *_by(ages, by)]
                rows.append([*facts, label, *said, source([result])])
        first = next(iter(of_task[0]["test"].values()))["ages"]
        for label, value in of_task[0]["baselines"].items():
            by = of_task[0].get("baselines_by_age", {}).get(label, [])
            cells = _by(ages, dict(zip(first, by, strict=False)))
            rows.append([task, "", "", label, "", f"{value:.3f}", *cells, ""])
    header = ("task", "model", "k", "", "updates", "all", *map(str, ages), "device, commit, date")
    return markdown(header, rows)


def _by(ages, values):
    return ["" if values.get(age) is None else f"{values[age]:.2f}" for age in ages]
