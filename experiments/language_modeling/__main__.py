"""Language models that remember the whole document (paper §4.2): GPT-2 with a long-term memory.

    python -m experiments.language_modeling [PRESET] [--options]
    python -m experiments.language_modeling compare [--options]   all models from one checkpoint
    python -m experiments.language_modeling evaluate --run FOLDER --data DIR    on another text

Trains on documents read from beginning to end, each row of the batch its own, and reports
perplexity on the test documents: as trained, and with the memory emptied before every segment.
Without --data it reads Shakespeare's plays. Writes config, metrics, figures and pictures to
`runs/language_modeling/PRESET-seed`.
"""

import sys

import jax

from experiments.language_modeling import task
from experiments.language_modeling.config import PRESETS
from experiments.language_modeling.start import resolved
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.language_modeling [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        from experiments.language_modeling import compare

        return compare.main(argv[1:])
    if argv[:1] == ["evaluate"]:
        from experiments.language_modeling import evaluate

        return evaluate.main(argv[1:])
    program = "python -m experiments.language_modeling"
    name, cfg = cli.parse(program, __doc__, PRESETS, "gpt2-infinity-lasting", argv)
    with cli.refusals():
        cfg = resolved(cfg)
    folder, result = cli.start("language_modeling", name, argv, cfg, task.check, task.run)
    if not jax.process_index():
        task.report(name, folder, result)


if __name__ == "__main__":
    main()
