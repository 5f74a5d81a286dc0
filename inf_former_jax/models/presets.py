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
