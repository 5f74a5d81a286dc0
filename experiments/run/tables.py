"""What all of README's tables are made of: markdown, means over seeds, where a figure is from."""

import collections
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

CONTROL = "memory emptied before every segment"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation over seeds; a single figure stands alone."""
    values = list(values)
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def updates(runs: Sequence[Result]) -> str:
    """Updates of runs: one number, or from the least to the most."""
    return "–".join(f"{steps:,}" for steps in sorted({run["steps"] for run in runs}))


def source(runs: Sequence[Result]) -> str:
    """Device, commits and date of runs."""
    commits = sorted({run["commit"] for run in runs})
    return ", ".join([runs[0]["device"], *commits, runs[-1]["date"]])


def groups(results: Iterable[Result]) -> Iterable[list[Result]]:
    """Runs that differ in their seed only, together."""
    found = collections.defaultdict(list)
    for result in results:
        same = {k: v for k, v in result["settings"].items() if k not in ("seed", "out")}
        key = (result["preset"], result["device"], json.dumps(same, sort_keys=True))
        found[key].append(result)
    return found.values()
