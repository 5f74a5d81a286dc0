"""How much of each past segment a memory holds, computed from its operators.

    python -m experiments.analysis retention [--options]

R² with which the mean of a segment of white noise can be read k writes later: by the best linear
read-out, and by the best single Gaussian density, which is what a head can do. Writes settings and
figures (result.json), the full arrays (retention.npz) and a picture (retention.png).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.run import cli, folders, plots
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.retained import Retention, retention


@dataclasses.dataclass(frozen=True)
class RetentionConfig:
    """Which memories to compare, and on what."""

    num_basis: int = 512
    """N, basis functions."""
    num_samples: int = 512
    """M, locations at which a write reads the old signal."""
    widths: tuple[float, ...] = (0.01, 0.05)
    """Standard deviations of the basis functions."""
    ridge: float = 1.0
    """λ of the ridge regression."""
    taus: tuple[float, ...] = (0.75, 0.9)
    """τ of the memories with fixed contraction."""
    powers: tuple[float, ...] = (1.0,)
    """p of the memories with power contraction."""
    horizon: int = 64
    """Power contraction: τ_k of later writes than this many stays what it is."""
    locations: tuple[Literal["uniform", "quantile", "draw"], ...] = ("uniform",)
    """Where writes read the old signal: a uniform grid, or as a sticky memory of flat salience."""
    length: int = 128
    """L, vectors of a segment."""
    writes: int = 64
    """How many segments are written."""
    detail: int = 0
    """r; each segment is read in 2^r blocks, whose mean the table shows; 0 = whole segments."""
    ages: tuple[int, ...] = (0, 3, 7, 11, 15, 23, 31, 47, 63)
    """Ages in writes that the table shows, 0 = newest; those that are not reached are left out."""
    out: str = "runs/analysis/retention"
    """Folder of the result, the arrays and the picture."""


def contractions(
    taus: Sequence[float], powers: Sequence[float], horizon: int = LongTermConfig.horizon
) -> dict[str, dict[str, Any]]:
    """Fields of `LongTermConfig` that set each contraction, by the name that tables give it."""
    fixed = {f"τ = {tau:g}": {"tau": tau} for tau in taus}
    kind = {"contraction": "power", "horizon": horizon}
    return fixed | {f"p = {power:g}": {**kind, "power": power} for power in powers}


def memories(cfg: RetentionConfig) -> dict[str, LongTermConfig]:
    """The memories to compare, by the name of their contraction.

    Raises:
        ValueError: there is none, or one that cannot be.
    """
    fields = ("num_basis", "num_samples", "widths", "ridge")
    base = {name: getattr(cfg, name) for name in fields}
    made = {}
    for locations in cfg.locations:
        sticky = {} if locations == "uniform" else {"sticky": True, "locations": locations}
        for label, contraction in contractions(cfg.taus, cfg.powers, cfg.horizon).items():
            named = f"{label}, {locations}" if sticky else label
            made[named] = LongTermConfig(**base, **contraction, **sticky)
    if not made:
        raise ValueError("taus, powers, locations: found none, accepted: one memory at least")
    return made


def check(cfg: RetentionConfig) -> dict[str, LongTermConfig]:
    """Refuse at the door what would fail after the first memory; the memories to compare."""
    for name in ("length", "writes"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    if cfg.detail < 0 or cfg.length % 2**cfg.detail:
        accepted = "0 or more, 2^detail a divisor of length"
        raise ValueError(f"detail: found {cfg.detail} with {cfg.length=}, accepted: {accepted}")
    if any(age < 0 for age in cfg.ages):
        raise ValueError(f"ages: found {cfg.ages}, accepted: whole numbers ≥ 0")
    return memories(cfg)


def compute(
    cfg: RetentionConfig, made: dict[str, LongTermConfig]
) -> Iterator[tuple[str, Retention]]:
    """Each memory's retention in turn, with a bar that estimates the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writes", total=cfg.writes * len(made))
        for label, memory in made.items():
            yield (
                label,
                retention(
                    memory,
                    cfg.writes,
                    length=cfg.length,
                    detail=cfg.detail,
                    salience=np.ones(memory.bins) if memory.sticky else None,
                    progress=lambda written: bar.advance(task),
                ),
            )


def report(cfg: RetentionConfig, found: dict[str, Retention]) -> None:
    """Print R² by age: a linear and a density row for each contraction."""
    ages = [age for age in cfg.ages if age < cfg.writes]
    table = Table(
        title=f"R² of a segment's mean by its age, {cfg.writes} writes of {cfg.length}, "
        f"N = {cfg.num_basis}",
        title_justify="left",
    )
    for name in ("contraction", "read by"):
        table.add_column(name)
    for name in (*map(str, ages), "mean"):
        table.add_column(name, justify="right")
    for label, result in found.items():
        for read in ("linear", "density"):
            values = getattr(result, read).mean(axis=1)
            cells = [f"{value:.2f}" for value in values[ages]]
            table.add_row(label, read, *cells, f"{values.mean():.3f}")
    Console(width=max(80, 32 + 8 * len(ages))).print(table)


def save(folder: Path, cfg: RetentionConfig, found: dict[str, Retention], said: dict) -> None:
    """Write result.json, retention.npz and retention.png.

    The arrays of the npz are Retention's fields [contraction, writes, J], and `contractions`.
    """
    curves = {
        label: {read: getattr(result, read).mean(axis=1) for read in ("linear", "density")}
        for label, result in found.items()
    }
    plain = {
        label: {read: values.tolist() for read, values in curve.items()}
        for label, curve in curves.items()
    }
    arrays = {
        name: np.stack([getattr(result, name) for result in found.values()])
        for name in Retention._fields
    }
    np.savez(folder / "retention.npz", contractions=np.array(list(found)), **arrays)
    plots.retention(folder / "retention.png", f"{cfg.writes} writes of {cfg.length}", curves)
    # Last: a folder with it is finished.
    folders.write_json(
        folder / "result.json", {**said, "settings": folders.to_json(cfg), "retention": plain}
    )


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis retention [--options]`."""
    program = "python -m experiments.analysis retention"
    cfg = cli.options(program, __doc__, RetentionConfig(), argv)
    with cli.refusals():
        made = check(cfg)
        folder = Path(cfg.out)
        if folders.open_run(folder, cfg) is not None:
            return print(f"{folder} holds the finished result; --out for another one")
        found = dict(compute(cfg, made))
    report(cfg, found)
    save(folder, cfg, found, folders.provenance("analysis", "retention", ["retention", *argv]))
    print(f"{folder}/result.json, retention.npz, retention.png")
