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

from experiments.analysis.retention import needs
from experiments.analysis.search import Point, climb
from experiments.run import room, tables
from inf_former_jax.fields import Basis, Checked, Count, Natural, Positive, Seed
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.regression import degrees_of_freedom, write_padding, write_times
from inf_former_jax.memory.retained import retention
from inf_former_jax.memory.write_operators import check_size, operator_mib
from inf_former_jax.require import require

#: Where to look. Widths are in units of a segment's share of the signal, M in units of N.
NARROW = tuple(float(f"{2 ** (e / 2):.2g}") for e in range(-6, 5))
RATIOS = (1.0, 2.0, 3.0, 5.0)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TAUS = (0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99)
POWERS = (2.0, 1.6, 1.3, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7)
SAMPLES = (0.5, 1.0, 2.0, 4.0, 8.0)

#: How many μ the search for the best density starts from. After the refinement its R² is within
#: .001 of that with 1,025 of them.
POINTS = 257


@dataclasses.dataclass(frozen=True)
class ChooseConfig(Checked):
    """What is to be remembered, with how much, and how long to search."""

    tokens: Count = 8192
    """How many past tokens are to be remembered."""
    segment: Count = 128
    """L, tokens of a segment."""
    num_basis: Basis = 512
    """N, basis functions."""
    min_var: Positive = 1e-6
    """σ²_min, the smallest variance of an attention density."""
    restarts: Natural = 2
    """Climbs from random points, after those from a fixed and a power contraction."""
    minutes: Positive = 5.0
    """Time after which the search ends with what it has found."""
    seed: Seed = 0
    """Of the random points and of the order in which neighbours are tried."""
    rows: Count = 5
    """How many of the best to print."""
    out: str = "runs/analysis/choose"
    """Folder of the result."""

    @property
    def writes(self) -> int:
        """Segments to remember."""
        return math.ceil(self.tokens / self.segment)


def axes_of(cfg: ChooseConfig) -> dict[str, tuple[Any, ...]]:
    """The grid that is searched: narrowest width and M in their units, the others as they are."""
    return {
        "narrow": NARROW,
        "ratio": RATIOS if cfg.num_basis % 2 == 0 else RATIOS[:1],
        "ridge": RIDGES,
        "contraction": (*(("fixed", tau) for tau in TAUS), *(("power", p) for p in POWERS)),
        "samples": SAMPLES,
    }


def memory_of(cfg: ChooseConfig, point: Point) -> LongTermConfig:
    """The memory of a point of the grid.

    Raises:
        ValueError: no memory can have these values, or its operators take too much room.
    """
    kind, value = point["contraction"]
    narrow = float(f"{point['narrow'] / cfg.writes:.2g}")
    wide = float(f"{narrow * point['ratio']:.2g}")
    memory = LongTermConfig(
        num_basis=cfg.num_basis,
        widths=(narrow,) if point["ratio"] == 1 else (narrow, wide),
        ridge=point["ridge"],
        num_samples=max(1, round(point["samples"] * cfg.num_basis)),
        min_var=cfg.min_var,
        contraction=kind,
        **({"tau": value} if kind == "fixed" else {"power": value, "horizon": cfg.writes}),
    )
    check_size(memory, cfg.segment)
    return memory


def measure(cfg: ChooseConfig, memory: LongTermConfig) -> dict[str, Any]:
    """What a memory keeps of the segments, and what it takes: the figures of a row."""
    kept = retention(memory, cfg.writes, length=cfg.segment, points=POINTS)
    times = write_times(memory.tau_of(cfg.writes), memory.num_samples, cfg.segment)
    zeros = write_padding(memory.num_samples, cfg.segment)
    return {
        "density": float(kept.density.mean()),
        "linear": float(kept.linear.mean()),
        "worst": float(kept.density.min()),
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

        start: Point = {"narrow": 1.0, "ratio": 1.0, "ridge": 1.0, "samples": 1.0}
        starts = [start | {"contraction": kind} for kind in (("power", 1.0), ("fixed", 0.95))]
        found = climb(axes_of(cfg), score, starts, restarts=cfg.restarts, seed=cfg.seed, stop=stop)
    accepted = "more segments, or a smaller num_basis"
    require(bool(found), "num_basis", f"{cfg.num_basis}: no memory fits", accepted)
    return [measured[memory_of(cfg, point)] for _, point in found[: cfg.rows]], len(found)


def report(rows: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> None:
    """Print the best rows, the published constants below them, and the code of each."""
    named = [(str(number), row) for number, row in enumerate(rows, start=1)]
    cells = [
        (
            name,
            *(f"{row[figure]:.3f}" for figure in ("density", "linear", "worst")),
            f"{row['degrees']:.0f}",
            f"{row['operator_mib']:.1f}",
        )
        for name, row in [*named, ("published", published)]
    ]
    header = ("", "density", "linear", "worst density", "degrees of freedom", "operators (MiB)")
    tables.show("mean R² over all segments", header, cells, 100)
    for name, row in named:
        print(f"{name}: {row['config']}")


def check(cfg: ChooseConfig) -> None:
    """Refuse at the door what there is no room for."""
    room.check(needs(cfg.num_basis, cfg.num_basis, cfg.segment, cfg.writes))


def compute(cfg: ChooseConfig, folder: Path) -> dict[str, Any]:
    """The best memories that are found, beside the published constants."""
    rows, tried = search(cfg)
    widths = LongTermConfig.widths if cfg.num_basis % 2 == 0 else LongTermConfig.widths[:1]
    sizes = {"num_basis": cfg.num_basis, "num_samples": cfg.num_basis, "min_var": cfg.min_var}
    published = measure(cfg, LongTermConfig(**sizes, widths=widths))
    report(rows, published)
    print(f"{tried} memories tried")
    return {"tried": tried, "best": rows, "published": published}
