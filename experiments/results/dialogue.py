"""The table of conversations about documents."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from experiments.run import tables
from experiments.run.tables import CONTROL, SOURCE, TRAINED, Columns, Result, Runs, tested

#: Headings of the scores of replies → the figures in a result.
SCORES = {
    "F1": "f1",
    "ROUGE-1": "rouge_1",
    "its recall": "rouge_1_recall",
    "ROUGE-L": "rouge_l",
    "its recall ": "rouge_l_recall",
    "METEOR": "meteor",
    "distinct-1": "distinct_1",
    "distinct-2": "distinct_2",
    "words": "words",
}


def _score(figure: str, runs: Runs) -> str:
    """A figure of the replies, over the runs that have it."""
    values = [run["replies"][figure] for run in runs if run["replies"][figure] is not None]
    return tables.spread(values, 1) if values else ""


COLUMNS: Columns = {
    "seeds": tables.count,
    "perplexity, valid": tested(TRAINED, "perplexity", 2, split="valid"),
    "test": tested(TRAINED, "perplexity", 2),
    "memory emptied": tested(CONTROL, "perplexity", 2),
    "another document": tested("another document", "perplexity", 2),
    **{column: partial(_score, figure) for column, figure in SCORES.items()},
    "updates": tables.updates,
}


def given_table(results: list[Result]) -> str:
    """Pretrained models by their chat template, each with what it was given.

    The baseline is the model that reads the document through its window alone. A gain over it is in
    hundredths of a nat a token, with its standard error over conversations.
    """
    plain = [one["test"][TRAINED]["by_conversation"] for one in results if _plain(one)]
    baseline = plain[0] if plain else {}
    rows = []
    for result in results:
        for number, (label, test) in enumerate(result["test"].items()):
            itself = not plain or test["by_conversation"] is baseline
            gain = "" if itself else _gain(baseline, test)
            scores = [_score(figure, [result]) for figure in _BRIEF.values()]
            scores = scores if not number else [""] * len(scores)
            figures = [f"{test['perplexity']:.2f}", gain, *scores]
            rows.append([_told(result), label, *figures, tables.source([result])])
    header = ("given", "", "perplexity", "gain", *_BRIEF, SOURCE)
    return tables.markdown(header, rows)


_BRIEF = {"F1": "f1", "ROUGE-L": "rouge_l", "METEOR": "meteor"}


def _gain(baseline: dict[str, list[float]], test: Mapping[str, Any]) -> str:
    """How much better a model is than the baseline on the same conversations."""
    mine = test["by_conversation"]
    nats, tokens = (np.array(baseline[name]) for name in ("nats", "tokens"))
    if tokens.tolist() != mine["tokens"]:
        return ""
    saved = nats - np.array(mine["nats"])
    gain = saved.sum() / tokens.sum()
    # Of a ratio of sums: the tokens of a conversation are as random as what is saved.
    count = len(tokens)
    error = np.sqrt(((saved - gain * tokens) ** 2).sum() * count / max(count - 1, 1)) / tokens.sum()
    return f"{100 * gain:.1f} ± {100 * error:.1f}"


def _told(result: Result) -> str:
    given = result["settings"]
    parts = ["no document"] if given.get("document") == "none" else ["the document"]
    if given.get("window"):
        parts.append(f"a window of {given['window']}")
    if given.get("cells"):
        kept = {"attended": "kept by attention", "newest": "a queue"}
        parts.append(f"{given['cells']} cells, {kept.get(given['cells_kept'], 'averaged')}")
    if given.get("memory"):
        parts.append("a memory that was trained on novels")
    return ", ".join(parts)


def _plain(result: Result) -> bool:
    """Whether a model reads the document, and has no memory but its window."""
    given = result["settings"]
    return given["document"] == "whole" and not (given["cells"] or given["memory"])


def dialogue_table(results: list[Result]) -> str:
    """Conversations by corpus: a row for each way to read the document."""
    columns = {
        "corpus": lambda runs: runs[0]["corpus"],
        "model": lambda runs: runs[0]["preset"],
        **COLUMNS,
        SOURCE: tables.source,
    }
    return tables.table(columns, tables.groups(results))
