"""Associative recall: how long does the model remember single facts?

    python -m experiments.recall [PRESET] [--options]
    python -m experiments.recall memories [--options]     every memory on this task, one table

Key–value pairs are given among noise, one or a few a segment; the last segment asks for some of
them. Reports accuracy on 800 other documents by the age of the question in segments: as trained,
with the long-term memory emptied before every segment, and with another document's. Writes config,
metrics, a figure and a picture to `runs/recall/PRESET-seed`.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.recall.memories import MEMORIES
from experiments.recall.task import RECALL
from experiments.run import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.recall [PRESET] [--options]`."""
    cli.main(RECALL, __doc__, argv, {"memories": MEMORIES.main})


if __name__ == "__main__":
    main()
