"""The optimiser: Adam, cosine to zero, clipped gradients, optional warm-up (paper §4.1)."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Constants of the optimiser. The defaults are the paper's for sorting.

    Raises:
        ValueError: on construction, for values that no schedule can have.
    """

    learning_rate: float = 2e-4
    """Peak learning rate."""
    steps: int = 20_000
    """Updates of the whole run; the cosine reaches zero with the last one."""
    warmup_steps: int = 0
    """Updates of linear warm-up from zero."""
    clip: float = 0.25
    """Largest global norm of the gradient."""
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self):
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: a number > 0")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps: found {self.warmup_steps} with steps {self.steps}, "
                f"accepted: 0 ≤ warmup_steps < steps"
            )


def schedule(cfg: OptimConfig) -> optax.Schedule:
    """Learning rate by update: linear from 0 to the peak, then a cosine to 0."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if cfg.warmup_steps else cfg.learning_rate,
        peak_value=cfg.learning_rate,
        warmup_steps=cfg.warmup_steps,
        decay_steps=cfg.steps,
    )


def optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """Clip by global norm, then Adam with the schedule."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip), optax.adam(schedule(cfg), b1=cfg.b1, b2=cfg.b2)
    )
