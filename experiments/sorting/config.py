"""Configuration and presets of the experiment."""

import dataclasses

from experiments.run.config import RunConfig
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingConfig(RunConfig):
    """One run of the sorting experiment."""

    length: int = 1068
    """n, tokens to sort; with separator and answers n + 20 inputs."""
    train_sequences: int = 0
    """Sequences to train on, round and round; 0 = each update has fresh ones."""
    test_sequences: int = 800
    valid_sequences: int = 160
    data: str = ""
    """Folder with train.txt, valid.txt and test.txt in the published format; "" = generate."""


def small(model: ModelConfig, **changes) -> SortingConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, 17 segments of 64."""
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "d_model": 64, "d_inner": 128}
    small = {**sizes, "segment_len": 64, "mem_len": 64, "dropout": 0.0}
    model = dataclasses.replace(model, **{**small, **changes})
    return SortingConfig(
        model=model,
        optim=OptimConfig(learning_rate=2e-3, steps=1600, warmup_steps=100),
        loop=LoopConfig(eval_every=200, minutes=8.0),
    )


_SMALL_MEMORY = LongTermConfig(num_basis=64, num_samples=64)


def paper(model: ModelConfig, length: int) -> SortingConfig:
    """The paper's settings (SPEC §5), for an accelerator."""
    return SortingConfig(
        model=model,
        optim=OptimConfig(),
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
