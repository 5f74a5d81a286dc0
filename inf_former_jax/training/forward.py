"""What a batch's segments give: sums and the memory after them, one by one or all at once."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import parallel
from inf_former_jax.models.decoder import Decoder, Distances, ModelConfig
from inf_former_jax.models.output import Output

#: What leaves the device: sums and counts; ratios are taken on the host.
SUMS = (
    "loss", "correct", "weight", "kl", "kl_count", "reconstruction", "reconstruction_count",
)  # fmt: skip


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
    """Time first, for a scan: leaves [W, B, …]; and back."""
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


def distances(cfg: ModelConfig, params: Any, batch: Batch) -> Distances:
    """What the parameters alone say of a batch's segments: `Decoder.distances`."""
    length = batch.tokens.shape[-1]
    return Decoder(cfg).apply({"params": params}, length, method="distances")


def forward(
    cfg: ModelConfig, params: Any, memory: Memory, segment: Batch, key: PRNGKeyArray, ops: Any,
    train: bool, known: Distances | None = None,
) -> tuple[dict[str, Float[Array, ""]], Memory]:  # fmt: skip
    """One segment, a Batch of leaves [B, …]: its SUMS, and the memory after it.

    Args:
        known: `distances` of these parameters, where no gradient of theirs is needed.
    """
    out = Decoder(cfg).apply(
        {"params": params}, segment.tokens, memory, operators=ops, train=train,
        where=segment.valid, kl_where=_counts(segment), types=segment.types, distances=known,
        rngs=_rngs(key),
    )  # fmt: skip
    return _sums(out, segment), out.memory


#: Tokens whose activations stay in a CPU's cache, about.
CACHED_TOKENS = 1024


def at_once(batch: Batch) -> int:
    """How many of a batch's segments are best run at once, W ≥ it ≥ 1.

    All of them, where that keeps a device busy; on a CPU what stays in its cache.
    """
    rows, count, length = batch.tokens.shape
    if jax.default_backend() != "cpu":
        return count
    return min(count, max(1, CACHED_TOKENS // (rows * length)))


def forward_all(
    cfg: ModelConfig, params: Any, memory: Memory, segments: Batch, numbers: Int[Array, " W"],
    kinds: Int[Array, " W"], key: PRNGKeyArray, ops: Any, train: bool, empty_memory: bool = False,
) -> tuple[dict[str, Float[Array, ""]], Memory]:  # fmt: skip
    """Segments all at once (`models/parallel.py`): their SUMS, and the memory after.

    As `start_of_segment` and `forward` of one after the other, each with the key folded with its
    number; those that are padding in every row are computed too, and count nowhere. Memory and
    activations of all segments exist at a time.

    Args:
        segments: leaves [W, B, …].
        kinds: `segment_kinds` of them.
    """
    batch, bound = in_time(segments), {"params": params}
    rows = batch.tokens.shape[0]

    def noise(number):
        rngs = _rngs(jax.random.fold_in(key, number))
        return Decoder(cfg).apply(bound, rows, train, rngs=rngs, method="noise")

    runs = None if batch.valid is None else kinds > PADDING
    out = Decoder(cfg).apply(
        bound, batch.tokens, memory, batch.resets, operators=ops, noise=jax.vmap(noise)(numbers),
        where=batch.valid, kl_where=_counts(batch), types=batch.types, runs=runs,
        empty=empty_memory, method=parallel.decode,
    )  # fmt: skip
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (out.logits, batch))
    return _sums(out._replace(logits=flat[0]), flat[1]), out.memory


def _rngs(key):
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(("dropout", "locations"))}


def _counts(segments: Batch):
    """Queries whose KL counts: no padding, and in segments with loss; leaves [B, …, T]."""
    carries = (segments.weights > 0).any(axis=-1)[..., None]
    valid = jnp.ones_like(segments.weights, bool) if segments.valid is None else segments.valid
    return valid & carries


def _sums(out: Output, segment: Batch):
    sums = zero_sums() | token_sums(out.logits, segment.targets, segment.weights)
    for name, pair in out.aux.items():
        sums |= dict(zip((name, f"{name}_count"), pair, strict=True))
    return {name: value.astype(jnp.zeros(()).dtype) for name, value in sums.items()}
