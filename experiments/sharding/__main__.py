"""What a training step needs on a mesh: bytes on each device, and what devices tell each other.

    python -m experiments.sharding EXPERIMENT PRESET [--options]
    python -m experiments.sharding scaling [--options]
    python -m experiments.sharding agree [--options]

The first form computes nothing: the step is compiled for pretended CPU devices, and its program is
looked at.
An accelerator's compiler may merge or split what is told, and needs other scratch memory. `scaling`
says from such counts what share of an update many devices would spend on telling. `agree` trains
every preset, made tiny, on meshes of pretended devices, and says how far they are from one device.
"""

if __name__ == "__main__":  # before JAX is imported, which takes seconds
    from experiments.run import process

    process.begin()

import dataclasses
import sys
from collections.abc import Sequence

import jax

from experiments.catalogue import EXPERIMENTS
from experiments.run import cli, devices, folders, tables
from experiments.sharding import agree, layout, scaling
from experiments.sharding.layout import Told
from inf_former_jax.fields import Checked, Count, Natural
from inf_former_jax.require import require
from inf_former_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class ShardingConfig(Checked):
    """The mesh and the batch."""

    devices: Count = 8
    """Devices of the mesh."""
    fsdp: Count = 1
    """How many of them share the parameters and the optimiser between updates."""
    model: Count = 1
    """How many of them share each row: heads, feed-forward and vocabulary are split."""
    batch_size: Natural = 0
    """B, rows of all devices together; 0 = the preset's, or one a device if those are too few."""
    segments: Count = 4
    """W, segments of a row in one update."""
    out: str = ""
    """Folder of sharding.json; "" = the table alone."""


_COMMANDS = {"scaling": scaling.main, "agree": agree.main}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.sharding EXPERIMENT PRESET [--options]`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        return print(__doc__)
    if argv[0] in _COMMANDS:
        return _COMMANDS[argv[0]](argv[1:])
    experiment, preset = [*argv, "none"][:2]
    with cli.refusals():
        require(experiment in EXPERIMENTS, "EXPERIMENT", experiment, ", ".join(EXPERIMENTS))
        presets = EXPERIMENTS[experiment].presets
        require(preset in presets, "PRESET", preset, ", ".join(presets))
    program = f"python -m experiments.sharding {experiment} {preset}"
    cfg = cli.options(program, __doc__, ShardingConfig(), argv[2:])
    jax.config.update("jax_platforms", "cpu")  # an accelerator has not so many devices
    devices.offer(cfg.devices)
    with cli.refusals():
        config = presets[preset][1]
        rows = cfg.batch_size or max(config.batch_size, cfg.devices // cfg.model)
        mesh = sharding.make_mesh(cfg.model, cfg.devices, cfg.fsdp)
        told = layout.told(config, mesh, rows, cfg.segments)
        report(f"{experiment} {preset}, {rows} rows of {cfg.segments} segments", told)
        if cfg.out:
            origin = folders.provenance("sharding", preset, argv)
            content = {**origin, "settings": folders.to_json(cfg), **told._asdict()}
            path = folders.make(cfg.out) / "sharding.json"
            folders.write_json(path, content)
            print(path)


def report(title: str, told: Told) -> None:
    """Print bytes a device, what devices tell each other, and what stays whole on each."""
    mesh = " × ".join(f"{count} {name}" for name, count in told.mesh.items())
    rows = [(what, f"{count / 2**20:,.3f}") for what, count in told.bytes_of.items()]
    tables.show(f"{title}, on {mesh}", ("on each device", "MiB"), rows)
    sums = []
    for row in told.collectives:
        cells = map(str, (row["kind"], row["among"], row["when"], row["count"]))
        sums.append((*cells, f"{row['bytes'] / 2**20:,.3f}"))
    tables.show("what devices tell each other", ("", "devices", "when", "times", "MiB"), sums)
    if told.whole:
        print(f"not split, since the mesh does not divide them: {', '.join(told.whole)}")


if __name__ == "__main__":
    main()
