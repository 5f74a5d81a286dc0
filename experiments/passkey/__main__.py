"""The passkey probe: at how many segments' distance does the model still find a single number?

    python -m experiments.passkey [PRESET] --data DIR [--options]

A key of five digits is stated once in the text of a book and asked for 1 to 64 segments later. DIR
holds the splits train, valid and test in a layout that `data/text.py` reads. Reports, by distance,
how many digits and how many whole keys are right: as trained, and with the long-term memory emptied
before every segment. Writes config, metrics, a figure and a picture to `runs/passkey/PRESET-seed`.
"""

import sys

import jax

from experiments.passkey import task as passkey_task
from experiments.passkey.config import PRESETS
from experiments.passkey.task import check
from experiments.run import cli


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.passkey [PRESET] --data DIR [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    name, cfg = cli.parse(
        "python -m experiments.passkey", __doc__, PRESETS, "infinity-former-lasting", argv
    )
    folder, result = cli.start("passkey", name, argv, cfg, check, passkey_task.run)
    if not jax.process_index():
        passkey_task.report(name, folder, result)


if __name__ == "__main__":
    main()
