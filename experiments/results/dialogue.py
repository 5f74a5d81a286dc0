"""The table of conversations about documents."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from experiments.results.probes import remembering
from experiments.run import tables
from experiments.run.gains import gain
from experiments.run.tables import (
    CONTROL,
    SOURCE,
    TRAINED,
    Columns,
    Result,
    Runs,
    tested,
    trained_by,
)

ANOTHER = "another document"
"""Label of the control in which every conversation follows a document that it is not about."""

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
    """A figure of the replies, over the runs that have it.

    Of several runs the spread stands beside it, of one the standard error over its replies. The
    scores of a single reply say nothing of a model, and are not shown.
    """
    scored = [
        run["replies"]
        for run in runs
        if run["replies"][figure] is not None and run["replies"].get("count") != 1
    ]
    if len(scored) == 1 and figure in scored[0].get("errors", {}):  # older results have none
        return f"{scored[0][figure]:.1f} ± {scored[0]['errors'][figure]:.1f}"
    return tables.spread([one[figure] for one in scored], 1) if scored else ""


COLUMNS: Columns = {
    "seeds": tables.count,
    "perplexity, valid": tested(TRAINED, "perplexity", 2, split="valid"),
    "test": tested(TRAINED, "perplexity", 2),
    "memory emptied": tested(CONTROL, "perplexity", 2),
    "another document": tested(ANOTHER, "perplexity", 2),
    **{column: partial(_score, figure) for column, figure in SCORES.items()},
    "updates": tables.updates,
}


def given_table(results: list[Result]) -> str:
    """Pretrained models by their chat template, a row for what each was given, or trained for it.

    Gains are in hundredths of a nat a token, with their standard errors over conversations: over
    the model that reads the document through the shortest window alone, over the same memory when
    it was trained emptied, over the model itself with its memory emptied, and after another
    document.
    """
    plain = [one for one in results if _plain(one)]
    short = min(plain, key=lambda one: one["settings"]["window"], default=None)
    window = None if short is None else short["test"][TRAINED]
    emptied = {_alike(one): one["test"][TRAINED] for one in results if _trained_emptied(one)}
    rows = []
    for result in results:
        test = result["test"]
        others = window, emptied.get(_alike(result)), test.get(CONTROL), test.get(ANOTHER)
        gains = [_gain(other, test[TRAINED]) for other in others]
        scores = [_score(figure, [result]) for figure in _BRIEF.values()]
        perplexity = f"{test[TRAINED]['perplexity']:.2f}"
        rows.append([_told(result), perplexity, *gains, *scores, tables.source([result])])
    header = ("given", "perplexity", "gain over the shortest window", "over trained emptied")
    header = (*header, "over itself emptied", "over another document", *_BRIEF, SOURCE)
    return tables.markdown(header, rows)


_BRIEF = {"F1": "f1", "ROUGE-L": "rouge_l", "METEOR": "meteor"}


def _gain(other: Mapping[str, Any] | None, test: Mapping[str, Any]) -> str:
    """How much better the figures of a test are than others of the same conversations."""
    if other is None or other is test:
        return ""
    theirs, mine = other["by_conversation"], test["by_conversation"]
    nats, tokens = (np.array(theirs[name]) for name in ("nats", "tokens"))
    if tokens.tolist() != mine["tokens"]:
        return ""
    one = gain(np.array(mine["nats"]), nats, tokens)
    return f"{100 * one.nats:.1f} ± {100 * one.error:.1f}"


def _run_of(result: Result) -> dict[str, Any] | None:
    """The config of the run that was tested, of any experiment; None of a published model."""
    return trained_by(result, "model")


def _trained_emptied(result: Result) -> bool:
    run = _run_of(result)
    return run is not None and run["objective"]["empty_memory"]


def _alike(result: Result) -> str:
    """What a run and the one that was trained emptied have in common, and no other has."""
    run = _run_of(result)
    alike = ("model", "optim", "layout", "init_from", "seed", "batch_size")
    return "" if run is None else json.dumps([run.get(name) for name in alike], sort_keys=True)


def _told(result: Result) -> str:
    run, given = _run_of(result), result["settings"]
    if run is not None:
        layout = run.get("layout", given)  # a run of another experiment is told what it reads
        parts = [_document(layout["document"]), *remembering(run["model"])[1:]]
        trained = "trained emptied" if _trained_emptied(result) else "trained"
        parts.append(f"{trained} by {run['optim']['steps']} updates")
        return ", ".join([*parts, f"seed {run['seed']}"])
    parts = [_document(given["document"])]
    if given.get("window"):
        parts.append(f"a window of {given['window']}")
    if given.get("cells"):
        kept = {"attended": "kept by attention", "newest": "a queue"}
        parts.append(f"{given['cells']} cells, {kept.get(given['cells_kept'], 'averaged')}")
    if given.get("memory"):
        parts.append("a memory that was trained on novels")
    return ", ".join(parts)


def _document(layout: str) -> str:
    return "no document" if layout == "none" else "the document"


def _plain(result: Result) -> bool:
    """Whether a model reads the document, and has no memory but its window."""
    if _run_of(result) is not None:
        return False
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
