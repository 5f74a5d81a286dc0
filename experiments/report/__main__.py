"""A report of a run: one HTML page that loads nothing and runs no scripts.

    python -m experiments.report RUN [--options]

RUN is the folder of a run of any task, finished or not, or of an evaluation. The page says what was
found beside its controls, how the run was trained, what its memory keeps, its settings beside those
of its preset, and how to make it again. What is not there is named, with the command that makes it.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from experiments.analysis import memory
from experiments.report import contents
from experiments.report.page import page
from experiments.run import cli, folders
from inf_former_jax.fields import Checked, Required
from inf_former_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class ReportConfig(Checked):
    """Which folder the page is about."""

    run: Annotated[str, Required("the folder of a run or an evaluation")] = ""
    """Folder of a run or an evaluation; the first word of the command, too."""
    densities: bool = False
    """First look where the heads of the trained model attend, as `experiments.analysis memory`
    does. It reads the run's data and takes a minute."""
    out: str = ""
    """The page's file; "" = report.html in the folder."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.report RUN [--options]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    cfg = cli.options("python -m experiments.report RUN", __doc__, ReportConfig(), argv)
    file = Path(cfg.out or Path(cfg.run) / "report.html")
    with cli.refusals():
        contents.read(Path(cfg.run))  # before anything is computed
        folders.make(file.absolute().parent)
    if cfg.densities:
        memory.main(["--run", cfg.run])
    with cli.refusals():
        write_text(file, page(contents.read(Path(cfg.run))))
    print(file)


if __name__ == "__main__":
    main()
