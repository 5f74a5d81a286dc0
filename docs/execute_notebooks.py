"""The notebooks that docs/ shows: notebooks/*.py executed, with outputs and pictures.

    python docs/execute_notebooks.py [NAME ...]

Run it after a change of a notebook, look at the pictures, and commit docs/notebooks/. A test says
when the cells of the two differ.
"""

import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat

ROOT = Path(__file__).parents[1]


def execute(source: Path) -> Path:
    """Execute one notebook in the root of the project; the file that was written.

    What cells write to standard error is left out: warnings of this machine are no result.
    """
    notebook = jupytext.read(source)
    place = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(
        notebook, kernel_name="python3", resources=place, coalesce_streams=True
    ).execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random by default
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)  # when it ran
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    target = ROOT / "docs" / "notebooks" / f"{source.stem}.ipynb"
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, target)
    return target


if __name__ == "__main__":
    for source in sorted((ROOT / "notebooks").glob("*.py")):
        if not sys.argv[1:] or source.stem in sys.argv[1:]:
            print(execute(source).relative_to(ROOT), flush=True)
