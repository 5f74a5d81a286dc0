"""Conversations about a document (paper §4.3): it is read into the memory, then talked about.

    python -m experiments.dialogue [PRESET] [--options]
    python -m experiments.dialogue compare [--options]      the rows of the paper
    python -m experiments.dialogue evaluate --run MODEL     of a published model, as it is
    python -m experiments.dialogue chat --run FOLDER --document FILE
    python -m experiments.dialogue page --run FOLDER        what of the document replies attend to

Trains on conversations that begin with their document. Reports the perplexity of the utterances
after the first, and scores of generated replies. With --data it reads CMU-DoG's release or JSON
lines; without, a small sample that was made up for this project. Writes config, metrics, replies
and figures to `runs/dialogue/PRESET-seed`.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.dialogue import chat, evaluate, page
from experiments.dialogue.compare import COMPARE
from experiments.dialogue.task import DIALOGUE
from experiments.run import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.dialogue [PRESET] [--options]`."""
    commands = {"compare": COMPARE.main, "page": page.main, "chat": chat.main}
    commands["evaluate"] = evaluate.main
    cli.main(DIALOGUE, __doc__, argv, commands)


if __name__ == "__main__":
    main()
