"""What is installed beside a user's own code: our `experiments` never hides theirs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("regular", [False, True], ids=["a plain folder", "a package"])
def test_a_folder_named_experiments_is_the_users(tmp_path, regular):
    """`experiments` is a namespace package, so what comes first on the path is found first.

    A regular package of ours in site-packages would hide a user's folder without `__init__.py`.
    """
    mine = tmp_path / "experiments"
    mine.mkdir()
    (mine / "mine.py").write_text("print('mine')")
    if regular:
        (mine / "__init__.py").touch()
    # -S: without this environment, in which an editable install finds ours wherever it is.
    # As installed: the user's folder is the working directory, ours comes later on the path.
    script = (
        f"import sys; sys.path[:] = ['', *(p for p in sys.path if p), {str(ROOT)!r}]; "
        "import experiments.mine, importlib.util; "
        "print(importlib.util.find_spec('experiments.sorting') is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    ours = "False" if regular else "True"
    assert done.stdout.split() == ["mine", ours], done.stderr
