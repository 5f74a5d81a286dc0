"""Weak scaling by counts: what share of an update devices spend on telling each other the gradient.

    python -m experiments.sharding scaling [--options]

Each device has the preset's rows, and all of them sum their gradient once an update. The products
are counted in the traced step, the bytes in the program that was compiled for eight pretended
devices. Nothing is measured: the seconds are these counts over what a manufacturer promises.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmark import steps
from experiments.benchmark.timing import count_products
from experiments.catalogue import EXPERIMENTS
from experiments.results.sharding import scaling_table
from experiments.run import cli, devices, folders
from experiments.sharding import layout
from inf_former_jax.fields import Checked, Count, NonEmpty, Positive
from inf_former_jax.require import require
from inf_former_jax.training import sharding
from inf_former_jax.training.optim import optimizer
from inf_former_jax.training.step import make_train_step


class Hardware(NamedTuple):
    """What a manufacturer promises of one device; bytes a second are those one way.

    Attributes:
        operations: multiplications and additions a second, in bfloat16.
        memory: bytes.
        near, group: bytes a second to the devices of its group, and how many these are.
        far: bytes a second to other groups.
    """

    operations: float
    memory: float
    near: float
    group: int
    far: float


#: Data sheets: NVIDIA H100 SXM with a port of 400 Gb/s a GPU; docs.cloud.google.com/tpu/docs, v5e
#: and v5p, where eight and four chips share a host's ports of 200 Gb/s.
HARDWARE: Mapping[str, Hardware] = {
    "H100 nodes": Hardware(989e12, 80e9, 450e9, 8, 50e9),
    "TPU v5e": Hardware(197e12, 16e9, 200e9, 256, 3.125e9),
    "TPU v5p": Hardware(459e12, 95e9, 600e9, 8960, 6.25e9),
}

#: Experiments whose batches can be made without their data.
_MADE = ("sorting", "recall", "language_modeling")


@dataclasses.dataclass(frozen=True)
class ScalingConfig(Checked):
    """Presets, and how many devices."""

    presets: NonEmpty[str] = (
        "sorting/paper-4k",
        "sorting/paper-16k",
        "language_modeling/paper-gpt2-infinity",
        "language_modeling/smollm2-infinity",
    )
    """EXPERIMENT/PRESET of sorting, recall or language_modeling, a row of the table each."""
    devices: NonEmpty[Count] = (8, 64, 256, 1024)
    """Numbers of devices."""
    share: Positive = 0.4
    """Of the promised operations, the share that a device reaches."""
    out: str = ""
    """Folder of scaling.json; "" = the table alone."""


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.sharding scaling [--options]`."""
    cfg = cli.options("python -m experiments.sharding scaling", __doc__, ScalingConfig(), argv)
    with cli.refusals():
        configs = {name: _config(name) for name in cfg.presets}
    jax.config.update("jax_platforms", "cpu")
    devices.offer(8)
    rows = [row for name, config in configs.items() for row in rows_of(name, config, cfg)]
    origin = folders.provenance("sharding", "scaling", ["scaling", *argv])
    result = {**origin, "settings": folders.to_json(cfg), "rows": rows}
    print(scaling_table([result]))
    if cfg.out:
        with cli.refusals():
            path = folders.make(cfg.out) / "scaling.json"
            folders.write_json(path, result)
            print(path)


def _config(name: str) -> Any:
    experiment, _, preset = name.partition("/")
    require(experiment in _MADE, "presets", name, f"EXPERIMENT/PRESET of {', '.join(_MADE)}")
    known = EXPERIMENTS[experiment].presets
    require(preset in known, "presets", name, f"{experiment}/ with {', '.join(known)}")
    return known[preset][1]


def rows_of(name: str, config: Any, cfg: ScalingConfig) -> list[dict[str, Any]]:
    """A row for each hardware, from the counts of one preset."""
    operations, segments, tokens = counted(config)
    told = layout.told(config, sharding.make_mesh(devices=8), 8 * config.batch_size, segments)
    sums = [row["bytes"] for row in told.collectives if row["kind"] == "all-reduce"]
    assert len(told.collectives) == len(sums)  # nothing else is told where rows alone are split
    held = sum(told.bytes_of.values())
    found = []
    for hardware, device in HARDWARE.items():
        computing = operations / (cfg.share * device.operations)
        telling = {str(n): seconds_to_sum(sum(sums), n, device) for n in cfg.devices}
        found.append(
            {
                "preset": name,
                "hardware": hardware,
                "tokens": tokens,
                "operations": operations,
                "told": sum(sums),
                "held": held,
                "fits": held <= device.memory,
                "computing": computing,
                "telling": telling,
                "share": {n: t / (t + computing) for n, t in telling.items()},
            }
        )
    return found


def counted(config: Any) -> tuple[float, int, int]:
    """(multiplications and additions of an update of one device, segments of a row, tokens)."""
    rows, model, mesh = config.batch_size, config.model, sharding.make_mesh(1, 1)
    host = steps.batches(config, rows)(np.arange(rows))
    given = layout.shapes(config, mesh, rows, host.tokens.shape[1])
    update = make_train_step(
        model, optimizer(config.optim), config.objective, trained=config.optim.trained
    )
    taken = steps.branches_taken(host, config.objective.schedule, model.memory_gradient)
    within = steps.kinds_within(host, model.memory_gradient)
    found = count_products(update.trace(*given).jaxpr.jaxpr, list(taken), within)
    return sum(found.values()), host.tokens.shape[1], steps.tokens_of(host)


def seconds_to_sum(count: float, number: int, device: Hardware) -> float:
    """Seconds in which `number` devices sum `count` bytes: by a ring in each group, then of groups.

    In a ring of n a device sends 2 (n − 1) / n of the bytes. Between groups it sends the share that
    it has summed within its own.
    """
    near = min(number, device.group)
    groups = -(-number // device.group)
    within = 2 * count * (near - 1) / near / device.near
    return within + 2 * (count / near) * (groups - 1) / groups / device.far
