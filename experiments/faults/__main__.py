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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.faults import drill
from experiments.faults.drill import DrillConfig
from experiments.faults.row import HEADER, Row
from experiments.run import cli, folders, tables
from inf_former_jax import files


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
            write(path, origin, rows)  # after each one: all of them may take hours
        tables.show("faults", HEADER, [row.cells() for row in rows])
    print(f"{path}, {path.with_suffix('.md')}")
    if broken := drill.broken(rows):
        print(f"not as it should be: {', '.join(broken)}", file=sys.stderr)
        raise SystemExit(1)


def write(path: Path, origin: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the JSON of rows, and beside it their table in markdown."""
    folders.write_json(path, {**origin, "rows": [row.to_json() for row in rows]})
    cells = [[cell.replace("|", r"\|") for cell in row.cells()] for row in rows]
    files.write_text(path.with_suffix(".md"), tables.markdown(HEADER, cells) + "\n")


if __name__ == "__main__":
    main()
