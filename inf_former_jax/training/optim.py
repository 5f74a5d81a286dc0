"""The optimiser: Adam or AdamW, clipped gradients, warm-up; the memory's parameters apart.

The paper's is Adam with a cosine to zero for sorting (§4.1), and AdamW for language models (§4.2;
SPEC §6), where what is added to GPT-2 has a rate of its own and no decay.
"""

import dataclasses
from typing import Any, Literal

import jax
import optax

from inf_former_jax.fields import Checked, Count, Natural, NonNegative, Positive, Rate
from inf_former_jax.models.config import MEMORY_PARAMETERS
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class OptimConfig(Checked):
    """Constants of the optimiser. The defaults are the paper's for sorting.

    Raises:
        ValueError: on construction, for values that no schedule can have.
    """

    learning_rate: Positive = 2e-4
    """Peak learning rate."""
    steps: Count = 20_000
    """Steps of the whole run; the decay reaches zero with the last one. Without a decay, they may
    grow when a run goes on."""
    warmup_steps: Natural = 0
    """Steps of linear warm-up from zero."""
    clip: Positive = 0.25
    """Largest global norm of the gradient."""
    b1: Rate = 0.9
    b2: Rate = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """From the peak on: a half cosine to zero, a straight line to zero, or nothing."""
    weight_decay: NonNegative = 0.0
    """AdamW's, of matrices and embeddings; none of biases, norms and the memory's parameters."""
    memory_learning_rate: NonNegative = 0.0
    """Peak rate of the memory's parameters; 0 = learning_rate."""
    trained: Literal["all", "memory"] = "all"
    """memory: what a memory adds to a model, and nothing else. The rest stays as it is, and has no
    gradient and no optimiser state."""
    accumulate: Count = 1
    """Steps whose gradients are averaged into one update, each step with the same weight."""
    skip_nonfinite: Natural = 0
    """How many updates in a row may be left out because a NaN or an infinity is in their loss,
    gradient or new state; one more ends the run. 0 = the first one ends it. Else the parameters of
    before are held until the new ones are known to be whole: one copy of them more."""

    def __post_init__(self):
        super().__post_init__()
        found = f"{self.warmup_steps} with steps {self.steps}"
        require(self.warmup_steps < self.steps, "warmup_steps", found, "warmup_steps < steps")
        fits = self.steps % self.accumulate == 0
        require(fits, "accumulate", self.accumulate, f"a divisor of steps {self.steps}")


def schedule(cfg: OptimConfig, peak: float | None = None) -> optax.Schedule:
    """Learning rate by update: linear from 0 to the peak, then as `cfg.schedule` says.

    Args:
        peak: instead of `cfg.learning_rate`.
    """
    peak = cfg.learning_rate if peak is None else peak
    warmup, steps = cfg.warmup_steps // cfg.accumulate, cfg.steps // cfg.accumulate
    if cfg.schedule == "cosine":
        begin = 0.0 if warmup else peak
        return optax.warmup_cosine_decay_schedule(begin, peak, warmup, steps)
    end = 0.0 if cfg.schedule == "linear" else peak
    decay = optax.linear_schedule(peak, end, steps - warmup)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """Clip by global norm, then Adam(W) with the schedule; an update every `accumulate` steps."""
    rate = cfg.memory_learning_rate or cfg.learning_rate
    if cfg.trained == "memory":
        memory = optax.adam(schedule(cfg, rate), b1=cfg.b1, b2=cfg.b2)
        memory = optax.chain(optax.clip_by_global_norm(cfg.clip), memory)
        memory = _every(cfg.accumulate, memory)
        return optax.partition({"body": optax.set_to_zero(), "memory": memory}, labels)
    adam = optax.adam(schedule(cfg), b1=cfg.b1, b2=cfg.b2)
    if cfg.weight_decay or rate != cfg.learning_rate:
        body = optax.adamw(
            schedule(cfg), b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=_decaying
        )
        memory = optax.adam(schedule(cfg, rate), b1=cfg.b1, b2=cfg.b2)
        adam = optax.partition({"body": body, "memory": memory}, labels)
    return _every(cfg.accumulate, optax.chain(optax.clip_by_global_norm(cfg.clip), adam))


def _every(steps: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """One update by the mean gradient of so many steps."""
    if steps == 1:
        return tx
    return optax.MultiSteps(tx, steps).gradient_transformation()


def labels(params: Any) -> Any:
    """A tree like params: "memory" for what a memory adds to a transformer, else "body"."""

    def label(path, _):
        names = {getattr(key, "key", None) for key in path}
        return "body" if names.isdisjoint(MEMORY_PARAMETERS) else "memory"

    return jax.tree_util.tree_map_with_path(label, params)


def _decaying(params: Any) -> Any:
    """True for matrices. Biases of heads are [H, K], and are told from them by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path[-1:]), params
    )
