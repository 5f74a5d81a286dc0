"""Whether a figure that is sampled again and again stays where it is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: A figure is flat whose growth over all samples is below this part of its mean, …
SMALL = 0.01
#: … or that is within so many standard errors of none.
ERRORS = 2.0

#: Figure of a soak → its name, and its unit as a number and a word.
FIGURES = {
    "live": ("live arrays", 2**20, "MiB"),
    "process": ("memory of the process", 2**20, "MiB"),
    "step": ("a step", 1e-3, "ms"),
}


class Slope(NamedTuple):
    """A straight line through samples, by least squares.

    Attributes:
        samples: how many there are.
        mean: of them.
        hourly: growth an hour.
        error: standard error of `hourly`, of samples that do not depend on one another.
        hours: from the first sample to the last.
    """

    samples: int
    mean: float
    hourly: float
    error: float
    hours: float

    @property
    def grown(self) -> float:
        """Growth from the first sample to the last, as a part of the mean."""
        return self.hourly * self.hours / self.mean if self.mean else math.inf

    @property
    def flat(self) -> bool:
        """|slope| < 2 standard errors, or less than 1 % of the mean over all samples."""
        return abs(self.hourly) < ERRORS * self.error or abs(self.grown) < SMALL

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON has them."""
        return {**self._asdict(), "grown": self.grown, "flat": self.flat}


def slope(seconds: Sequence[float], figures: Sequence[float]) -> Slope:
    """The line through figures by their time: b = Σ(t - t̄)(y - ȳ) / S, S = Σ(t - t̄)².

    Its standard error is √(Σ r² / (n - 2) / S), r = y - ȳ - b (t - t̄).

    Raises:
        ValueError: fewer than 3 samples, or all at one time.
    """
    time, figure = np.asarray(seconds, float) / 3600, np.asarray(figures, float)
    around = time - time.mean() if len(time) else time
    squares = float((around**2).sum())
    if len(time) < 3 or not squares:
        raise ValueError(f"samples: found {len(time)}, accepted: 3 or more at different times")
    hourly = float((around * (figure - figure.mean())).sum()) / squares
    rest = figure - figure.mean() - hourly * around
    error = math.sqrt(float((rest**2).sum()) / (len(time) - 2) / squares)
    return Slope(len(time), float(figure.mean()), hourly, error, float(np.ptp(time)))
