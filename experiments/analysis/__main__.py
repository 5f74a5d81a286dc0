"""What the memory is and does: alone, by its operators; and in a trained model.

    python -m experiments.analysis retention [--options]   R² of past segments by their age
    python -m experiments.analysis choose [--options]      constants for the tokens to remember
    python -m experiments.analysis stream [--options]      a thousand writes: drift, float32's error
    python -m experiments.analysis memory --run FOLDER     where a trained model attends, its gate

Each prints a table and writes JSON and a picture.
"""

import sys
from collections.abc import Sequence

from experiments.analysis import choose as analysis_choose
from experiments.analysis import memory as analysis_memory
from experiments.analysis import retention as analysis_retention
from experiments.analysis import stream as analysis_stream
from experiments.run import cli

_COMMANDS = {
    "retention": analysis_retention.main,
    "choose": analysis_choose.main,
    "stream": analysis_stream.main,
    "memory": analysis_memory.main,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.analysis COMMAND [--options]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"]):
        return print(__doc__)
    with cli.refusals():
        if not argv or argv[0] not in _COMMANDS:
            found = argv[0] if argv else "none"
            raise ValueError(f"command: found {found}, accepted: {', '.join(_COMMANDS)}")
    return _COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    main()
