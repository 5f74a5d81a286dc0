"""Configuration and presets of the experiment."""

import dataclasses

from experiments.recall.data import Sizes
from experiments.run.config import RunConfig, small_model
from inf_former_jax.fields import Sample
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.presets import BY_CONTENT
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallConfig(RunConfig):
    """One run of the recall experiment."""

    task: Sizes = dataclasses.field(default_factory=Sizes)
    test_documents: Sample = 800
    valid_documents: Sample = 160


def _small(model: ModelConfig, **changes) -> RecallConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, segments of 16.

    Four pairs, one a segment, are few enough to be learnt in ten minutes, if the gradient reaches
    the writes of all of them.
    """
    sizes = {"vocab_size": 32, "segment_len": 16, "mem_len": 16, "norm": "pre"}
    return RecallConfig(
        model=small_model(model, **{**sizes, **changes}),
        optim=OptimConfig(learning_rate=2e-3, steps=3000, warmup_steps=100),
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
    "infinity-former-content": (
        "On equal cells, written as intervals and read by content. There is no short-term memory "
        "and no gradient through the memory.",
        dataclasses.replace(
            _small(
                presets.infinity_former(),
                long_term=dataclasses.replace(BY_CONTENT, num_basis=128),
                mem_len=0,
            ),
            optim=OptimConfig(learning_rate=2e-3, steps=800, warmup_steps=100),
        ),
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
