"""The table of conversations about documents."""

from functools import partial

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


def dialogue_table(results: list[Result]) -> str:
    """Conversations by corpus: a row for each way to read the document."""
    columns = {
        "corpus": lambda runs: runs[0]["corpus"],
        "model": lambda runs: runs[0]["preset"],
        **COLUMNS,
        SOURCE: tables.source,
    }
    return tables.table(columns, tables.groups(results))
