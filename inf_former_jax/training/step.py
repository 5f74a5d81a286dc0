"""One update: a scan over the segments of a batch (SPEC §4).

The memory is a constant to autodiff, so the gradient of a document's loss is the sum of its
segments' gradients: it is taken *inside* the scan, and one segment's activations are all that is
ever stored. Segments that carry no loss are run forward only, those that are padding in every row
not at all. With `ModelConfig.memory_gradient`
the same holds of groups of segments (`training/gradient.py`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training import gradient
from inf_former_jax.training.state import TrainState

#: What leaves the device: sums and counts; ratios are taken on the host.
SUMS = (
    "loss", "correct", "weight", "kl", "kl_count", "reconstruction", "reconstruction_count",
)  # fmt: skip


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

    def __post_init__(self):
        for name in ("kl_weight", "reconstruction_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: a number ≥ 0")


def zero_sums() -> dict[str, Float[Array, ""]]:
    """A zero for each of SUMS."""
    return {name: jnp.zeros(()) for name in SUMS}


def token_sums(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> dict[str, Float[Array, ""]]:
    """Weighted sums of cross-entropy (nats) and of right arg-max predictions, and the weight."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = jnp.argmax(logits, axis=-1) == targets
    return {
        "loss": jnp.where(weights > 0, losses * weights, 0.0).sum(),
        "correct": (right * weights).sum(),
        "weight": weights.sum(),
    }


def in_time(batch: Batch) -> Batch:
    """Time first, for the scan: leaves [W, B, …]."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)


#: What a segment is to all rows together.
PADDING, CONTEXT, LOSS = 0, 1, 2


def segment_kinds(segments: Batch) -> Int[Array, " W"]:
    """PADDING, CONTEXT or LOSS of each segment; leaves [W, B, …].

    One maximum over rows tells all three: on a mesh two would be two collectives.
    """
    loss = (segments.weights > 0).any(axis=2)
    read = jnp.ones_like(loss) if segments.valid is None else segments.valid.any(axis=2)
    return jnp.where(loss, LOSS, jnp.where(read, CONTEXT, PADDING)).max(axis=1)


def start_of_segment(
    cfg: ModelConfig, memory: Memory, resets: Bool[Array, " B"], empty_memory: bool
) -> Memory:
    """The memory that a segment starts with: reset, and emptied of its past if that is asked."""
    memory = memories.reset(memory, resets)
    return memories.empty_long_term(cfg, memory) if empty_memory else memory


def forward(
    cfg: ModelConfig, params: Any, memory: Memory, segment: Batch, key: PRNGKeyArray, ops: Any,
    train: bool,
) -> tuple[dict[str, Float[Array, ""]], Memory]:  # fmt: skip
    """One segment, a Batch of leaves [B, …]: its SUMS, and the memory after it."""
    carries = (segment.weights > 0).any(axis=1)[:, None]
    valid = jnp.ones_like(segment.weights, bool) if segment.valid is None else segment.valid
    rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(("dropout", "locations"))}
    out = Decoder(cfg).apply(
        {"params": params}, segment.tokens, memory, operators=ops, train=train,
        where=segment.valid, kl_where=valid & carries, types=segment.types, rngs=rngs,
    )  # fmt: skip
    sums = zero_sums() | token_sums(out.logits, segment.targets, segment.weights)
    for name, pair in out.aux.items():
        sums |= dict(zip((name, f"{name}_count"), pair, strict=True))
    return {name: value.astype(jnp.zeros(()).dtype) for name, value in sums.items()}, out.memory


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


def _grads(cfg, objective_cfg, state, batch, ops):
    """Gradient of the batch's objective, its sums, and the memory after it."""
    weight, reading = _denominators(cfg, state.memory.seen, batch)
    per_weight = 1.0 / weight
    per_kl = objective_cfg.kl_weight / (cfg.num_heads * reading)
    per_reconstruction = objective_cfg.reconstruction_weight / reading
    step_key = jax.random.fold_in(state.key, state.step)

    def objective(params, memory, segment, key):
        sums, memory = forward(cfg, params, memory, segment, key, ops, train=True)
        loss = sums["loss"] * per_weight + sums["kl"] * per_kl
        return loss + sums["reconstruction"] * per_reconstruction, (sums, memory)

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
    """

    def train_step(state: TrainState, batch: Batch, ops):
        grads, sums, memory = _grads(cfg, objective, state, batch, ops)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = sums | {
            "grad_norm": optax.tree.norm(grads),
            "memory_finite": memory_finite(memory),
        }
        return TrainState(state.step + 1, params, opt_state, memory, state.key), metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))
