"""Every notebook runs from top to bottom, and its figures are drawn."""

import re
import runpy
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


TRAINING = {"02_plug_in_memory": pytest.mark.slow}  # the others compute a few seconds only


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=TRAINING.get(p.stem, ())) for p in NOTEBOOKS]
)
def test_notebook_runs(path, monkeypatch):
    """Executed as a script; its own assertions hold; `show` finds a figure with content."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    runpy.run_path(str(path), run_name="__main__")
    assert shown and all(axes.lines for axes in plt.figure(shown[0]).axes)
    plt.close("all")


def test_there_are_notebooks():
    """The parametrised test above must not pass by having nothing to run."""
    names = ["01_sequence_as_signal", "02_plug_in_memory"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.slow
def test_readme_code_runs():
    """The quick start and the plug-in layer, one after the other; shapes as their comments say."""
    readme = (NOTEBOOKS[0].parent.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    exec(compile(blocks[0], "README quick start", "exec"), names)
    assert names["out"].logits.shape == (2, 128, 22)
    layer = names["out"].memory.layers[0].long_term
    assert layer.coeffs.shape == (2, 512, 300) and layer.writes.tolist() == [2, 2]
    assert names["out"].info[0]["density"].mean.shape == (2, 6, 128)
    assert names["memory"].seen.tolist() == [0, 512]
    exec(compile(blocks[1], "README plug-in layer", "exec"), names)
    assert names["context"].shape == (2, 32, 96)
