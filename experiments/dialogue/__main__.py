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

from experiments.dialogue import task as dialogue_task
from experiments.dialogue.config import PRESETS
from experiments.dialogue.task import check, resolved
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.dialogue [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        from experiments.dialogue import compare as dialogue_compare

        return dialogue_compare.main(argv[1:])
    if argv[:1] == ["page"]:
        from experiments.dialogue import coverage as dialogue_coverage

        return dialogue_coverage.main(argv[1:])
    if argv[:1] == ["chat"]:
        from experiments.dialogue import chat as dialogue_chat

        return dialogue_chat.main(argv[1:])
    program = "python -m experiments.dialogue"
    name, cfg = cli.parse(program, __doc__, PRESETS, "infinity-lasting", argv)
    with cli.refusals():
        cfg = resolved(cfg)
    folder, result = cli.start("dialogue", name, argv, cfg, check, dialogue_task.run)
    if not jax.process_index():
        dialogue_task.report(name, folder, result)


if __name__ == "__main__":
    main()
