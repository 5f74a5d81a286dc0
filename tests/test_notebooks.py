"""Every notebook runs from top to bottom, and its figures are drawn."""

import runpy
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    """Executed as a script; its own assertions hold; `show` finds a figure with content."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    runpy.run_path(str(path), run_name="__main__")
    assert shown and all(axes.lines for axes in plt.figure(shown[0]).axes)
    plt.close("all")


def test_there_are_notebooks():
    """The parametrised test above must not pass by having nothing to run."""
    assert [path.stem for path in NOTEBOOKS] == ["01_sequence_as_signal"]
