"""Tables of sorting: one preset, every model, and models with a gradient through the memory."""

import statistics

from experiments.results import memories
from experiments.run import tables
from experiments.run.tables import (
    CONTROL,
    FOREIGN,
    SOURCE,
    TRAINED,
    Columns,
    Result,
    Runs,
    tested,
)


def _length(runs: Runs) -> int:
    return runs[0]["settings"]["length"]


def _counted(runs: Runs) -> str:
    """Accuracy of exact counts over all that the layers' windows reach."""
    window = next(key for key in runs[0]["baselines"] if "layers × window" in key)
    return tables.spread(run["baselines"][window] for run in runs)


def _minutes(runs: Runs) -> str:
    return f"{statistics.median(run['seconds'] for run in runs) / 60:.1f}"


def _seconds_per_update(runs: Runs) -> str:
    tokens = runs[0]["settings"]["batch_size"] * (_length(runs) + 20)
    return f"{tokens / statistics.median(run['tokens_per_second'] for run in runs):.3f}"


_SORTING: Columns = {
    "preset": lambda runs: f"`{runs[0]['preset']}`",
    "tokens": lambda runs: f"{_length(runs):,}",
    "seeds": lambda runs: str(len({run["settings"]["seed"] for run in runs})),
    "accuracy": tested(TRAINED, "accuracy"),
    "memory emptied": tested(CONTROL, "accuracy"),
    "counts in layers × window": _counted,
    "parameters": tables.parameters,
    "updates": tables.updates,
    "tokens/s": tables.rate,
    "minutes": _minutes,
    SOURCE: tables.source,
}

COMPARISON: Columns = {
    "seeds": tables.count,
    "accuracy": tested(TRAINED, "accuracy"),
    "emptied": tested(CONTROL, "accuracy"),
    "loss": tested(TRAINED, "loss"),
    "updates": tables.updates,
    "tokens/s": tables.rate,
    "s/update": _seconds_per_update,
    "parameters": tables.parameters,
    "memory of a row": tables.memory_of_a_row,
}
_COMPARISON: Columns = {
    "model": lambda runs: runs[0]["preset"],
    "tokens": _SORTING["tokens"],
    **COMPARISON,
    SOURCE: tables.source,
}


def sorting_table(results: list[Result]) -> str:
    """Accuracy by preset and length: as trained, memory emptied, and what needs no learning."""
    return tables.table(_SORTING, tables.groups(results))


def comparison_table(results: list[Result]) -> str:
    """Every model on the same data, shorter sequences first."""
    return tables.table(_COMPARISON, sorted(tables.groups(results), key=_length))


def gradient_table(results: list[Result]) -> str:
    """Models whose gradient goes k segments back through the memory, k in the first column."""
    segments: Columns = {"k": lambda runs: str(runs[0]["settings"]["model"]["memory_gradient"])}
    return tables.table({**segments, **_COMPARISON}, tables.groups(results))


def _lengths(runs: Runs) -> tuple[int, int]:
    """(tokens that a sorter was trained on, tokens that it is tested on)."""
    trained = runs[0].get("trained", runs[0]["settings"])["length"]
    return trained, runs[0].get("length", trained)


_AT_LENGTHS: Columns = {
    "preset": lambda runs: f"`{runs[0]['preset']}`",
    "cells": lambda runs: memories.cells([tables.as_run(run) for run in runs]),
    "trained on": lambda runs: f"{_lengths(runs)[0]:,} tokens",
    "updates": lambda runs: tables.updates([tables.as_run(run) for run in runs]),
    "tested on": lambda runs: f"{_lengths(runs)[1]:,}",
    "seeds": tables.count,
    "accuracy": tested(TRAINED, "accuracy"),
    "emptied": tested(CONTROL, "accuracy"),
    "foreign": tested(FOREIGN, "accuracy"),
    "counts in layers × window": _counted,
    SOURCE: tables.source,
}


def lengths_table(results: list[Result]) -> str:
    """Sorters on the length of their training, and on others without further training."""
    return tables.table(_AT_LENGTHS, sorted(tables.groups(results), key=_lengths))
