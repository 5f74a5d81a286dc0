"""What the checkpoints of a run are worth: steps, sizes, health, configuration.

    python -m experiments.checkpoints DIR            list them; nothing is changed
    python -m experiments.checkpoints DIR --repair   remove those that are damaged or unfinished

DIR is a run folder, or its folder of checkpoints. Every byte of each step is read and compared with
its digests, on the CPU. A step is *verified*, *damaged* (the files are named), *unfinished* (a save
that a kill ended), or was *set aside* by a run that found it damaged.

--repair removes all but the verified ones, and says which. It removes no damaged step where no
other is verified, and nothing while a run is writing there.

exit status: 0 all is well now, 1 there is something to remove, 2 something is refused
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.checkpoints DIR [--repair]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help", "--help-all"} & {*argv}:
        return print(__doc__)
    from experiments.checkpoints import listing  # imports JAX, which --help does without

    listing.main(argv)


if __name__ == "__main__":
    main()
