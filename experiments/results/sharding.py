"""The tables of many devices: weak scaling by counts, and agreement (`experiments.sharding`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.run import tables
from experiments.run.tables import SOURCE, Result


def scaling_table(results: list[Result]) -> str:
    """A row for each preset and hardware; of each number of devices the share that sums take."""
    numbers = results[0]["settings"]["devices"] if results else []
    counts = [f"{number:,} devices" for number in numbers]
    header = ["preset", "hardware", "tokens", "TFLOP", "MiB told", "GiB held", "computing"]
    rows = [[*_cells(row), tables.source([result])] for result in results for row in result["rows"]]
    return tables.markdown([*header, *counts, SOURCE], rows)


#: How far losses and memories on a mesh may be from those on one device, as a part of their size.
AGREEMENT = 1e-9


def apart(found: Mapping[str, Any]) -> float:
    """How far a mesh is from one device: the larger one of losses and memory; NaN if one is."""
    return float(np.max(np.array([found["loss"], found["memory"]], float)))  # JSON has null for NaN


def agree_table(results: list[Result]) -> str:
    """A row for each preset: of each mesh how far it is from one device."""
    rows = []
    for result in results:
        for row in result["rows"]:
            meshes = row["meshes"]
            undivided = "; ".join(
                f"{name}: {len(found['whole'])}" for name, found in meshes.items() if found["whole"]
            )
            figures = [f"{apart(found):.0e}" for found in meshes.values()]
            others = ", ".join(f"`{name}`" for name in row["others"])
            line = [f"`{row['preset']}`", others, *figures, undivided, tables.source([result])]
            rows.append(line)
    meshes = list(results[0]["rows"][0]["meshes"]) if results else []
    return tables.markdown(["preset", "the same when tiny", *meshes, "undivided", SOURCE], rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    held = f"{row['held'] / 2**30:.1f}" + ("" if row["fits"] else ", too many")
    counts = f"{row['operations'] / 1e12:,.1f}", f"{row['told'] / 2**20:,.0f}", held
    shares = [f"{share:.1%}" for share in row["share"].values()]
    computing = f"{1e3 * row['computing']:.3g} ms"
    return [row["preset"], row["hardware"], f"{row['tokens']:,}", *counts, computing, *shares]
