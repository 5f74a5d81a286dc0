"""The public name of `models.convert.published`."""

from inf_former_jax.models.convert.published import *  # noqa: F403
