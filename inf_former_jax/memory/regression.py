"""The name of `memory.fit.ridge` before the ways to fit became a package."""

from inf_former_jax.memory.fit.ridge import *  # noqa: F403
