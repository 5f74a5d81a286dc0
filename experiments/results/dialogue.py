"""The table of conversations about documents."""

from functools import partial

from experiments.dialogue.scores import COLUMNS
from experiments.run import tables
from experiments.run.tables import CONTROL, SOURCE, Result, Runs, tested


def _score(figure: str, runs: Runs) -> str:
    """A figure of the replies, over the runs that have it."""
    values = [run["replies"][figure] for run in runs if run["replies"][figure] is not None]
    return tables.spread(values, 1) if values else ""


_FIGURES = {
    "seeds": lambda runs: str(len(runs)),
    "perplexity, valid": tested("as trained", "perplexity", 2, split="valid"),
    "test": tested("as trained", "perplexity", 2),
    "memory emptied": tested(CONTROL, "perplexity", 2),
    "another document": tested("another document", "perplexity", 2),
    **{column: partial(_score, figure) for column, figure in COLUMNS.items()},
    "updates": tables.updates,
}
DIALOGUE = ("model", *_FIGURES)


def dialogue_row(model: str, runs: Runs) -> list[str]:
    """Cells by DIALOGUE of one model; they are empty if nothing has run."""
    if not runs:
        return [model, "0"] + [""] * (len(DIALOGUE) - 2)
    return [model, *(cell(runs) for cell in _FIGURES.values())]


def dialogue_table(results: list[Result]) -> str:
    """Conversations by corpus: a row for each way to read the document."""
    rows = (
        [runs[0]["corpus"], *dialogue_row(runs[0]["preset"], runs), tables.source(runs)]
        for runs in tables.groups(results)
    )
    return tables.markdown(("corpus", *DIALOGUE, SOURCE), rows)
