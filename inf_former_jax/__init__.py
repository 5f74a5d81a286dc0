"""The ∞-former (Martins et al., ACL 2022) in JAX: an unbounded past at constant cost.

These are the names that a notebook needs. Everything else is in `memory`, `models`, `training`,
`generate` and `data`. Docstrings cite docs/mathematics.md as SPEC §n, and the paper as §n.
"""

import inf_former_jax.generate as generate
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.state import init, reset
from inf_former_jax.models import presets
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators

__all__ = [
    "Decoder",
    "LongTermAttention",
    "LongTermConfig",
    "ModelConfig",
    "generate",
    "init",
    "operators",
    "presets",
    "reset",
]
