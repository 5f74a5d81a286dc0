"""Figures on the host: ratios of sums, checks, JSON lines for programs, TensorBoard for people."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inf_former_jax import files
from inf_former_jax.require import require


class NonFiniteError(RuntimeError):
    """A NaN or an infinity appeared in a loss or in the train state."""


def ratios(sums: Mapping[str, Any]) -> dict[str, float]:
    """Means from the sums of any number of batches: exact, whatever the batches' sizes.

    Args:
        sums: of `training.objective.SUMS`.

    Returns:
        "loss" in nats for each target, by weight, and "accuracy" in [0, 1]. If the model has such
        terms, "kl" in nats for each density and "reconstruction" for each query.
    """
    weight = float(sums["weight"]) or math.nan
    result = {"loss": float(sums["loss"]) / weight, "accuracy": float(sums["correct"]) / weight}
    for name in ("kl", "reconstruction"):
        if float(sums[f"{name}_count"]):
            result[name] = float(sums[name]) / float(sums[f"{name}_count"])
    return result


def add(total: Mapping[str, Any] | None, sums: Mapping[str, Any]) -> dict[str, float]:
    """Add up sums on the host, in float64, so that long evaluations lose nothing."""
    total = total or {}
    return {name: total.get(name, 0.0) + float(np.asarray(sums[name])) for name in sums}


def check_skips(step: int, in_a_row: int, most: int) -> None:
    """Stop at a step up to which too many updates in a row were left out.

    Raises:
        NonFiniteError: there are more than `most`.
    """
    if in_a_row > most:
        raise NonFiniteError(f"step {step}: NaN or infinity in {in_a_row} updates in a row")


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
    """Stop at a step whose loss, gradient or new state holds a NaN or an infinity.

    Raises:
        NonFiniteError: naming the step and what is not finite.
    """
    bad = [name for name in ("loss", "weight", "kl", "grad_norm") if not np.isfinite(metrics[name])]
    bad += [name for name in ("memory", "parameters", "optimizer") if not metrics[f"{name}_finite"]]
    if bad:
        raise NonFiniteError(f"step {step}: NaN or infinity in {', '.join(bad)}")


def check_figures(step: int, split: str, figures: Mapping[str, Any]) -> None:
    """Stop at an evaluation whose loss is not finite; errors as of `check_finite`."""
    losses = ("loss", "kl", "reconstruction")
    bad = [name for name in losses if not np.isfinite(figures.get(name, 0.0))]
    if bad:
        raise NonFiniteError(f"step {step}: NaN or infinity in {', '.join(bad)} of {split} data")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `metrics.jsonl`; none if there is no file. A line cut short by a kill is no row.

    Raises:
        ValueError: naming the line that is no row.
    """
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for number, offset, line in files.read_raw_lines(path):
            if line.endswith(b"\n"):
                text = files.decode(line, str(path), offset)
                rows.append(_row(text, f"{path}: line {number}"))
    return rows


def _row(line: str, name: str) -> dict[str, Any]:
    accepted = "a row with step, split and figures; delete the line, and the run goes on"
    row = files.parse_json(line, name, accepted)
    step, split = row.get("step"), row.get("split")
    require(type(step) is int and step >= 0, name, f"step {step!r}", accepted)
    require(isinstance(split, str), name, f"split {split!r}", accepted)
    for figure, value in row.items():
        holds = figure == "split" or value is None or type(value) in (int, float)
        require(holds, name, f"{figure} {value!r}", accepted)
    return row


def summary_writer():
    """tensorboardX's SummaryWriter, an optional dependency.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard: tensorboardX is not installed, accepted with: "
            "pip install 'inf_former_jax[tensorboard]'"
        ) from error
    return SummaryWriter


class MetricsWriter:
    """Appends rows to `metrics.jsonl` in a run folder and, if asked, to TensorBoard events.

    A context manager. Each row has "step" and "split" and is on disk when `write` returns. Of
    several processes only the first one writes.

    Args:
        done: steps that a resumed run has behind it; later rows are of steps that were lost.

    Raises:
        ValueError: a damaged `metrics.jsonl`, or TensorBoard without tensorboardX.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, done: int = 0):
        self._events = self._file = None
        if jax.process_index():
            return
        path = folder / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= done]
        if tensorboard:
            self._events = summary_writer()(str(folder), purge_step=done + 1 if done else None)
        files.write_text(path, "".join(files.json_text(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, split: str, step: int, row: Mapping[str, float]) -> None:
        """Append the row of a split ("train", "valid", …) at a step."""
        if self._file is None:
            return
        self._file.write(files.json_text({"step": step, "split": split, **row}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"{split}/{name}", value, step)
