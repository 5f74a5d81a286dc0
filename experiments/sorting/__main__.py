"""Sorting tokens by frequency (paper §4.1): does the model remember a whole sequence?

    python -m experiments.sorting [PRESET] [--options]
    python -m experiments.sorting compare [--options]     all models, one table and one picture
    python -m experiments.sorting lasting [--options]     contractions of the memory, by segments
    python -m experiments.sorting memories [--options]    every memory on this task, one table
    python -m experiments.sorting evaluate --run FOLDER   a trained sorter on another length

Trains on freshly generated sequences, then reports accuracy on 800 others: as trained, with the
long-term memory emptied before every segment, and with another sequence's. Writes config, metrics,
a figure and a picture to `runs/sorting/PRESET-seed`.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.run import cli
from experiments.sorting import evaluate
from experiments.sorting.compare import COMPARE
from experiments.sorting.lasting import LASTING
from experiments.sorting.memories import MEMORIES
from experiments.sorting.task import SORTING


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.sorting [PRESET] [--options]`."""
    commands = {"compare": COMPARE.main, "lasting": LASTING.main, "memories": MEMORIES.main}
    commands |= {"evaluate": evaluate.main}
    cli.main(SORTING, __doc__, argv, commands)


if __name__ == "__main__":
    main()
