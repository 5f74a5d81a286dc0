"""Language models that remember the whole document (paper §4.2): GPT-2 with a long-term memory.

    python -m experiments.language_modeling [PRESET] [--options]
    python -m experiments.language_modeling compare [--options]   all models from one checkpoint
    python -m experiments.language_modeling evaluate --run FOLDER --data DIR    on another text
    python -m experiments.language_modeling distances --files FILES    by how far back a word was

Trains on documents read from beginning to end, each row of the batch its own, and reports
perplexity on the test documents: as trained, and with the memory emptied before every segment.
Without --data it reads Shakespeare's plays. Writes config, metrics, figures and pictures to
`runs/language_modeling/PRESET-seed`. --init-from begins with a run or with a published GPT-2 or
Llama, which are what FOLDER may be, too.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.language_modeling import distances, evaluate
from experiments.language_modeling.compare import COMPARE
from experiments.language_modeling.task import LANGUAGE_MODELING
from experiments.run import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.language_modeling [PRESET] [--options]`."""
    commands = {"compare": COMPARE.main, "evaluate": evaluate.main, "distances": distances.main}
    cli.main(LANGUAGE_MODELING, __doc__, argv, commands)


if __name__ == "__main__":
    main()
