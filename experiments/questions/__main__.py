"""A question about a document: at how many segments' distance is a fact still known?

    python -m experiments.questions [PRESET] [--options]

Facts about people are stated once in a text and asked for in a conversation behind it. Reports how
many greedy answers are the right words, on 300 other documents, by the age of the fact in segments:
as trained, and with the long-term memory emptied before every segment. Writes config, metrics, a
figure and a picture to `runs/questions/PRESET-seed`.
"""

import sys

import jax

from experiments.questions import task
from experiments.questions.config import PRESETS
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.questions [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    program = "python -m experiments.questions"
    name, cfg = cli.parse(program, __doc__, PRESETS, "infinity-lasting", argv)
    folder, result = cli.start("questions", name, argv, cfg, task.check, task.run)
    if not jax.process_index():
        task.report(name, folder, result)


if __name__ == "__main__":
    main()
