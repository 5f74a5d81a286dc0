"""Faults on real runs of a tiny sorter: what is lost, how it is told, and what comes of the run.

    python -m experiments.faults [--options]         the drill: a table and JSON
    python -m experiments.faults soak [--options]    memory and speed of a run that takes long

After a fault the same command has to go on to the same bits as a run that nobody disturbed, or to
refuse in one line, with exit status 2, and lose nothing.

exit status: 0 all was so, 1 something was not, which the table says, 2 something is refused
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import functools
import sys
from collections.abc import Sequence

import jax

from experiments.faults import drill
from experiments.faults.drill import DrillConfig
from experiments.faults.row import Row
from experiments.results.faults import HEADER, cells
from experiments.run import cli, folders, tables


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.faults [soak] [--options]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["soak"]:
        from experiments.faults import soak

        return soak.main(argv[1:])
    cfg = cli.options("python -m experiments.faults", __doc__, DrillConfig(), argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator is some run's
    with cli.refusals():
        drill.check(cfg)
        path = folders.make(cfg.out) / "faults.json"
        folders.check_free(path, cfg)
        origin = folders.provenance("faults", "", argv) | {"settings": folders.to_json(cfg)}
        rows: list[Row] = []
        for row in drill.drill(cfg, functools.partial(print, flush=True)):
            rows.append(row)
            found = [row.to_json() for row in rows]
            folders.write_json(path, {**origin, "rows": found})  # each time: all may take hours
        tables.show("faults", HEADER, [cells(row.to_json()) for row in rows])
    print(path)
    if broken := drill.broken(rows):
        print(f"not as it should be: {', '.join(broken)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
