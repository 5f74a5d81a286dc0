"""One update: a scan over the segments of a batch (SPEC §4).

The memory is a constant to autodiff, so the gradient of a document's loss is the sum of its
segments' gradients: it is taken *inside* the scan, and one segment's activations are all that is
ever stored. Segments that carry no loss are run forward only, those that are padding in every row
not at all. With `ModelConfig.memory_gradient` the same holds of groups of segments
(`training/gradient.py`). With `Objective.schedule = "parallel"` many segments are one batch
(`models/parallel.py`): more work at a time for the device, more activations to keep. Either way
the gradient is taken in `training/schedules.py`.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import segments
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import parallel
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.require import require
from inf_former_jax.training import schedules
from inf_former_jax.training.forward import SUMS, token_sums
from inf_former_jax.training.state import TrainState

__all__ = ["SUMS", "Objective", "make_train_step", "memory_finite", "token_sums"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a training step minimises beside the cross-entropy.

    Raises:
        ValueError: on construction, for a negative weight.
    """

    kl_weight: float = 1e-6
    """λ_KL of the long-term memory's densities."""
    reconstruction_weight: float = 1.0
    """Weight of the compressed memory's reconstruction loss; it trains f_c and nothing else."""
    empty_memory: bool = False
    """Control: clear the long-term or compressed memory before every segment."""
    schedule: Literal["sequential", "parallel"] = "sequential"
    """Segments of a batch one after the other, or layer by layer all at once (the same numbers).

    Parallel keeps the activations of all segments at a time, or of `segments_at_once`. Of these it
    differentiates all from the first, the middle or the last one on, those without loss and those
    of padding too. Not for compressed memories or a gradient through the memory.
    """
    segments_at_once: int = 0
    """How many segments the parallel schedule takes at a time, and then the next; 0 = all of a
    batch, but on a CPU as many as have 1,024 tokens in all rows."""

    def __post_init__(self):
        for name in ("kl_weight", "reconstruction_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: a number ≥ 0")
        at_once = self.segments_at_once
        require(at_once >= 0, "segments_at_once", at_once, "an integer ≥ 0")
        accepted = "sequential or parallel"
        require(self.schedule in ("sequential", "parallel"), "schedule", self.schedule, accepted)
        ignored = at_once and self.schedule == "sequential"
        require(not ignored, "segments_at_once", f"{at_once} with schedule sequential", "0 there")


def _denominators(cfg, seen, batch):
    """(weight of the batch, its queries in segments with loss whose row has written).

    Known before any of it is run. Both are summed over rows at once: on a mesh two sums would be
    two collectives that wait for each other on a CPU with few threads.
    """
    valid = jnp.ones_like(batch.weights, bool) if batch.valid is None else batch.valid
    queries = jnp.where((batch.weights > 0).any(-1), valid.sum(-1), 0)  # [B, W]

    def count(seen, now):
        queries, resets = now
        seen = jnp.where(resets, 0, seen)
        counted = jnp.where(memories.has_pending(cfg, seen), queries, 0)
        return memories.advance(seen, cfg.segment_len), counted

    xs = queries.T, batch.resets.T
    _, counts = jax.lax.scan(count, seen, xs, unroll=segments.UNROLLED)
    terms = (batch.weights.sum(axis=(1, 2)), counts.sum(axis=0))
    by_row = jnp.stack([term.astype(jnp.zeros(()).dtype) for term in terms], axis=1)
    weight, reading = by_row.sum(axis=0)
    return jnp.maximum(weight, 1e-9), jnp.maximum(reading, 1)


def _objective(cfg, objective_cfg, state, batch):
    """A function of a part's (sums, memory) that is differentiated, with both as its auxiliary."""
    weight, reading = _denominators(cfg, state.memory.seen, batch)
    per_weight = 1.0 / weight
    per_kl = objective_cfg.kl_weight / (cfg.num_heads * reading)
    per_reconstruction = objective_cfg.reconstruction_weight / reading

    def weighed(sums, memory):
        loss = sums["loss"] * per_weight + sums["kl"] * per_kl
        return loss + sums["reconstruction"] * per_reconstruction, (sums, memory)

    return weighed


def memory_finite(memory: Memory) -> Bool[Array, ""]:
    """Whether every number that the memory holds is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(memory) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(leaf).all() for leaf in leaves)]).all()


def make_train_step(
    cfg: ModelConfig, tx: optax.GradientTransformation, objective: Objective, placed: Any = None
):
    """The jitted `(state, batch, operators) -> (state, metrics)`; the old state is donated.

    Minimises the weighted mean cross-entropy plus, each with its weight in `objective`, the mean
    over densities of the KL (SPEC §2) and the mean over queries of the reconstruction loss
    (SPEC §5b), both summed over layers and taken in the segments with loss. Metrics are SUMS, the
    gradient's norm before clipping, and whether the memory is finite.

    Args:
        placed: shardings of the state, so that it stays where it is; None on one device.

    Raises:
        ValueError: a parallel schedule of a model that has none (`models.parallel.check`).
    """
    if objective.schedule == "parallel":
        parallel.check(cfg)
        take = partial(schedules.parallel, size=objective.segments_at_once)
    else:
        take = schedules.sequential

    def train_step(state: TrainState, batch: Batch, ops):
        weighed = _objective(cfg, objective, state, batch)
        grads, sums, memory = take(cfg, weighed, state, batch, ops, objective.empty_memory)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = sums | {
            "grad_norm": optax.tree.norm(grads),
            "memory_finite": memory_finite(memory),
        }
        return TrainState(state.step + 1, params, opt_state, memory, state.key), metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))
