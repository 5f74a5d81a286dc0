"""Configuration and presets of the experiment."""

import dataclasses

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import optim, step
from inf_former_jax.training.checkpoint import CheckpointConfig
from inf_former_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class SortingConfig:
    """One run of the sorting experiment."""

    model: ModelConfig
    optim: optim.OptimConfig
    objective: step.Objective = dataclasses.field(default_factory=step.Objective)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    length: int = 1068
    """n, tokens to sort; with separator and answers n + 20 inputs."""
    batch_size: int = 16
    train_sequences: int = 0
    """Sequences to train on, round and round; 0 = each update has fresh ones."""
    test_sequences: int = 800
    valid_sequences: int = 160
    seed: int = 0
    data: str = ""
    """Folder with train.txt, valid.txt and test.txt in the published format; "" = generate."""
    out: str = ""
    """Run folder; "" = runs/sorting/PRESET-seed. The same command goes on where it stopped."""
    fresh: bool = False
    """Start anew in a numbered folder if there is a run already."""
    mesh_model: int = 1
    """Devices along the mesh's model axis; the others split the batch."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra `tensorboard`)."""
    distributed: bool = False
    """Several hosts: call jax.distributed.initialize() first; start the same command on each."""


def small(model: ModelConfig, **changes) -> SortingConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, 17 segments of 64."""
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "d_model": 64, "d_inner": 128}
    small = {**sizes, "segment_len": 64, "mem_len": 64, "dropout": 0.0}
    model = dataclasses.replace(model, **{**small, **changes})
    return SortingConfig(
        model,
        optim.OptimConfig(learning_rate=2e-3, steps=1600, warmup_steps=100),
        loop=LoopConfig(eval_every=200, minutes=8.0),
    )


_SMALL_MEMORY = LongTermConfig(num_basis=64, num_samples=64)


def paper(model: ModelConfig, length: int) -> SortingConfig:
    """The paper's settings (SPEC §5), for an accelerator."""
    return SortingConfig(
        model,
        optim.OptimConfig(),
        length=length,
        batch_size=8,
        train_sequences=8000,
    )


PRESETS: dict[str, tuple[str, SortingConfig]] = {
    "infinity-former": (
        "The ∞-former, CPU size: 1,068 tokens in 17 segments of 64, 15 writes to the memory.",
        small(presets.infinity_former(), long_term=_SMALL_MEMORY),
    ),
    "infinity-former-sticky": (
        "The same with sticky memories.",
        small(
            presets.infinity_former_sticky(),
            long_term=dataclasses.replace(_SMALL_MEMORY, sticky=True),
        ),
    ),
    "infinity-former-lasting": (
        "The same with τ_k = k/(k+1) and constants chosen by retention, at equal cost.",
        small(
            presets.infinity_former_lasting(),
            long_term=dataclasses.replace(_SMALL_MEMORY, contraction="power", widths=(0.015,)),
        ),
    ),
    "infinity-former-small": (
        "The same with half the basis functions, which retain as much.",
        small(
            presets.infinity_former_small(),
            long_term=LongTermConfig(
                num_basis=32, num_samples=256, contraction="power", widths=(0.015,)
            ),
        ),
    ),
    "compressive": (
        "The Compressive Transformer at equal cost, CPU size: 64 short-term, 64 compressed.",
        small(presets.compressive(), compressed=CompressedConfig(length=64)),
    ),
    "transformer-xl": (
        "Transformer-XL at equal cost, CPU size: short-term memory of 128.",
        small(presets.transformer_xl(), mem_len=128),
    ),
    "vanilla": ("No memory at all, CPU size.", small(presets.vanilla(), mem_len=0)),
    "paper-4k": ("The paper's ∞-former on 4,000 tokens.", paper(presets.infinity_former(), 4000)),
    "paper-8k": ("The paper's ∞-former on 8,000 tokens.", paper(presets.infinity_former(), 8000)),
    "paper-16k": (
        "The paper's ∞-former on 16,000 tokens.",
        paper(presets.infinity_former(), 16000),
    ),
}
