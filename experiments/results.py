"""README's tables from results/: one JSON a run, one command, checked by CI.

    python -m experiments.results [--check]

A table stands in README.md between `<!-- results: NAME -->` and `<!-- end -->`. With --check
nothing is written, and the exit status is 1 if README is not what results/ say.
"""

import collections
import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

Result = Mapping[str, Any]


def load(experiment: str, root: Path = ROOT) -> list[Result]:
    """The results of an experiment, in order of file name."""
    files = sorted((root / "results" / experiment).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def _spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation over seeds; a single figure stands alone."""
    values = list(values)
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def sorting_table(results: list[Result]) -> str:
    """Accuracy by preset and length: as trained, memory emptied, and what needs no learning."""
    groups = collections.defaultdict(list)
    for result in results:
        same = {k: v for k, v in result["settings"].items() if k not in ("seed", "out")}
        key = (result["preset"], same["length"], result["device"])
        groups[key, json.dumps(same, sort_keys=True)].append(result)
    lines = [
        "| preset | tokens | seeds | accuracy | memory emptied | counts in layers × window "
        "| parameters | updates | tokens/s | minutes | device, commit, date |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_sorting_row(*key, runs) for (key, _), runs in groups.items()])


def _sorting_row(preset: str, length: int, device: str, runs: list[Result]) -> str:
    emptied = "memory emptied before every segment"
    trained = _spread(run["test"]["as trained"]["accuracy"] for run in runs)
    without = [run["test"][emptied]["accuracy"] for run in runs if emptied in run["test"]]
    window = next(key for key in runs[0]["baselines"] if "layers × window" in key)
    cells = [
        f"`{preset}`",
        f"{length:,}",
        str(len({run["settings"]["seed"] for run in runs})),
        trained,
        _spread(without) if without else "",
        _spread(run["baselines"][window] for run in runs),
        f"{runs[0]['parameters']:,}",
        "–".join(f"{steps:,}" for steps in sorted({run["steps"] for run in runs})),
        f"{statistics.median(run['tokens_per_second'] for run in runs):,.0f}",
        f"{statistics.median(run['seconds'] for run in runs) / 60:.1f}",
        ", ".join([device, *sorted({run["commit"] for run in runs}), runs[-1]["date"]]),
    ]
    return "| " + " | ".join(cells) + " |"


TABLES = {"sorting": sorting_table}


def render(text: str, root: Path = ROOT) -> str:
    """README's text with every table made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end -->)"
        made = table(load(name, root))
        text = re.sub(pattern, lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL)
    return text


def main(argv: list[str] | None = None) -> None:
    """Write README's tables, or with --check compare them."""
    argv = sys.argv[1:] if argv is None else argv
    if argv not in ([], ["--check"]):
        print(f"error: options: found {' '.join(argv)}, accepted: --check", file=sys.stderr)
        raise SystemExit(2)
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = render(old)
    if argv and new != old:
        print("README.md: tables differ from results/; run python -m experiments.results")
        raise SystemExit(1)
    if not argv:
        readme.write_text(new)


if __name__ == "__main__":
    main()
