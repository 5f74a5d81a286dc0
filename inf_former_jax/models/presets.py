"""The models of the paper as values of `ModelConfig`: for sorting (SPEC §5), and GPT-2 (§6).

`models.convert.gpt2` loads published GPT-2 parameters and adds a memory to them.
"""

import dataclasses

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.require import require

#: Paper §4.1 with the constants of its code.
_SORTING = ModelConfig()


def vanilla(**changes) -> ModelConfig:
    """A decoder that sees its own segment only: no memory of any kind."""
    return dataclasses.replace(_SORTING, **{"mem_len": 0, **changes})


def transformer_xl(**changes) -> ModelConfig:
    """Transformer-XL with the paper's short-term memory of 2,048 (equal cost to the ∞-former)."""
    return dataclasses.replace(_SORTING, **{"mem_len": 2048, **changes})


def compressive(**changes) -> ModelConfig:
    """The Compressive Transformer: 1,024 short-term and 1,024 compressed vectors (SPEC §5b)."""
    return dataclasses.replace(_SORTING, **{"compressed": CompressedConfig(), **changes})


def infinity_former(**changes) -> ModelConfig:
    """The ∞-former with uniform locations: Transformer-XL plus the long-term memory (§3.2)."""
    return dataclasses.replace(_SORTING, **{"long_term": LongTermConfig(), **changes})


def infinity_former_sticky(**changes) -> ModelConfig:
    """The ∞-former with sticky memories, by quantile locations (§3.3)."""
    sticky = LongTermConfig(sticky=True)
    return dataclasses.replace(_SORTING, **{"long_term": sticky, **changes})


def infinity_former_lasting(**changes) -> ModelConfig:
    """The ∞-former whose memory lasts, at equal cost: τ_k = k/(k+1), one narrow width.

    After 64 segments of 128 tokens, one density still reads each of them with R² ≥ .8. With the
    paper's constants all but the last 20 are lost (`python -m experiments.analysis retention`).
    `python -m experiments.analysis choose` finds the constants for other lengths.
    """
    lasting = LongTermConfig(contraction="power", widths=(0.0039,))
    return dataclasses.replace(_SORTING, **{"long_term": lasting, **changes})


def infinity_former_small(**changes) -> ModelConfig:
    """The lasting ∞-former with a quarter of the basis functions; a read costs a quarter.

    The means of 64 segments are retained as well, which is all that one density can read; finer
    detail is lost. The many samples M are no cost: a uniform memory needs them for its operators
    only.
    """
    small = LongTermConfig(num_basis=128, num_samples=1024, contraction="power", widths=(0.0078,))
    return dataclasses.replace(_SORTING, **{"long_term": small, **changes})


#: A memory of N equal cells that is written without a regression: all segments have the same share
#: of it, and its mean is kept exactly (SPEC §9).
INTERVALS = LongTermConfig(functions="rectangular", fit="intervals", contraction="power")

#: The same read by content: a softmax over cells of one length, with a learned number for each.
BY_CONTENT = dataclasses.replace(
    INTERVALS, density="gibbs", turn_queries=True, age_bias="cells", unit_cells=True
)

#: The same for a model that is not trained: cells join its attention, by its own matrices. They are
#: means of vectors of one size, and of one segment as long as there are cells for all.
TRAINING_FREE = dataclasses.replace(
    INTERVALS,
    contraction="doubling",
    density="gibbs",
    projections="attention",
    joined=True,
    gate=False,
    unit_writes=True,
)


def infinity_former_intervals(**changes) -> ModelConfig:
    """The ∞-former on N cells, written as intervals and read by a Gaussian density (SPEC §9)."""
    return dataclasses.replace(_SORTING, **{"long_term": INTERVALS, **changes})


def infinity_former_content(**changes) -> ModelConfig:
    """The same read by content: each query's softmax over the cells (SPEC §9)."""
    return dataclasses.replace(_SORTING, **{"long_term": BY_CONTENT, **changes})


#: Layers, heads and width of the published GPT-2 models.
_GPT2_SIZES = {
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "xl": (48, 25, 1600),
}

#: The memory of the paper's GPT-2 (SPEC §6). The gate is the published code's.
_GPT2_MEMORY = LongTermConfig(widths=(0.005, 0.01), ridge=0.5, tau=0.5, min_var=1e-4)


