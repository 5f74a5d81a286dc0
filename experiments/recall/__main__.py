"""Associative recall: how long does the model remember single facts?

    python -m experiments.recall [PRESET] [--options]

Key–value pairs are given among noise, one or a few a segment; the last segment asks for some of
them. Reports accuracy on 800 other documents by the age of the question in segments: as trained,
and with the long-term memory emptied before every segment. Writes config, metrics, a figure and a
picture to `runs/recall/PRESET-seed`.
"""

import sys

import jax

from experiments.recall import task as recall_task
from experiments.recall.config import PRESETS
from experiments.recall.task import check
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.recall [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    name, cfg = cli.parse("python -m experiments.recall", __doc__, PRESETS, "infinity-former", argv)
    folder, result = cli.start("recall", name, argv, cfg, check, recall_task.run)
    if not jax.process_index():
        recall_task.report(name, folder, result)


if __name__ == "__main__":
    main()
