"""Every notebook runs from top to bottom, and docs/ shows it as it is."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
#: These train a model.
TRAINING = ("04_train_a_sorter", "05_your_own_model")
QUICK = ("06_hopfield_retrieval",)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK))
        for path in NOTEBOOKS
        if path.stem not in TRAINING
    ],
)
def test_notebook_runs(path, monkeypatch):
    """Executed as a script; its own assertions hold; `show` finds figures with content."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    runpy.run_path(str(path), run_name="__main__")
    axes = [axes for number in shown for axes in plt.figure(number).axes]
    assert axes and all(one.lines and one.get_title() for one in axes)
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_notebook_trains(name):
    """In a process of its own, with compiled code as fast as a reader's; its assertions hold."""
    environment = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"}
    source = ROOT / "notebooks" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(source)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_there_are_seven_short_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{n}" for n in range(1, 8)]
    assert {path.stem for path in NOTEBOOKS} > set(TRAINING)
    for path in NOTEBOOKS:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_docs_show_the_notebook_as_it_is(path):
    """The cells are those of the source; a cell that shows a picture has one, and none failed."""
    source = jupytext.read(path)
    shown = nbformat.read(ROOT / "docs" / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    advice = "run python docs/execute_notebooks.py"
    cells = [(cell.cell_type, cell.source) for cell in source.cells]
    assert [(cell.cell_type, cell.source) for cell in shown.cells] == cells, advice
    pictures = 0
    for cell in shown.cells:
        if cell.cell_type == "code":
            kinds = [kind for output in cell.outputs for kind in output.get("data", {})]
            assert all(output.output_type != "error" for output in cell.outputs)
            assert ("plt.show()" in cell.source) == ("image/png" in kinds), advice
            pictures += "image/png" in kinds
            assert not re.search("stderr", str([output.get("name") for output in cell.outputs]))
    assert pictures
