"""The line through samples: beside NumPy's, and by hand."""

import numpy as np
import pytest

from experiments.faults.slope import slope


def test_the_line_is_that_of_numpy():
    """Slope and standard error an hour, of samples that are not equally far apart."""
    random = np.random.default_rng(0)
    seconds = np.sort(random.uniform(0, 7200, 50))
    figures = 5 + seconds / 3600 + random.normal(size=50)
    found = slope(seconds, figures)
    (steep, _), covariance = np.polyfit(seconds / 3600, figures, 1, cov=True)
    np.testing.assert_allclose([found.hourly, found.error], [steep, covariance[0, 0] ** 0.5])
    assert found.mean == pytest.approx(figures.mean()) and found.samples == 50
    assert found.hours == pytest.approx((seconds[-1] - seconds[0]) / 3600)


@pytest.mark.parametrize(
    ("figures", "flat"),
    [
        ([7, 7, 7, 7], True),
        ([100, 100.2, 100.4, 100.6], True),  # 0.6 % in all, whatever the errors
        ([100, 101, 102, 103], False),
        ([100, 140, 90, 120], True),  # grows, but by less than two standard errors
        ([0, 0, 0, 0], False),  # nothing was measured
    ],
)
def test_what_is_flat(figures, flat):
    assert slope([0, 60, 120, 180], figures).flat == flat


def test_growth_by_hand():
    """100, 101, 102, 103 in three minutes: 60 an hour, 3 of a mean of 101.5 in all."""
    found = slope([0, 60, 120, 180], [100, 101, 102, 103])
    assert found.hourly == pytest.approx(60) and found.grown == pytest.approx(3 / 101.5)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_what_never_changes_has_no_error():
    """Of such numbers, whose mean is rounded, SciPy makes a NaN."""
    found = slope(np.linspace(0, 1440, 288), [680_192_409.6] * 288)
    assert found.error == 0 and found.flat


@pytest.mark.parametrize("seconds", [[], [1, 2], [5, 5, 5]])
def test_too_few_samples_are_refused(seconds):
    with pytest.raises(ValueError, match=r"^samples: found \d, accepted: 3 or more"):
        slope(seconds, seconds)
