"""How much of each past segment a memory holds, computed from its operators.

    python -m experiments.analysis retention [--options]

R² with which the mean of a segment of white noise can be read k writes later: by the best linear
read-out, and by the best single Gaussian density, which is what a head can do. Writes settings and
figures (result.json), the full arrays (retention.npz) and a picture (retention.png).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from experiments.analysis import plots
from experiments.run import room, tables
from inf_former_jax.fields import (
    Basis,
    Checked,
    Count,
    Fraction,
    Natural,
    NonEmpty,
    Positive,
    Range,
)
from inf_former_jax.files import writing
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.retained import Retention, retention
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class RetentionConfig(Checked):
    """Which memories to compare, and on what."""

    num_basis: Basis = 512
    """N, basis functions."""
    num_samples: Count = 512
    """M, locations at which a write reads the old signal."""
    widths: NonEmpty[Positive] = (0.01, 0.05)
    """Standard deviations of the basis functions."""
    ridge: Positive = 1.0
    """λ of the ridge regression."""
    fits: NonEmpty[Literal["points", "intervals"]] = ("points",)
    """points: written by ridge regression, as published. intervals: on N equal cells (SPEC §9)."""
    taus: tuple[Fraction, ...] = (0.75, 0.9)
    """τ of the memories with fixed contraction."""
    powers: tuple[Positive, ...] = (1.0,)
    """p of the memories with power contraction."""
    doubling: bool = False
    """Also intervals that are contracted in pairs of cells; N is a power of two then."""
    horizon: Count = 64
    """Power contraction: τ_k of later writes than this many stays what it is."""
    locations: tuple[Literal["uniform", "quantile", "draw"], ...] = ("uniform",)
    """Where writes read the old signal: a uniform grid, or as a sticky memory of flat salience."""
    length: Count = 128
    """L, vectors of a segment."""
    writes: Count = 64
    """How many segments are written."""
    detail: Annotated[int, Range(0, 31)] = 0
    """r; each segment is read in 2^r blocks, whose mean the table shows; 0 = whole segments."""
    ages: tuple[Natural, ...] = (0, 3, 7, 11, 15, 23, 31, 47, 63)
    """Ages in writes that the table shows, 0 = newest; those that are not reached are left out."""
    out: str = "runs/analysis/retention"
    """Folder of the result, the arrays and the picture."""


def memories(cfg: RetentionConfig) -> dict[str, LongTermConfig]:
    """The memories to compare, by the name that tables give them.

    Raises:
        ValueError: there is none, or one that cannot be.
    """
    names = ("num_basis", "num_samples", "widths", "ridge")
    shared: dict[str, Any] = {name: getattr(cfg, name) for name in names}
    power = {"contraction": "power", "horizon": cfg.horizon}
    contractions: dict[str, dict[str, Any]] = {f"τ = {tau:g}": {"tau": tau} for tau in cfg.taus}
    contractions |= {f"p = {p:g}": {**power, "power": p} for p in cfg.powers}
    if cfg.doubling:
        contractions["doubling"] = {"contraction": "doubling"}
    found = {}
    for fit, locations in itertools.product(cfg.fits, cfg.locations):
        sticky = {} if locations == "uniform" else {"sticky": True, "locations": locations}
        for label, contraction in contractions.items():
            if label == "doubling" and (fit != "intervals" or sticky):
                continue  # which no other memory has
            given = {**shared, **contraction, **sticky}
            if fit == "intervals":
                ignored = {"widths", "ridge", "horizon"} | (set() if sticky else {"num_samples"})
                given = {name: value for name, value in given.items() if name not in ignored}
                given |= {"functions": "rectangular", "fit": "intervals"}
            names = (label, locations if sticky else "", fit if fit == "intervals" else "")
            found[", ".join(filter(None, names))] = LongTermConfig(**given)
    require(bool(found), "taus, powers, locations", "none", "one memory at least")
    return found


def check(cfg: RetentionConfig) -> None:
    """Refuse at the door what would fail after the first memory."""
    found, accepted = f"{cfg.detail} with length {cfg.length}", "2^detail a divisor of length"
    require(cfg.length % 2**cfg.detail == 0, "detail", found, accepted)
    room.check(needs(cfg.num_basis, cfg.num_samples, cfg.length, cfg.writes * 2**cfg.detail))
    memories(cfg)


def needs(num_basis: int, num_samples: int, length: int, blocks: int) -> dict[str, int]:
    """What `retention` of so many blocks needs → bytes."""
    operators = 24 * num_basis * (num_samples + length + num_basis)
    return {"operators": operators, "blocks": 16 * num_basis * blocks}


def compute(cfg: RetentionConfig, folder: Path) -> dict[str, Any]:
    """Each memory's retention; with a bar, the table, retention.npz and retention.png.

    The arrays are Retention's fields [contraction, writes, J], and `contractions`.
    """
    wanted, found = memories(cfg), {}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writes", total=cfg.writes * len(wanted))
        for label, memory in wanted.items():
            found[label] = retention(
                memory,
                cfg.writes,
                length=cfg.length,
                detail=cfg.detail,
                salience=np.ones(memory.bins) if memory.sticky else None,
                progress=lambda written: bar.advance(task),
            )
    curves = {
        label: {read: getattr(result, read).mean(axis=1) for read in ("linear", "density")}
        for label, result in found.items()
    }
    report(cfg, curves)
    columns = map(np.stack, zip(*found.values(), strict=True))
    arrays: dict[str, Any] = dict(zip(Retention._fields, columns, strict=True))
    with writing(folder / "retention.npz") as file:
        np.savez(file, contractions=np.array(list(found)), **arrays)
    plots.retention(folder / "retention.png", curves)
    return {
        "retention": {
            label: {read: values.tolist() for read, values in curve.items()}
            for label, curve in curves.items()
        }
    }


def report(cfg: RetentionConfig, curves: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Print R² by age: a linear and a density row for each contraction."""
    ages = [age for age in cfg.ages if age < cfg.writes]
    written = f"{cfg.writes} writes of {cfg.length}, N = {cfg.num_basis}"
    rows = [
        (label, read, *(f"{value:.2f}" for value in values[ages]), f"{values.mean():.3f}")
        for label, curve in curves.items()
        for read, values in curve.items()
    ]
    header = ("contraction", "read by", *map(str, ages), "mean")
    title = f"R² of a segment's mean by its age, {written}"
    tables.show(title, header, rows, max(80, 32 + 8 * len(ages)))
