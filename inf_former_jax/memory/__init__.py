"""The memory: pure functions of jax and NumPy, the paper's §2 and §3 and nothing else."""

from inf_former_jax.memory.retained import Retention, degrees_of_freedom, retention

__all__ = ["Retention", "degrees_of_freedom", "retention"]
