"""The table of weak scaling by counts (`experiments.sharding scaling`)."""

from collections.abc import Mapping
from typing import Any

from experiments.run import tables
from experiments.run.tables import SOURCE, Result


def scaling_table(results: list[Result]) -> str:
    """A row for each preset and hardware; of each number of devices the share that sums take."""
    numbers = results[0]["settings"]["devices"] if results else []
    counts = [f"{number:,} devices" for number in numbers]
    header = ["preset", "hardware", "tokens", "TFLOP", "MiB told", "GiB held", "computing"]
    rows = [[*_cells(row), tables.source([result])] for result in results for row in result["rows"]]
    return tables.markdown([*header, *counts, SOURCE], rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    held = f"{row['held'] / 2**30:.1f}" + ("" if row["fits"] else ", too many")
    counts = f"{row['operations'] / 1e12:,.1f}", f"{row['told'] / 2**20:,.0f}", held
    shares = [f"{share:.1%}" for share in row["share"].values()]
    computing = f"{1e3 * row['computing']:.3g} ms"
    return [row["preset"], row["hardware"], f"{row['tokens']:,}", *counts, computing, *shares]