def gpt2(size: str = "small", **changes) -> ModelConfig:
    """GPT-2 on segments of 512, each alone: the plain baseline of SPEC §6.

    Args:
        size: small, medium, large or xl.

    Raises:
        ValueError: no such size, or changes that do not fit.
    """
    require(size in _GPT2_SIZES, "size", size, " or ".join(_GPT2_SIZES))
    layers, heads, width = _GPT2_SIZES[size]
    plain = ModelConfig(
        vocab_size=50257,
        num_layers=layers,
        num_heads=heads,
        head_dim=width // heads,
        d_model=width,
        d_inner=4 * width,
        segment_len=512,
        mem_len=0,
        norm="pre",
        final_norm=True,
        position="learned",
        activation="gelu",
        attention_bias=True,
        tied=True,
        scale_embedding=False,
        attention_dropout=0.1,
        inner_dropout=False,
    )
    return dataclasses.replace(plain, **changes)


def gpt2_compressive(size: str = "small", **changes) -> ModelConfig:
    """GPT-2 beside a compressed memory of 512 vectors, as many as the ∞-former's N (SPEC §5b)."""
    return gpt2(size, **{"compressed": CompressedConfig(length=512), **changes})


def gpt2_infinity(size: str = "small", **changes) -> ModelConfig:
    """GPT-2 with a long-term memory in every layer (SPEC §6): segment s - 1 is written before s."""
    return gpt2(size, **{"long_term": _GPT2_MEMORY, **changes})


def gpt2_infinity_sticky(size: str = "small", **changes) -> ModelConfig:
    """The same with sticky memories, by quantile locations."""
    sticky = dataclasses.replace(_GPT2_MEMORY, sticky=True)
    return gpt2(size, **{"long_term": sticky, **changes})


def gpt2_infinity_lasting(size: str = "small", **changes) -> ModelConfig:
    """The same with power contraction, τ_k = k/(k+1): 65 segments share the signal equally.

    In a longer document the past fades by the factor τ_64 = .985 with each further write.
    """
    default = LongTermConfig().tau
    lasting = dataclasses.replace(_GPT2_MEMORY, contraction="power", tau=default)
    return gpt2(size, **{"long_term": lasting, **changes})


def gpt2_infinity_content(size: str = "small", **changes) -> ModelConfig:
    """GPT-2 with a memory of N cells that is written as intervals and read by content (SPEC §9).

    Cells join the keys and values of local attention, by its own matrices: the memory adds
    parameters for the gate and the age of cells only.
    """
    content = dataclasses.replace(
        INTERVALS, density="gibbs", age_bias="cells", projections="attention", joined=True
    )
    return gpt2(size, **{"long_term": content, **changes})


def smollm2(**changes) -> ModelConfig:
    """SmolLM2-135M, a small Llama (`experiments.weights smollm2`), with a rolling window.

    Segments of 256 see the segment before them and the text's first 4 tokens.
    """
    plain = ModelConfig(
        vocab_size=49152,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        d_model=576,
        d_inner=1536,
        segment_len=256,
        mem_len=256,
        sinks=4,
        norm="pre",
        norm_kind="rms",
        final_norm=True,
        position="rotary",
        max_position=8192,
        rope_theta=100000.0,
        activation="swiglu",
        tied=True,
        scale_embedding=False,
        dropout=0.0,
        inner_dropout=False,
    )
    return dataclasses.replace(plain, **changes)


def smollm2_infinity(**changes) -> ModelConfig:
    """The same with 512 cells beside the attention of its upper half, read by its own matrices.

    Half of the cells hold the 256 tokens that left the window last. The others hold older ones that
    attention fell on, as they are (paper §3.3). Each stands at its age before the window, at most
    2,048 tokens. What is learned (a K×K matrix a head, a number a head and cell) changes nothing at
    first.
    """
    attended = {"contraction": "kept", "tau": 0.5, "sticky": True}
    cells = dataclasses.replace(TRAINING_FREE, turn_queries=True, age_bias="cells", **attended)
    placed = {"mem_len": 512, "cells_by_age": True, "cell_distance": 2048}
    memory = {"long_term": cells, "long_term_layers": tuple(range(15, 30)), **placed}
    return smollm2(**{**memory, **changes})
