"""Conversations of unequal length in one batch: a row holds one, from first to last segment.

All rows of a batch end together: padding segments come *before* the shorter conversations. A step
skips the segments in which no row has anything to read, and the groups of `memory_gradient`, which
are counted from the end, hold the same segments of every row. Conversations in a batch have about
the same length.

Dimension letters: B rows, R of them asked for, W segments of T tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64, Integer

from experiments.dialogue.stream import Segments
from inf_former_jax.data.batches import Batch
from inf_former_jax.require import require_at_least

#: How many batches' conversations are sorted by length together. More of them leave less padding,
#: but make batches less random.
_POOL = 16


@dataclasses.dataclass(frozen=True, eq=False)
class ConversationBatches:
    """Batches [B, W, T] of conversations; the content of a batch depends on its number alone.

    Raises:
        ValueError: on construction, for no conversations, none that is scored, or a batch_size < 1.
    """

    conversations: Sequence[Segments]
    batch_size: int
    """B, rows of the global batch."""
    seed: int = 0
    shuffle: bool = False
    """Another order in each epoch; False = sorted by length."""
    typed: bool = True
    """Batches have types (`stream.Marks`)."""

    def __post_init__(self):
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("seed", self.seed, 0)
        require_at_least("conversations", len(self.conversations), 1)
        require_at_least("scored tokens of all conversations", self.num_predicted, 1)

    @functools.cached_property
    def sizes(self) -> Int64[np.ndarray, " conversations"]:
        """Segments of each conversation."""
        return np.array([len(one.tokens) for one in self.conversations])

    @property
    def segments(self) -> int:
        """W, segments of a batch: those of the longest conversation."""
        return int(self.sizes.max())

    @functools.cached_property
    def num_predicted(self) -> int:
        """Scored tokens of an epoch."""
        return int(sum(one.weights.sum() for one in self.conversations))

    @functools.cached_property
    def num_read(self) -> int:
        """Tokens that an epoch reads."""
        return int(sum(one.valid.sum() for one in self.conversations))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may have rows without a conversation."""
        return -(-len(self.conversations) // self.batch_size)

    def batch(self, step: int, rows: Sequence[int] | Integer[np.ndarray, " R"]) -> Batch:
        """Batch number `step`, counted over all epochs, of the given rows: arrays [R, W, T].

        Raises:
            ValueError: a negative step, or a row outside 0..B-1.
        """
        require_at_least("step", step, 0)
        numbers = self.numbers(step)
        shape = (len(rows), self.segments, self.conversations[0].tokens.shape[1])
        batch = Segments(*(np.zeros(shape, leaf.dtype) for leaf in self.conversations[0]))
        resets = np.zeros(shape[:2], bool)
        for i, row in enumerate(map(int, rows)):
            if not 0 <= row < self.batch_size:
                raise ValueError(f"row: expected 0..{self.batch_size - 1}, found {row}")
            if numbers[row] >= 0:
                conversation = self.conversations[numbers[row]]
                first = self.segments - len(conversation.tokens)
                resets[i, first] = True
                for leaf, part in zip(batch, conversation, strict=True):
                    leaf[i, first:] = part
        types = batch.types if self.typed else None
        return Batch(batch.tokens, batch.targets, batch.weights, resets, batch.valid, types)

    def numbers(self, step: int) -> Int64[np.ndarray, " B"]:
        """Which conversation each row of a batch holds; -1 = none."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._order(epoch if self.shuffle else 0)[within]

    @functools.cached_property
    def _order(self) -> Callable[[int], Int64[np.ndarray, "steps B"]]:
        """Epoch → conversation of each step and row, -1 = none; the latest epoch's is kept."""
        return functools.lru_cache(maxsize=1)(self._make_order)

    def _make_order(self, epoch: int) -> Int64[np.ndarray, "steps B"]:
        count = len(self.conversations)
        order = np.argsort(self.sizes, kind="stable")
        stream = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
        random = np.random.Generator(np.random.PCG64(stream))
        if self.shuffle:
            order = random.permutation(count)
            pool = self.batch_size * _POOL
            for first in range(0, count, pool):
                some = order[first : first + pool]
                order[first : first + pool] = some[np.argsort(self.sizes[some], kind="stable")]
        order = np.append(order, np.full(-count % self.batch_size, -1))
        order = order.reshape(-1, self.batch_size)
        return random.permutation(order) if self.shuffle else order
