"""The picture of a soak."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.faults.slope import Slope
from experiments.results.faults import FIGURES
from experiments.run.plots import COLORS, entitle, picture


def soak(
    path: Path,
    series: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Slope]],
) -> None:
    """Each figure by minutes; the titles say how much it grew.

    Args:
        series: part → figure → (seconds, figures).
        found: part → figure → the line through them.
    """
    with picture(path, len(series), len(FIGURES), 11, 2.6 * len(series)) as axes:
        for row, part in enumerate(series):
            for column, (name, (words, unit, word)) in enumerate(FIGURES.items()):
                one, (seconds, figures) = axes[row, column], series[part][name]
                minutes = [second / 60 for second in seconds]
                one.plot(minutes, [y / unit for y in figures], ".", ms=2, color=COLORS[0])
                one.set(xlabel="minutes", ylim=(0, None))
                grown = f"{100 * found[part][name].grown:+.2f} %"
                entitle(one, f"{part}: {words}, {word}", grown)
