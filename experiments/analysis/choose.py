"""Constants of a memory that is to remember so many tokens in so many basis functions.

    python -m experiments.analysis choose --tokens 8192 --segment 128 --num-basis 512

Searches widths, ridge λ, contraction and M for the largest mean R² that single attention densities
reach over all segments (`memory.retained.retention`), prints the best with the code to paste, and
writes result.json to `runs/analysis/choose`. The same seed gives the same search, unless time cuts
it.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.analysis.search import Point, climb
from experiments.run import cli, folders
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.regression import degrees_of_freedom, write_padding, write_times
from inf_former_jax.memory.retained import retention
from inf_former_jax.memory.write_operators import check_size, operator_mib

#: Where to look. Widths are in units of a segment's share of the signal, M in units of N.
NARROW = tuple(float(f"{2 ** (e / 2):.2g}") for e in range(-6, 5))
RATIOS = (1.0, 2.0, 3.0, 5.0)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TAUS = (0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99)
POWERS = (2.0, 1.6, 1.3, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7)
SAMPLES = (0.5, 1.0, 2.0, 4.0, 8.0)

#: μ that a density is looked for at; with the refinement the R² of 1,025 to .001.
POINTS = 257


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
    """What is to be remembered, with how much, and how long to search."""

    tokens: int = 8192
    """How many past tokens are to be remembered."""
    segment: int = 128
    """L, tokens of a segment."""
    num_basis: int = 512
    """N, basis functions."""
    min_var: float = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    restarts: int = 2
    """Climbs from random points, after those from a fixed and a power contraction."""
    minutes: float = 5.0
    """Time after which the search ends with what it has found."""
    seed: int = 0
    """Of the random points and of the order in which neighbours are tried."""
    rows: int = 5
    """How many of the best to print."""
    out: str = "runs/analysis/choose"
    """Folder of the result."""

    @property
    def writes(self) -> int:
        """Segments to remember."""
        return math.ceil(self.tokens / self.segment)


def axes_of(cfg: ChooseConfig) -> dict[str, tuple[Any, ...]]:
    """The grid that is searched: narrowest width and M in their units, the others as they are."""
    contractions = [("fixed", tau) for tau in TAUS] + [("power", power) for power in POWERS]
    ratios = tuple(ratio for ratio in RATIOS if ratio == 1 or cfg.num_basis % 2 == 0)
    return {"narrow": NARROW, "ratio": ratios, "ridge": RIDGES,
            "contraction": tuple(contractions), "samples": SAMPLES}  # fmt: skip


def memory_of(cfg: ChooseConfig, point: Point) -> LongTermConfig:
    """The memory of a point of the grid.

    Raises:
        ValueError: no memory can have these values, or its operators take too much room.
    """
    kind, value = point["contraction"]
    narrow = float(f"{point['narrow'] / cfg.writes:.2g}")
    wide = float(f"{narrow * point['ratio']:.2g}")
    made = LongTermConfig(
        num_basis=cfg.num_basis,
        widths=(narrow,) if point["ratio"] == 1 else (narrow, wide),
        ridge=point["ridge"],
        num_samples=max(1, round(point["samples"] * cfg.num_basis)),
        min_var=cfg.min_var,
        contraction=kind,
        **({"tau": value} if kind == "fixed" else {"power": value, "horizon": cfg.writes}),
    )
    check_size(made, cfg.segment)
    return made


def measure(cfg: ChooseConfig, memory: LongTermConfig) -> dict[str, Any]:
    """What a memory keeps of the segments, and what it takes: the figures of a row."""
    held = retention(memory, cfg.writes, length=cfg.segment, points=POINTS)
    times = write_times(memory.tau_of(cfg.writes), memory.num_samples, cfg.segment)
    zeros = write_padding(memory.num_samples, cfg.segment)
    return {
        "density": float(held.density.mean()),
        "linear": float(held.linear.mean()),
        "worst": float(held.density.min()),
        "degrees": degrees_of_freedom(memory.basis, np.concatenate(times), memory.ridge, zeros),
        "operator_mib": operator_mib(memory, cfg.segment),
        "config": code(memory),
    }


def code(memory: LongTermConfig) -> str:
    """The memory as Python to paste: what was searched, and what else is not the default."""
    kind = ("contraction", *(("tau",) if memory.contraction == "fixed" else ("power", "horizon")))
    searched = ("num_basis", "widths", "ridge", "num_samples", *kind)
    fields = [
        f"{field.name}={getattr(memory, field.name)!r}"
        for field in dataclasses.fields(memory)
        if field.name in searched or getattr(memory, field.name) != field.default
    ]
    return f"LongTermConfig({', '.join(fields)})"


def search(cfg: ChooseConfig) -> tuple[list[dict[str, Any]], int]:
    """The best memories, the best first, and how many were tried; with a line of progress.

    Raises:
        ValueError: not one memory of the grid is possible.
    """
    begin, best = time.monotonic(), -math.inf
    measured: dict[LongTermConfig, dict[str, Any]] = {}
    text = "{task.completed} tried, best mean R² {task.fields[best]:.3f}, ends at"
    columns = (TextColumn(text + " {task.fields[cap]:g} minutes:"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, best=0.0, cap=cfg.minutes)

        def score(point):
            nonlocal best
            try:
                memory = memory_of(cfg, point)
                measured[memory] = measure(cfg, memory)
            except ValueError:  # no such memory, or too near singular for float64
                return -math.inf
            best = max(best, measured[memory]["density"])
            bar.update(task, advance=1, best=best)
            return measured[memory]["density"]

        def stop():
            return time.monotonic() - begin > 60 * cfg.minutes

        start = {"narrow": 1.0, "ratio": 1.0, "ridge": 1.0, "samples": 1.0}
        starts = [
            {**start, "contraction": ("power", 1.0)},
            {**start, "contraction": ("fixed", 0.95)},
        ]
        found = climb(axes_of(cfg), score, starts, restarts=cfg.restarts, seed=cfg.seed, stop=stop)
    if not found:
        accepted = "more segments, or a smaller num_basis"
        raise ValueError(f"num_basis: found {cfg.num_basis}: no memory fits, accepted: {accepted}")
    return [measured[memory_of(cfg, point)] for _, point in found[: cfg.rows]], len(found)


def report(rows: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> None:
    """Print the best rows, the published constants below them, and the code of each."""
    table = Table(title="mean R² over all segments", title_justify="left")
    columns = ("", "density", "linear", "worst density", "degrees of freedom", "operators (MiB)")
    for name in columns:
        table.add_column(name, justify="right")
    named = [(str(number), row) for number, row in enumerate(rows, start=1)]
    for name, row in [*named, ("published", published)]:
        table.add_row(
            name, f"{row['density']:.3f}", f"{row['linear']:.3f}", f"{row['worst']:.3f}",
            f"{row['degrees']:.0f}", f"{row['operator_mib']:.1f}",
        )  # fmt: skip
    Console(width=100).print(table)
    for name, row in named:
        print(f"{name}: {row['config']}")


def check(cfg: ChooseConfig) -> None:
    """Refuse at the door what cannot be searched."""
    for name in ("tokens", "segment", "num_basis", "rows"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    for name in ("min_var", "minutes"):
        if not getattr(cfg, name) > 0:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: a number > 0")
    for name in ("restarts", "seed"):
        if getattr(cfg, name) < 0:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 0 or more")


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis choose [--options]`."""
    program = "python -m experiments.analysis choose"
    cfg = cli.options(program, __doc__, ChooseConfig(), argv)
    folder = Path(cfg.out)
    with cli.refusals():
        check(cfg)
        if folders.open_run(folder, cfg) is not None:
            return print(f"{folder} holds the finished result; --out for another one")
        rows, tried = search(cfg)
        widths = LongTermConfig.widths if cfg.num_basis % 2 == 0 else LongTermConfig.widths[:1]
        sizes = {"num_basis": cfg.num_basis, "num_samples": cfg.num_basis, "min_var": cfg.min_var}
        published = measure(cfg, LongTermConfig(**sizes, widths=widths))
    report(rows, published)
    said = folders.provenance("analysis", "choose", ["choose", *argv])
    content = {
        "settings": folders.to_json(cfg),
        "tried": tried,
        "best": rows,
        "published": published,
    }
    folders.write_json(folder / "result.json", {**said, **content})
    print(f"{tried} memories tried, {folder}/result.json")
