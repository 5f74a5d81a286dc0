"""Conversations about a document (paper §4.3): it is read into the memory, then talked about.

    python -m experiments.dialogue [PRESET] [--options]
    python -m experiments.dialogue compare [--options]      the rows of the paper
    python -m experiments.dialogue chat --run FOLDER --document FILE
    python -m experiments.dialogue page --run FOLDER        what of the document replies attend to

Trains on conversations, the document in front, and reports perplexity of the utterances after the
first and scores of generated replies. With --data it reads CMU-DoG's release, or JSON lines;
without, a small sample that was made up for this project. Writes config, metrics, replies and
figures to `runs/dialogue/PRESET-seed`.
"""

import sys

import jax

from experiments.dialogue import task
from experiments.dialogue.config import PRESETS
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.dialogue [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        from experiments.dialogue import compare

        return compare.main(argv[1:])
    if argv[:1] == ["page"]:
        from experiments.dialogue import page

        return page.main(argv[1:])
    if argv[:1] == ["chat"]:
        from experiments.dialogue import chat

        return chat.main(argv[1:])
    program = "python -m experiments.dialogue"
    name, cfg = cli.parse(program, __doc__, PRESETS, "infinity-lasting", argv)
    with cli.refusals():
        cfg = task.resolved(cfg)
    folder, result = cli.start("dialogue", name, argv, cfg, task.check, task.run)
    if not jax.process_index():
        task.report(name, folder, result)


if __name__ == "__main__":
    main()
