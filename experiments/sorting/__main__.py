"""Sorting tokens by frequency (paper §4.1): does the model remember a whole sequence?

    python -m experiments.sorting [PRESET] [--options]
    python -m experiments.sorting compare [--options]     all models, one table and one picture
    python -m experiments.sorting lasting [--options]     contractions of the memory, by segments

Trains on freshly generated sequences, then reports accuracy on 800 others: as trained, and with
the long-term memory emptied before every segment. Writes config, metrics, a figure and a picture
to `runs/sorting/PRESET-seed`.
"""

import sys

import jax

from experiments.run import cli
from experiments.sorting import task as sorting_task
from experiments.sorting.config import PRESETS
from experiments.sorting.task import check


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.sorting [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        from experiments.sorting import compare as sorting_compare

        return sorting_compare.main(argv[1:])
    if argv[:1] == ["lasting"]:
        from experiments.sorting import lasting as sorting_lasting

        return sorting_lasting.main(argv[1:])
    name, cfg = cli.parse(
        "python -m experiments.sorting", __doc__, PRESETS, "infinity-former", argv
    )
    folder, result = cli.start("sorting", name, argv, cfg, check, sorting_task.run)
    if not jax.process_index():
        sorting_task.report(name, folder, result)


if __name__ == "__main__":
    main()
