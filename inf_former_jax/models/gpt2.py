"""The public name of `models.convert.gpt2`."""

from inf_former_jax.models.convert.gpt2 import *  # noqa: F403
