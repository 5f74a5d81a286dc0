"""Where figures go: ratios on the host, JSON lines for programs, TensorBoard for people."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class NonFiniteError(RuntimeError):
    """A NaN or an infinity appeared in the loss or in the memory."""


def ratios(sums: Mapping[str, Any]) -> dict[str, float]:
    """Means from the sums of any number of batches: exact, whatever the batches' sizes.

    Args:
        sums: those of `training.step.SUMS`.

    Returns:
        loss in nats a weighted target, accuracy in [0, 1]; and if there are any, kl in nats a
        density and reconstruction a query.
    """
    weight = float(sums["weight"])
    result = {name: float(sums[key]) / weight if weight else math.nan
              for name, key in (("loss", "loss"), ("accuracy", "correct"))}  # fmt: skip
    for name in ("kl", "reconstruction"):
        if float(sums[f"{name}_count"]):
            result[name] = float(sums[name]) / float(sums[f"{name}_count"])
    return result


def add(total: Mapping[str, Any] | None, sums: Mapping[str, Any]) -> dict[str, float]:
    """Add up sums on the host, in float64, so that long evaluations lose nothing."""
    total = total or {}
    return {name: total.get(name, 0.0) + float(np.asarray(sums[name])) for name in sums}


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
    """Stop at a step whose loss, gradient or memory holds a NaN or an infinity.

    Raises:
        NonFiniteError: naming the step and what is not finite.
    """
    bad = [name for name in ("loss", "kl", "grad_norm") if not np.isfinite(metrics[name])]
    bad += [] if metrics["memory_finite"] else ["memory"]
    if bad:
        raise NonFiniteError(f"step {step}: NaN or infinity in {', '.join(bad)}")


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

    A context manager. Each row has "step" and "split" and is on disk when `write` returns.

    Raises:
        ValueError: TensorBoard is asked for and tensorboardX is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        self._events = summary_writer()(str(folder)) if tensorboard else None
        self._file = open(folder / "metrics.jsonl", "w", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, split: str, step: int, row: Mapping[str, float]) -> None:
        """Append the row of a split ("train", "valid", …) at a step."""
        self._file.write(json.dumps({"step": step, "split": split, **row}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"{split}/{name}", value, step)
