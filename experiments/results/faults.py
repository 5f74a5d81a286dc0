"""The table of faults: what was lost, and how it was told (`experiments.faults`)."""

from collections.abc import Mapping
from typing import Any

from experiments.run import tables
from experiments.run.tables import SOURCE, Result

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
