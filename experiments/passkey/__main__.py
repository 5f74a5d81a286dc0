"""The passkey probe: at how many segments' distance does the model still find a single number?

    python -m experiments.passkey [PRESET] --data DIR [--options]
    python -m experiments.passkey memories --data DIR [--options]   every memory, one table
    python -m experiments.passkey evaluate --run MODEL --data DIR --out DIR [--options]

A key of five digits is stated once in the text of a book and asked for 1 to 64 segments later. DIR
holds the splits train, valid and test in a layout that `data/text.py` reads. Reports, by distance,
how many digits and how many whole keys are right: as trained, with the long-term memory emptied
before every segment, and with another document's. Writes config, metrics, a figure and a picture to
`runs/passkey/PRESET-seed`.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.passkey import evaluate
from experiments.passkey.memories import MEMORIES
from experiments.passkey.task import PASSKEY
from experiments.run import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.passkey [PRESET] --data DIR [--options]`."""
    cli.main(PASSKEY, __doc__, argv, {"memories": MEMORIES.main, "evaluate": evaluate.main})


if __name__ == "__main__":
    main()
