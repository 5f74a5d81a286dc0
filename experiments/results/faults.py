"""The tables of faults: what was lost, how it was told, and what grew (`experiments.faults`)."""

from collections.abc import Mapping
from typing import Any

from experiments.run import tables
from experiments.run.tables import SOURCE, Result

#: Figure of a soak → its name, and its unit as a number and a word.
FIGURES = {
    "live": ("live arrays", 2**20, "MiB"),
    "process": ("memory of the process", 2**20, "MiB"),
    "step": ("a step", 1e-3, "ms"),
}

#: Updates of a row of a soak's training.
LOGGED = 20

SOAK_HEADER = ("", "samples", "mean", "growth an hour ± s.e.", "in all", "")

HEADER = ("fault", "processes", "tries", "updates lost", "how it was told", "exit status", "then")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the JSON as texts, in the order of HEADER."""
    statuses = ", ".join(map(str, row["statuses"]))
    figures = str(row["processes"]), str(row["tries"]), str(row["lost"])
    return [row["fault"], *figures, row["told"], statuses, row["then"]]


def faults_table(results: list[Result]) -> str:
    """All rows of all drills."""
    rows = [
        [*(cell.replace("|", r"\|") for cell in cells(row)), tables.source([result])]
        for result in results
        for row in result["rows"]
    ]
    return tables.markdown([*HEADER, SOURCE], rows)


def slopes(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a soak's slopes as texts, in the order of SOAK_HEADER.

    Args:
        found: part → figure → its slope, as `soak.json` has it.
    """
    rows = []
    for part, figures in found.items():
        for name, one in figures.items():
            words, unit, word = FIGURES[name]
            error = one["error"] or 0.0  # older results have null for a figure that never changes
            growth = f"{one['hourly'] / unit:+.4f} ± {error / unit:.4f}"
            mean, grown = f"{one['mean'] / unit:,.3f} {word}", f"{100 * one['grown']:+.2f} %"
            flat = "flat" if one["flat"] else "NOT FLAT"
            rows.append([f"{part}: {words}", str(one["samples"]), mean, growth, grown, flat])
    return rows


def soak_table(results: list[Result]) -> str:
    """All rows of all soaks, by how often they saved."""
    header = ("updates between checkpoints", "minutes", *SOAK_HEADER, "a checkpoint", SOURCE)
    results = sorted(results, key=lambda result: result["settings"]["checkpoint_every"])
    rows = []
    for result in results:
        settings, origin = result["settings"], tables.source([result])
        how = [f"{settings['checkpoint_every']:,}", f"{settings['minutes']:g}"]
        found = slopes(result["slopes"])
        kept = {f"training: {FIGURES['process'][0]}": _of_a_checkpoint(result)}
        rows += [[*how, *row, kept.get(row[0], ""), origin] for row in found]
    return tables.markdown(header, rows)


def _of_a_checkpoint(result: Mapping[str, Any]) -> str:
    """By how much the process grew with each checkpoint of the samples."""
    training, every = result["slopes"]["training"], result["settings"]["checkpoint_every"]
    grown = training["process"]["grown"] * training["process"]["mean"]
    checkpoints = training["step"]["samples"] * LOGGED / every
    return f"{grown / checkpoints / 1024:+.1f} KiB"
