"""What a training step minimises (SPEC §2, §4, §5b).

    J = loss / Σ weights + λ_KL · kl / (H · Q) + λ_rec · reconstruction / Q

`loss`, `kl` and `reconstruction` are sums over a batch, and Q counts the queries that read a
memory. Both denominators are known before any segment is run. J is therefore linear in the sums:
each part of a batch has a share of J, and the gradient of J is the sum of the shares' gradients.
`training/schedules.py` takes them part by part.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.data.batches import Batch
from inf_former_jax.fields import Checked, Natural, NonNegative
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.state import Memory, advance, has_pending
from inf_former_jax.models import all_segments
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.output import Output
from inf_former_jax.require import require

#: Names of the sums and counts that leave the device; ratios are taken on the host.
SUMS = ("loss", "correct", "weight", "kl", "kl_count", "reconstruction", "reconstruction_count")
Sums = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Objective(Checked):
    """What a training step minimises beside the cross-entropy, and in which order it computes.

    Raises:
        ValueError: on construction, for a negative weight.
    """

    kl_weight: NonNegative = 1e-6
    """λ_KL of the long-term memory's densities."""
    reconstruction_weight: NonNegative = 1.0
    """λ_rec of the compressed memory's reconstruction loss; it trains f_c and nothing else."""
    empty_memory: bool = False
    """Control: clear the long-term or compressed memory before every segment."""
    schedule: Literal["sequential", "parallel"] = "sequential"
    """Segments of a batch one after the other, or layer by layer all at once (the same numbers).

    The parallel schedule keeps the activations of all segments, or of `segments_at_once`, at the
    same time. The gradient begins at the first, the middle or the last segment, and all segments
    after it are differentiated, even those without loss. Models with a compressed memory or with a
    gradient through the memory do not have this schedule.
    """
    segments_at_once: Natural = 0
    """Segments that the parallel schedule takes at a time. 0 = all of a batch, but on a CPU as
    many as have 1,024 tokens in all rows of a device."""

    def __post_init__(self):
        super().__post_init__()
        size = self.segments_at_once
        ignored = size and self.schedule == "sequential"
        require(not ignored, "segments_at_once", f"{size} with schedule sequential", "0 there")


def objective_weights(cfg: ModelConfig, objective: Objective, memory: Memory, batch: Batch) -> Sums:
    """How much a unit of each of a batch's sums adds to its objective J (`objective_share`).

    Args:
        memory: what the batch's first segment starts with.
    """
    weight, queries = _denominators(cfg, memory, batch)
    return {
        "loss": 1.0 / weight,
        "kl": objective.kl_weight / (cfg.num_heads * queries),
        "reconstruction": objective.reconstruction_weight / queries,
    }


def objective_share(weights: Sums, sums: Sums) -> Float[Array, ""]:
    """The share of J that SUMS of a part of a batch have, by the batch's `objective_weights`."""
    task = sums["loss"] * weights["loss"] + sums["kl"] * weights["kl"]
    return task + sums["reconstruction"] * weights["reconstruction"]


def _denominators(
    cfg: ModelConfig, memory: Memory, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(Σ weights, Q) of a batch; Q has the counted queries of rows whose memory was written.

    Both are summed over rows at once: two sums on a mesh would be two collectives, which wait for
    each other on a CPU with few threads.
    """

    def read_by_row(seen, segment):
        queries, resets = segment
        seen = jnp.where(resets, 0, seen)
        reading = jnp.where(has_pending(cfg, seen), queries, 0)
        return advance(seen, cfg.segment_len), reading

    xs = counted_queries(batch).sum(axis=-1).T, batch.resets.T
    _, reading = jax.lax.scan(read_by_row, memory.seen, xs, unroll=all_segments.UNROLLED)
    by_row = batch.weights.sum(axis=(1, 2)), reading.sum(axis=0)
    default = jnp.zeros(()).dtype
    weight, queries = jnp.stack([row.astype(default) for row in by_row], axis=1).sum(axis=0)
    return jnp.maximum(weight, 1e-9), jnp.maximum(queries, 1)


def counted_queries(batch: Batch) -> Bool[Array, "B ... T"]:
    """Queries whose KL and reconstruction count: not padding, where the row's segment has loss."""
    has_loss = jnp.any(counted(batch.weights), axis=-1, keepdims=True)
    valid = jnp.ones_like(batch.weights, bool) if batch.valid is None else batch.valid
    return jnp.logical_and(valid, has_loss)


def zero_sums() -> Sums:
    """A zero for each of SUMS."""
    return {name: jnp.zeros(()) for name in SUMS}


def output_sums(output: Output, batch: Batch) -> Sums:
    """SUMS of a decoder's output for one segment, leaves [B, …], or for W of them, [B, W, …]."""
    sums = zero_sums() | token_sums(output.logits, batch.targets, batch.weights)
    for name, (total, count) in output.aux.items():
        sums |= {name: total, f"{name}_count": count}
    return {name: value.astype(jnp.zeros(()).dtype) for name, value in sums.items()}


def counted(weights: Float[AnyArray, "*batch T"]) -> Bool[Array, "*batch T"]:
    """Which tokens have loss. NaN has, so that it is not taken for context but told."""
    return jnp.logical_not(weights <= 0)


def token_sums(
    logits: Float[AnyArray, "*batch T V"],
    targets: Int[AnyArray, "*batch T"],
    weights: Float[AnyArray, "*batch T"],
) -> Sums:
    """Weighted sums of cross-entropy (nats) and of right predictions, and the sum of weights."""
    nats, right = token_figures(logits, targets)
    return {
        "loss": jnp.where(counted(weights), nats * weights, 0.0).sum(),
        "correct": (right * weights).sum(),
        "weight": jnp.sum(weights),
    }


class TokenFigures(NamedTuple):
    """How well every token was predicted, whatever its weight."""

    nats: Float[Array, "*batch T"]  # cross-entropy
    right: Bool[Array, "*batch T"]  # the target was the likeliest token


def token_figures(
    logits: Float[AnyArray, "*batch T V"], targets: Int[AnyArray, "*batch T"]
) -> TokenFigures:
    """Cross-entropy of every target, at least in float32, and whether it was the arg-max.

    Of equal logits the first is the arg-max. So the target is right if all logits before it are
    smaller and none behind it is larger, which a CPU finds sooner than the place of the largest
    one. Where a logit is NaN nothing is right.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    targets = targets[..., None]
    own, places = jnp.take_along_axis(logits, targets, axis=-1), jnp.arange(logits.shape[-1])
    before = places[(None,) * (logits.ndim - 1)] < targets
    right = jnp.where(before, logits < own, logits <= own).all(axis=-1)
    return TokenFigures(nats.astype(jnp.zeros(()).dtype), right)
