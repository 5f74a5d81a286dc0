"""Configuration and presets of the experiment."""

import dataclasses
from typing import Any

from experiments.run.config import RunConfig, small_model
from inf_former_jax.fields import Count, Natural, Sample
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.presets import BY_CONTENT, INTERVALS
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingConfig(RunConfig):
    """One run of the sorting experiment."""

    length: Count = 1068
    """n, tokens to sort; with separator and answers n + 20 inputs."""
    train_sequences: Natural = 0
    """Sequences to train on, round and round; 0 = each update has fresh ones."""
    test_sequences: Sample = 800
    valid_sequences: Sample = 160
    data: str = ""
    """Folder with train.txt, valid.txt and test.txt in the published format; "" = generate."""


def small(model: ModelConfig, **changes) -> SortingConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, 17 segments of 64."""
    return SortingConfig(
        model=small_model(model, **{"segment_len": 64, "mem_len": 64, **changes}),
        optim=OptimConfig(learning_rate=2e-3, steps=1600, warmup_steps=100),
        loop=LoopConfig(eval_every=200, minutes=8.0),
    )


def _infinity(**memory) -> SortingConfig:
    """A small ∞-former whose long-term memory has N = M = 64, but for these changes."""
    long_term = LongTermConfig(**{"num_basis": 64, "num_samples": 64, **memory})
    return small(presets.infinity_former(), long_term=long_term)


def _best() -> SortingConfig:
    """What trained the sorter that comes with the project, with settings that were measured."""
    memory = dataclasses.replace(
        INTERVALS, num_basis=64, content_heads=2, turn_queries=True, age_bias="cells"
    )
    best = small(presets.infinity_former(), long_term=memory)
    return dataclasses.replace(
        best,
        length=4012,
        batch_size=8,
        optim=dataclasses.replace(best.optim, steps=6500),
        loop=dataclasses.replace(best.loop, minutes=0.0),
    )


def paper(model: ModelConfig, length: int) -> SortingConfig:
    """The paper's settings (SPEC §5), for an accelerator."""
    sizes: dict[str, Any] = {"length": length, "batch_size": 8, "train_sequences": 8000}
    return SortingConfig(model=model, optim=OptimConfig(), **sizes)


PRESETS: dict[str, tuple[str, SortingConfig]] = {
    "infinity-former": (
        "The ∞-former, CPU size: 1,068 tokens in 17 segments of 64, 15 writes to the memory.",
        _infinity(),
    ),
    "infinity-former-sticky": ("The same with sticky memories.", _infinity(sticky=True)),
    "infinity-former-lasting": (
        "The same with τ_k = k/(k+1) and constants chosen by retention, at equal cost.",
        _infinity(contraction="power", widths=(0.015,)),
    ),
    "infinity-former-small": (
        "The same with half the basis functions, which retain as much.",
        _infinity(num_basis=32, num_samples=256, contraction="power", widths=(0.015,)),
    ),
    "infinity-former-content": (
        "The same on 64 equal cells, written as intervals and read by content.",
        small(presets.infinity_former(), long_term=dataclasses.replace(BY_CONTENT, num_basis=64)),
    ),
    "infinity-former-best": (
        "The most accurate on 4,012 tokens: cells, two heads of four read by content; 40 minutes.",
        _best(),
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
} | {
    f"paper-{length // 1000}k": (
        f"The paper's ∞-former on {length:,} tokens.",
        paper(presets.infinity_former(), length),
    )
    for length in (4000, 8000, 16000)
}
