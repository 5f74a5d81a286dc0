"""One update: a scan over the segments of a batch (SPEC §4).

The memory is a constant to autodiff, so the gradient of a document's loss is the sum of its
segments' gradients: it is taken *inside* the scan, and one segment's activations are all that is
ever stored. Segments that carry no loss are run forward only, those that are padding in every row
not at all. With `ModelConfig.memory_gradient` the same holds of groups of segments
(`training/gradient.py`). With `Objective.schedule = "parallel"` all segments are one batch
(`models/parallel.py`): more work at a time for the device, more activations to keep.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.operators import require
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import parallel
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import gradient
from inf_former_jax.training.forward import (
    LOSS,
    PADDING,
    SUMS,
    forward,
    forward_all,
    in_time,
    segment_kinds,
    start_of_segment,
    token_sums,
    zero_sums,
)
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

    Parallel keeps the activations of all segments at a time. From the first, the middle or the last
    segment on it differentiates all, those without loss and those of padding too. Not for
    compressed memories or a gradient through the memory.
    """

    def __post_init__(self):
        for name in ("kl_weight", "reconstruction_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: a number ≥ 0")
        accepted = "sequential or parallel"
        require(self.schedule in ("sequential", "parallel"), "schedule", self.schedule, accepted)


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

    _, counts = jax.lax.scan(count, seen, (queries.T, batch.resets.T))
    terms = (batch.weights.sum(axis=(1, 2)), counts.sum(axis=0))
    by_row = jnp.stack([term.astype(jnp.zeros(()).dtype) for term in terms], axis=1)
    weight, reading = by_row.sum(axis=0)
    return jnp.maximum(weight, 1e-9), jnp.maximum(reading, 1)


def _objective(cfg, objective_cfg, state, batch):
    """A function of (sums, memory) that is differentiated, with both as its auxiliary output."""
    weight, reading = _denominators(cfg, state.memory.seen, batch)
    per_weight = 1.0 / weight
    per_kl = objective_cfg.kl_weight / (cfg.num_heads * reading)
    per_reconstruction = objective_cfg.reconstruction_weight / reading

    def weighed(sums, memory):
        loss = sums["loss"] * per_weight + sums["kl"] * per_kl
        return loss + sums["reconstruction"] * per_reconstruction, (sums, memory)

    return weighed


def _parallel_grads(cfg, objective_cfg, state, batch, ops):
    """`_grads` with all segments at once; leading ones without loss are run forward only.

    How many those are is known only when the step runs, shapes are when it is compiled: of up to
    three programs, which differentiate all segments, the second half or the last one, it takes the
    shortest that leaves no loss out.
    """
    weighed = _objective(cfg, objective_cfg, state, batch)
    key, empty = jax.random.fold_in(state.key, state.step), objective_cfg.empty_memory
    kinds = segment_kinds(in_time(batch))

    def objective(params, memory, part):
        given = memory, batch, kinds, key, ops, True, empty, part
        return weighed(*forward_all(cfg, params, *given))

    def differentiated(first: int):
        memory = state.memory
        if first:  # as in `_grads`, sums of 0 are left out
            memory = objective(state.params, memory, slice(first))[1][1]
        take = jax.grad(objective, has_aux=True)
        grads, (sums, memory) = take(state.params, memory, slice(first, None))
        return grads, sums, memory

    firsts, program = parallel_programs(kinds)
    return jax.lax.switch(program, [partial(differentiated, first) for first in firsts])


def parallel_programs(kinds: Int[Array, " W"]) -> tuple[list[int], Int[Array, ""]]:
    """(where the gradient can begin, which of these to take): the last with no loss before it.

    Args:
        kinds: of the segments, `forward.segment_kinds`.
    """
    count = kinds.shape[0]
    firsts = sorted({0, count // 2, count - 1})
    silent = jnp.cumprod(kinds != LOSS).sum()
    return firsts, (silent >= jnp.array(firsts[1:], int)).sum()


def _grads(cfg, objective_cfg, state, batch, ops):
    """Gradient of the batch's objective, its sums, and the memory after it."""
    weighed = _objective(cfg, objective_cfg, state, batch)
    step_key = jax.random.fold_in(state.key, state.step)

    def objective(params, memory, segment, key):
        return weighed(*forward(cfg, params, memory, segment, key, ops, train=True))

    def with_gradient(grads, memory, segment, key):
        take = jax.grad(objective, has_aux=True)
        new, (sums, memory) = take(state.params, memory, segment, key)
        return jax.tree.map(jnp.add, grads, new), sums, memory

    def without_gradient(grads, memory, segment, key):
        # Without loss every sum is 0: leaving them out frees XLA from all that no memory needs.
        _, memory = forward(cfg, state.params, memory, segment, key, ops, train=True)
        return grads, zero_sums(), memory

    def nothing(grads, memory, segment, key):
        return grads, zero_sums(), memory

    def body(carry, now):
        grads, total, memory = carry
        segment, number, kind = now
        memory = start_of_segment(cfg, memory, segment.resets, objective_cfg.empty_memory)
        grads, sums, memory = jax.lax.switch(
            kind, (nothing, without_gradient, with_gradient),
            grads, memory, segment, jax.random.fold_in(step_key, number),
        )  # fmt: skip
        return (grads, jax.tree.map(jnp.add, total, sums), memory), None

    def of_segment(params, memory, now):
        segment, number, kind = now
        memory = start_of_segment(cfg, memory, segment.resets, objective_cfg.empty_memory)
        return jax.lax.cond(
            kind > PADDING,
            lambda old: objective(params, old, segment, jax.random.fold_in(step_key, number)),
            lambda old: (jnp.zeros(()), (zero_sums(), old)),
            memory,
        )

    segments = in_time(batch)
    kinds = segment_kinds(segments)
    xs = (segments, jnp.arange(segments.tokens.shape[0]), kinds)
    if cfg.memory_gradient:
        size = cfg.memory_gradient + 1
        return gradient.by_groups(
            of_segment, state.params, state.memory, zero_sums(), xs, kinds == LOSS, size
        )
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (grads, sums, memory), _ = jax.lax.scan(body, (zeros, zero_sums(), state.memory), xs)
    return grads, sums, memory


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
    take = _parallel_grads if objective.schedule == "parallel" else _grads

    def train_step(state: TrainState, batch: Batch, ops):
        grads, sums, memory = take(cfg, objective, state, batch, ops)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = sums | {
            "grad_norm": optax.tree.norm(grads),
            "memory_finite": memory_finite(memory),
        }
        return TrainState(state.step + 1, params, opt_state, memory, state.key), metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))
