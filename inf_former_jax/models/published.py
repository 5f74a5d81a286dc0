"""The earlier name of `models.convert.published`; it stays importable."""

from inf_former_jax.models.convert.published import *  # noqa: F403
