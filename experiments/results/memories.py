"""Tables of every memory on one task (`experiments.run.memories`)."""

from experiments.run import probes, tables
from experiments.run.tables import CONTROL, FOREIGN, SOURCE, TRAINED, Columns, Result, Runs, tested


def _k(runs: Runs) -> str:
    return str(runs[0]["settings"]["model"]["memory_gradient"])


def _functions(runs: Runs) -> str:
    memory = runs[0]["settings"]["model"]["long_term"]
    return "" if memory is None else str(memory["num_basis"])


def cells(runs: Runs) -> str:
    """Whether a read by content sees cells of one length; "" where nothing is read by content."""
    memory = runs[0]["settings"]["model"]["long_term"] or {}
    if not (memory.get("content_heads") or memory.get("density") == "gibbs"):
        return ""
    return "unit" if memory.get("unit_cells") else "as written"


#: experiment → (the setting that sizes its task, header, columns of its figures).
_TASKS: dict[str, tuple[str, str, Columns]] = {
    "sorting": (
        "length",
        "tokens",
        {
            "accuracy": tested(TRAINED, "accuracy"),
            "emptied": tested(CONTROL, "accuracy"),
            "foreign": tested(FOREIGN, "accuracy"),
            "loss": tested(TRAINED, "loss"),
        },
    ),
    "recall": ("num_keys", "keys", probes.columns("ages", "accuracy_by_age")),
    "passkey": ("distances", "segments", probes.columns("distances", "accuracy_by_distance")),
    "questions": ("people", "people", probes.columns("ages", "accuracy_by_age")),
}


def _size(run: Result, name: str) -> int:
    found = run["settings"].get(name, run["settings"].get("task", {}).get(name))
    return max(found) if isinstance(found, list) else found


def memories_table(experiment: str, results: list[Result]) -> str:
    """Memories on the task of an experiment: smaller tasks first, then by name."""
    name, header, figures = _TASKS[experiment]
    kept = [tables.as_run(result) for result in results if result["experiment"] == experiment]
    columns: Columns = {
        "memory": lambda runs: runs[0]["preset"],
        header: lambda runs: f"{_size(runs[0], name):,}",
        "window": lambda runs: f"{runs[0]['settings']['model']['mem_len']:,}",
        "N": _functions,
        "k": _k,
        "cells": cells,
        "seeds": tables.count,
        **{title: cell for title, cell in figures.items() if title != "seeds"},
        "updates": tables.updates,
        "tokens/s": tables.rate,
        SOURCE: tables.source,
    }
    groups = sorted(tables.groups(kept), key=lambda runs: (_size(runs[0], name), *_order(runs[0])))
    return tables.table(columns, groups)


def _order(run: Result) -> tuple[int, str]:
    return run["settings"]["model"]["memory_gradient"], run["preset"]
