"""A question about a document: at how many segments' distance is a fact still known?

    python -m experiments.questions [PRESET] [--options]
    python -m experiments.questions memories [--options]  every memory on this task, one table

Facts about people are stated once in a text and asked for in a conversation behind it. Reports how
many greedy answers are the right words, on 300 other documents, by the age of the fact in segments:
as trained, with the long-term memory emptied before every segment, and with another text's. Writes
config, metrics, a figure and a picture to `runs/questions/PRESET-seed`.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.questions.memories import MEMORIES
from experiments.questions.task import QUESTIONS
from experiments.run import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.questions [PRESET] [--options]`."""
    cli.main(QUESTIONS, __doc__, argv, {"memories": MEMORIES.main})


if __name__ == "__main__":
    main()
