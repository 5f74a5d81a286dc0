"""Whether a figure that is sampled again and again stays where it is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from inf_former_jax.require import require

#: A figure is flat whose growth over all samples is below this part of its mean, …
SMALL = 0.01
#: … or that is within so many standard errors of none.
ERRORS = 2.0


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
    """The least-squares line through figures by their time.

    Raises:
        ValueError: fewer than 3 samples, or all at one time.
    """
    hours, figure = np.asarray(seconds, float) / 3600, np.asarray(figures, float)
    several = len(hours) > 2 and bool(np.ptp(hours))
    require(several, "samples", len(hours), "3 or more at different times")
    line: Any = stats.linregress(hours, figure)
    error = float(line.stderr) if np.ptp(figure) else 0.0  # of what never changes it may be NaN
    known = float(figure.mean()), float(line.slope), error
    return Slope(len(hours), *known, float(np.ptp(hours)))
