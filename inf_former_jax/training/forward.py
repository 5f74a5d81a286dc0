"""The forward pass of a batch: its segments, and the sums and the memory that they give."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.state import Memory, empty_long_term, foreign_long_term, reset
from inf_former_jax.models.decoder import Decoder, Distances, ModelConfig
from inf_former_jax.models.output import Output
from inf_former_jax.models.segment import Noise
from inf_former_jax.training.objective import (
    Sums,
    counted,
    counted_queries,
    output_sums,
    zero_sums,
)

Tree = TypeVar("Tree")

#: Kinds of segments: padding in every row, loss in no row, loss in some row. `chain` has a branch
#: for each, in this order.
PADDING, CONTEXT, LOSS = 0, 1, 2


class Segments(NamedTuple):
    """Segments of a batch in reading order. A scan over them sees one at a time, without W."""

    batch: Batch  # leaves [W, B, …]
    number: Int[Array, " W"]  # place in the batch, folded into the random key
    kind: Int[Array, " W"]  # PADDING, CONTEXT or LOSS


def kinds(batch: Batch) -> Int[Array, " W"]:
    """What the segments of a batch are: padding, context or loss.

    It takes all rows to tell: a row counts the tokens of a segment that is padding in itself only.
    """
    has_loss = jnp.any(counted(batch.weights), axis=2)  # [B, W]
    read = jnp.ones_like(has_loss) if batch.valid is None else batch.valid.any(axis=2)
    # One maximum over rows tells all three kinds: on a mesh it is the only collective.
    return jnp.where(has_loss, LOSS, jnp.where(read, CONTEXT, PADDING)).max(axis=0)


def by_segment(batch: Batch, kind: Int[Array, " W"] | None = None) -> Segments:
    """Take a batch apart into its W segments.

    Args:
        kind: `kinds` of the whole batch, if this one is a part of its rows.
    """
    kind = kinds(batch) if kind is None else kind
    return Segments(swap_leading(batch), jnp.arange(kind.shape[0]), kind)


def swap_leading(tree: Tree) -> Tree:
    """Leaves [B, W, …] as [W, B, …], and back."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """How the segments of one batch are run: settings, and three ways to run a group of them.

    `chain` and `together` return SUMS of the group and the memory after it, `skip` the memory
    after a group of padding.
    """

    cfg: ModelConfig
    operators: Any
    key: PRNGKeyArray
    """Each segment folds its number into it."""
    train: bool = False
    """Apply dropout."""
    empty_memory: bool = False
    """Clear the long-term or compressed memory before every segment."""
    foreign_memory: bool = False
    """Predict from the long-term or compressed memory of another row. Each row writes its own."""
    distances: Distances | None = None
    """`Decoder.distances` of the parameters, if their gradient is not needed."""
    first_row: Int[AnyArray, ""] | int = 0
    """Number of the first row in the whole batch, which random keys depend on."""

    def with_distances(self, params: Any, batch: Batch) -> "ForwardPass":
        """The same for constant parameters, whose distances all segments share."""
        length = batch.tokens.shape[-1]
        found = Decoder(self.cfg).apply({"params": params}, length, method="distances")
        return dataclasses.replace(self, distances=cast(Distances, found))

    def chain(self, params: Any, memory: Memory, group: Segments) -> tuple[Sums, Memory]:
        """One segment after the other; differentiable through the memory between them.

        On the way back each segment is run again from the memory before it: what lives at a time
        is the memories of one group and the activations of one segment.
        """

        def run(memory, segment):
            memory = self.start(memory, segment.batch.resets)
            output = self.output(params, memory, segment)
            return output.memory, output_sums(output, segment.batch)

        # A segment without loss needs no logits, and has no gradient through them.
        def context(memory, segment):
            memory = self.start(memory, segment.batch.resets)
            return self.output(params, memory, segment).memory, zero_sums()

        def padding(memory, segment):
            return self.start(memory, segment.batch.resets), zero_sums()

        # A scan keeps its iterations apart. So XLA cannot merge the second run with the first, and
        # no barrier against that is needed.
        @partial(jax.checkpoint, prevent_cse=False)
        def body(memory, segment):
            return jax.lax.switch(segment.kind, (padding, context, run), memory, segment)

        if group.kind.shape[0] == 1:  # which is not padding, or it would be skipped
            memory, sums = run(memory, jax.tree.map(lambda leaf: leaf[0], group))
            return sums, memory
        memory, sums = jax.lax.scan(body, memory, group)
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), sums), memory

    def together(self, params: Any, memory: Memory, group: Segments) -> tuple[Sums, Memory]:
        """All segments at once, layer by layer (`models/all_segments.py`): the numbers of `chain`.

        Segments that are padding in every row are computed too, but count nowhere.
        """
        decoder, batch = Decoder(self.cfg), swap_leading(group.batch)
        noise = partial(self._noise, params, batch.tokens.shape[0])
        options = self._options(batch) | {
            "noise": jax.vmap(lambda number: noise(self._rngs(number)))(group.number),
            "runs": None if batch.valid is None else group.kind > PADDING,
            "empty": self.empty_memory,
            "method": "all_segments",
        }
        output = decoder.apply({"params": params}, batch.tokens, memory, batch.resets, **options)
        output = cast(Output, output)
        return output_sums(output, batch), output.memory

    def skip(self, memory: Memory, group: Segments) -> Memory:
        """The memory after segments that are padding in every row: they only reset."""
        return self.start(memory, jnp.any(group.batch.resets, axis=0))

    def start(self, memory: Memory, resets: Bool[AnyArray, " B"]) -> Memory:
        """The memory that a segment starts with: reset, and emptied if that is asked for."""
        memory = reset(memory, resets)
        return empty_long_term(self.cfg, memory) if self.empty_memory else memory

    def output(
        self,
        params: Any,
        memory: Memory,
        segment: Segments,
        rngs: dict[str, PRNGKeyArray] | None = None,
    ) -> Output:
        """What the decoder makes of one segment after `start`; by default with its own keys."""
        batch = segment.batch
        rngs = self._rngs(segment.number) if rngs is None else rngs
        noise = self._noise(params, batch.tokens.shape[0], rngs)
        options = self._options(batch) | {"noise": noise, "distances": self.distances}
        options["lower"] = batch.lower

        def of(memory: Memory) -> Output:
            found = Decoder(self.cfg).apply({"params": params}, batch.tokens, memory, **options)
            return cast(Output, found)

        if self.foreign_memory:
            return of(foreign_long_term(memory))._replace(memory=of(memory).memory)
        return of(memory)

    def _noise(self, params: Any, rows: int, rngs: dict[str, PRNGKeyArray]) -> Noise:
        apply = partial(Decoder(self.cfg).apply, {"params": params}, rngs=rngs, method="noise")
        return cast(Noise, apply(rows, self.train, self.first_row))

    def _options(self, batch: Batch) -> dict[str, Any]:
        options = {"where": batch.valid, "kl_where": counted_queries(batch), "types": batch.types}
        return options | {"operators": self.operators}

    def _rngs(self, number: Int[Array, ""]) -> dict[str, PRNGKeyArray]:
        key = jax.random.fold_in(self.key, number)
        return {name: jax.random.fold_in(key, i) for i, name in enumerate(("dropout", "locations"))}
