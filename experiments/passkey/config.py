"""Configuration and presets of the experiment."""

import dataclasses
from typing import Annotated

from experiments.language_modeling.config import TextConfig, grafted
from experiments.passkey.data import Sizes
from experiments.run.config import small_model
from inf_former_jax.fields import Count, Required, Sample
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.presets import BY_CONTENT
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PasskeyConfig(TextConfig):
    """One run of the passkey experiment."""

    data: Annotated[str, Required("a folder of text with train, valid, test")] = ""
    """Required: folder of text with the splits train, valid and test (`data/text.py`)."""
    tokenizer: str = "bytes"
    """"bytes", a tokenizer.json, or a folder with one or with vocab.json and merges.txt. A run that
    begins with a model has the model's own in place of bytes."""
    cache: str = ""
    """Folder to keep the tokens in; "" = in memory only."""
    task: Sizes = dataclasses.field(default_factory=Sizes)
    batch_size: Count = 8
    test_documents: Sample = 64
    """Test documents; each is asked at every distance."""
    valid_documents: Sample = 16


def _small(model: ModelConfig, **changes) -> PasskeyConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, 65 segments of 64 bytes."""
    sizes = {"vocab_size": 257, "segment_len": 64, "mem_len": 64, "norm": "pre"}
    return PasskeyConfig(
        model=small_model(model, **{**sizes, **changes}),
        optim=OptimConfig(learning_rate=1e-3, steps=6000, warmup_steps=100),
        loop=LoopConfig(eval_every=500),
    )


#: 512 cells, of which seven eighths hold older tokens. On short documents reading is learned, and
#: what is worth keeping when cells are full: a model is asked at longer distances afterwards. A
#: number for each cell would learn what stands where in training, and older keys stand elsewhere.
_BY_WORTH = {"num_basis": 512, "contraction": "kept", "tau": 0.875, "sticky": True}
_BY_WORTH |= {"learn_worth": True, "age_bias": "none"}


def _grafted() -> PasskeyConfig:
    """A published model whose memory alone is trained, at distances that all fit into its cells."""
    given = presets.smollm2_infinity(segment_len=64, mem_len=64, cell_distance=512)
    assert given.long_term is not None
    memory = dataclasses.replace(given.long_term, **_BY_WORTH)
    of_novels = grafted(dataclasses.replace(given, long_term=memory))
    return PasskeyConfig(
        model=of_novels.model,
        optim=dataclasses.replace(of_novels.optim, steps=10, warmup_steps=2),
        loop=LoopConfig(eval_every=10, log_every=1),
        task=Sizes(distances=(2, 5, 8)),
        batch_size=8,
        test_documents=8,
        valid_documents=4,
    )


def _worth() -> PasskeyConfig:
    """A small model that learns what is worth keeping, on documents of ten segments.

    Eight fit into its cells. So a fifth of a document has to be dropped in training, and a key that
    is worth too little loses digits there. (It may still lose some of 65 segments.)
    """
    memory = dataclasses.replace(BY_CONTENT, **_BY_WORTH)
    given = _small(presets.infinity_former(), mem_len=0, memory_gradient=10, long_term=memory)
    return dataclasses.replace(
        given,
        optim=OptimConfig(learning_rate=2e-3, steps=800, warmup_steps=100),
        task=Sizes(distances=(1, 2, 4, 9)),
        batch_size=32,
    )


PRESETS: dict[str, tuple[str, PasskeyConfig]] = {
    "infinity-former-lasting": (
        "The ∞-former, CPU size, with power contraction: 64 segments have the same width.",
        _small(
            presets.infinity_former_lasting(),
            long_term=LongTermConfig(
                num_basis=128, widths=(0.0078,), num_samples=1024, contraction="power"
            ),
        ),
    ),
    "infinity-former-content": (
        "The same on 128 equal cells, written as intervals and read by content.",
        _small(presets.infinity_former(), long_term=dataclasses.replace(BY_CONTENT, num_basis=128)),
    ),
    "infinity-former-worth": (
        "The same on 512 cells, of which those stay that it learned to keep; 10 segments of 64.",
        _worth(),
    ),
    "infinity-former": (
        "The same with the paper's fixed contraction, τ = .75, and widths.",
        _small(presets.infinity_former(), long_term=LongTermConfig(num_basis=128, num_samples=128)),
    ),
    "transformer-xl": (
        "Transformer-XL: no long-term memory, a short-term memory twice as long.",
        _small(presets.transformer_xl(), mem_len=128),
    ),
    "smollm2-infinity": (
        "SmolLM2-135M (--init-from) whose cells alone are trained; 9 segments of 64 tokens.",
        _grafted(),
    ),
}
