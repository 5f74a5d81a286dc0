"""Configuration and presets of the experiment."""

import dataclasses

from experiments.recall.data import Sizes
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import optim, step
from inf_former_jax.training.checkpoint import CheckpointConfig
from inf_former_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class RecallConfig:
    """One run of the recall experiment."""

    model: ModelConfig
    optim: optim.OptimConfig
    task: Sizes = dataclasses.field(default_factory=Sizes)
    objective: step.Objective = dataclasses.field(default_factory=step.Objective)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    batch_size: int = 16
    test_documents: int = 800
    valid_documents: int = 160
    seed: int = 0
    out: str = ""
    """Run folder; "" = runs/recall/PRESET-seed. The same command goes on where it stopped."""
    fresh: bool = False
    """Start anew in a numbered folder if there is a run already."""
    mesh_model: int = 1
    """Devices along the mesh's model axis; the others split the batch."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra `tensorboard`)."""
    distributed: bool = False
    """Several hosts: call jax.distributed.initialize() first; start the same command on each."""


def _small(model: ModelConfig, **changes) -> RecallConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, segments of 16.

    Four pairs, one a segment, are few enough to be learnt in ten minutes, if the gradient reaches
    the writes of all of them.
    """
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "d_model": 64, "d_inner": 128}
    small = {**sizes, "segment_len": 16, "mem_len": 16, "dropout": 0.0, "vocab_size": 32}
    small["norm"] = "pre"
    model = dataclasses.replace(model, **{**small, **changes})
    return RecallConfig(
        model,
        optim.OptimConfig(learning_rate=2e-3, steps=3000, warmup_steps=100),
        task=Sizes(num_keys=4, segments=5, questions=2),
        loop=LoopConfig(eval_every=250, minutes=10.0),
        batch_size=64,
    )


def _remembering(**changes) -> RecallConfig:
    """An ∞-former whose long-term memory differs from the small one by these changes."""
    memory = LongTermConfig(**{"num_basis": 128, "num_samples": 128, **changes})
    return _small(presets.infinity_former(), long_term=memory, memory_gradient=4)


PRESETS: dict[str, tuple[str, RecallConfig]] = {
    "infinity-former": (
        "The ∞-former, CPU size: fixed contraction, τ = .75, as the paper's.",
        _remembering(),
    ),
    "infinity-former-tau-.9": (
        "The same with τ = .9: the past fades more slowly, and the newest write has less room.",
        _remembering(tau=0.9),
    ),
    "infinity-former-lasting": (
        "The same with power contraction: all 64 and fewer segments have the same width.",
        _remembering(contraction="power"),
    ),
    "infinity-former-sticky": (
        "The same with fixed contraction and sticky memories.",
        _remembering(sticky=True),
    ),
    "transformer-xl": (
        "Transformer-XL: no long-term memory; two layers see two segments back.",
        _small(presets.transformer_xl()),
    ),
}
