"""The models of the paper as values of `ModelConfig`, in its sizes for sorting (SPEC §5)."""

import dataclasses

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import ModelConfig

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

    Of 64 segments of 128 tokens every one can still be read with R² ≥ .8 by one density; the
    paper's constants have lost all but the last 20 (`python -m experiments.analysis retention`;
    `choose` finds the constants for other lengths).
    """
    lasting = LongTermConfig(contraction="power", widths=(0.0039,))
    return dataclasses.replace(_SORTING, **{"long_term": lasting, **changes})


def infinity_former_small(**changes) -> ModelConfig:
    """As lasting with a quarter of the basis functions: what one density reads needs no more.

    64 segments are retained as well (their means; finer detail is not); a read costs a quarter. The
    many samples M enter the operators of a uniform memory only, not the cost of its writes.
    """
    small = LongTermConfig(num_basis=128, num_samples=1024, contraction="power", widths=(0.0078,))
    return dataclasses.replace(_SORTING, **{"long_term": small, **changes})
