"""The public name of `models.convert.llama`."""

from inf_former_jax.models.convert.llama import *  # noqa: F403
