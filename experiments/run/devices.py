"""How many devices a run takes: on a CPU one for each core, if they divide the batch.

XLA's threads keep a second core busy only in large products; two devices, each with half of the
batch, keep both busy everywhere.
"""

import contextlib
import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.run import room
from experiments.run.config import RunConfig
from experiments.run.experiment import Config
from inf_former_jax.require import require
from inf_former_jax.training import sharding

#: With fewer rows a device, starting and joining programs costs more than a core gives.
_FEWEST_ROWS = 4


def offer(count: int = 0) -> None:
    """Make the CPU so many devices, by default one a core, if JAX has not begun with another.

    A number that is set already, in XLA_FLAGS or in JAX's config, stays. Accelerators do not mind.
    """
    if _is_set():
        return
    with contextlib.suppress(RuntimeError):  # JAX has begun, and refuses
        jax.config.update("jax_num_cpu_devices", count or room.cores())
        _offered.append(count)


#: The number that `offer` was called with, once it made the devices.
_offered: list[int] = []


def _is_set() -> bool:
    in_flags = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return in_flags or jax.config.jax_num_cpu_devices >= 0  # pyright: ignore


def best(batch_size: int, model: int, most: int, fsdp: int = 1) -> int:
    """The largest number of devices, at most `most`, that splits a batch evenly in enough rows.

    Args:
        model, fsdp: devices along these axes of the mesh; those along model share rows.
    """
    for count in range(most, 1, -1):
        parts, rest = divmod(count, model)
        whole = not rest and parts % fsdp == 0 and batch_size % parts == 0
        if whole and batch_size >= _FEWEST_ROWS * parts:
            return count
    return 1


def settled(cfg: Config, recorded: int = 0) -> tuple[Config, str]:
    """(the config with the number of its devices, what is to be said of it, if anything).

    Devices that were offered are taken as `best` has it, or as many as a run that goes on had.
    Others, such as accelerators or those of XLA_FLAGS, are all taken. On several hosts nothing is
    settled: the mesh spans all of their devices.

    Args:
        recorded: the number that the run had before; 0 = not known.

    Raises:
        ValueError: there are not as many devices as the config names, it names some on several
            hosts, or its batch does not divide among all that there are.
    """
    if cfg.distributed:
        require(not cfg.devices, "devices", f"{cfg.devices} with --distributed", "0, which is all")
        return cfg, ""
    count, note, there = cfg.devices, "", jax.device_count()
    if not count:
        count = there
        if _offered and jax.default_backend() == "cpu":
            known = 0 < recorded <= there
            along = cfg.mesh_model, there, cfg.mesh_fsdp
            count = recorded if known else best(cfg.batch_size, *along)
            if not known and count < there:
                note = (
                    f"devices: {count} for {there} cores, since a batch of {cfg.batch_size} rows "
                    f"is split evenly, {_FEWEST_ROWS} rows or more a device"
                )
    if recorded and count != recorded:
        note = f"devices: {recorded} → {count}; sums are taken in another order from here on"
    cfg = dataclasses.replace(cfg, devices=count)
    mesh_of(cfg)  # is refused here, if it is
    return cfg, note


def on_this_machine(cfg: Config, **changes: Any) -> Config:
    """The config, with changes, of a run that was trained on whatever mesh and hosts."""
    alone = {"mesh_model": 1, "mesh_fsdp": 1, "devices": 0, "distributed": False}
    return dataclasses.replace(cfg, **alone, **changes)


def mesh_of(cfg: RunConfig) -> Mesh:
    """The mesh that a config asks for.

    Raises:
        ValueError: the devices do not form it.
    """
    return sharding.make_mesh(cfg.mesh_model, cfg.devices, cfg.mesh_fsdp)
