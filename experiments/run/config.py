"""The options that every experiment has."""

import dataclasses
from typing import Any

from experiments.run.hosts import HostsConfig
from inf_former_jax.fields import Checked, Count, Natural, Seed
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.checkpoint import CheckpointConfig
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.objective import Objective
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """One run of an experiment; the config of each experiment adds the fields of its task."""

    model: ModelConfig
    optim: OptimConfig
    objective: Objective = dataclasses.field(default_factory=Objective)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    batch_size: Count = 16
    """B, rows of an update."""
    seed: Seed = 0
    out: str = ""
    """Run folder; "" = runs/EXPERIMENT/PRESET-seed. The same command goes on where it stopped."""
    fresh: bool = False
    """Start anew in a numbered folder if there is a run already."""
    any_size: bool = False
    """Start also if more memory seems to be needed than there is."""
    mesh_model: Count = 1
    """Devices along the mesh's model axis; they share rows. May change in a run."""
    mesh_fsdp: Count = 1
    """Devices along the mesh's fsdp axis: they have rows of their own, and between updates each
    holds its share of the parameters and of the optimiser. May change in a run."""
    devices: Natural = 0
    """How many devices; 0 = all accelerators, or of a CPU a device a core. May change in a run."""
    keep_programs: bool = True
    """Keep compiled programs for the next start (docs/how_to/runs.md). May change in a run."""
    keep_lower: str = ""
    """Beside a frozen model (optim.trained memory): folder for what the layers below the memory say
    of each batch, where other runs on the same texts find it; "" = none."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra `tensorboard`). May change in a run."""
    distributed: bool = False
    """Several hosts: start the same command on each; `hosts` says how they find one another."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)


def small_model(model: ModelConfig, **changes: Any) -> ModelConfig:
    """The model in the size of the CPU presets, 2 layers of width 64, with these changes."""
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "d_model": 64, "d_inner": 128}
    return dataclasses.replace(model, **{**sizes, "dropout": 0.0, **changes})
