"""The optimiser: Adam or AdamW, clipped gradients, warm-up; the memory's parameters apart.

The paper's: Adam with a cosine to zero for sorting (§4.1), AdamW with another rate and no decay for
what is added to GPT-2 (§4.2; SPEC §6).
"""

import dataclasses
import re
from typing import Any, Literal

import jax
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
    """Steps of the whole run; the decay reaches zero with the last one."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    clip: float = 0.25
    """Largest global norm of the gradient."""
    b1: float = 0.9
    b2: float = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """From the peak on: a half cosine to zero, a straight line to zero, or nothing."""
    weight_decay: float = 0.0
    """AdamW's, of matrices and embeddings; none of biases, norms and the memory's parameters."""
    memory_learning_rate: float = 0.0
    """Peak rate of the memory's parameters; 0 = learning_rate."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one update, each step with the same weight."""

    def __post_init__(self):
        for name in ("learning_rate", "clip"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a number > 0")
        for name in ("weight_decay", "memory_learning_rate"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "a number ≥ 0")
        known = ("cosine", "linear", "constant")
        _require(self.schedule in known, "schedule", self.schedule, ", ".join(known))
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps: found {self.warmup_steps} with steps {self.steps}, "
                f"accepted: 0 ≤ warmup_steps < steps"
            )
        fits = self.accumulate >= 1 and self.steps % self.accumulate == 0
        accepted = f"a divisor of steps {self.steps}"
        _require(fits, "accumulate", self.accumulate, accepted)


def _require(holds, name, found, accepted):
    if not holds:
        raise ValueError(f"{name}: found {found}, accepted: {accepted}")


def schedule(cfg: OptimConfig, peak: float | None = None) -> optax.Schedule:
    """Learning rate by update: linear from 0 to the peak, then as `cfg.schedule` says.

    Args:
        peak: instead of `cfg.learning_rate`.
    """
    peak = cfg.learning_rate if peak is None else peak
    warmup, steps = cfg.warmup_steps // cfg.accumulate, cfg.steps // cfg.accumulate
    if cfg.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup else peak,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=steps,
        )
    end = 0.0 if cfg.schedule == "linear" else peak
    decay = optax.linear_schedule(peak, end, steps - warmup)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """Clip by global norm, then Adam(W) with the schedule; an update every `accumulate` steps."""
    rate = cfg.memory_learning_rate or cfg.learning_rate
    if cfg.weight_decay or rate != cfg.learning_rate:
        body = optax.adamw(
            schedule(cfg), b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=_matrices
        )
        memory = optax.adam(schedule(cfg, rate), b1=cfg.b1, b2=cfg.b2)
        adam = optax.partition({"body": body, "memory": memory}, labels)
    else:
        adam = optax.adam(schedule(cfg), b1=cfg.b1, b2=cfg.b2)
    tx = optax.chain(optax.clip_by_global_norm(cfg.clip), adam)
    if cfg.accumulate == 1:
        return tx
    return optax.MultiSteps(tx, cfg.accumulate).gradient_transformation()


_MEMORY = re.compile(r"\['(long_term|compression)'\]")


def labels(params: Any) -> Any:
    """A tree like params: "memory" for what a memory adds to a transformer, else "body"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "memory" if _MEMORY.search(jax.tree_util.keystr(path)) else "body", params
    )


def _matrices(params):
    """What decays: not biases, nor scales of norms; [H, K] biases of heads are told by name."""

    def decays(path, leaf):
        return leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path[-1:])

    return jax.tree_util.tree_map_with_path(decays, params)
