"""The earlier name of `models.convert.gpt2`; it stays importable."""

from inf_former_jax.models.convert.gpt2 import *  # noqa: F403
