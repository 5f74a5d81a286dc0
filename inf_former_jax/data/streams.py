"""The B rows of a batch, each of which reads its own documents from beginning to end.

Within an epoch every document is read by one row, exactly once. In a document of n tokens, its end
included, the first token is context only, and each later one is predicted once, from the token
before it. ceil((n-1) / T) segments hold these n-1 pairs, the last one right-padded. The next
segment of the row begins the next document and resets. A row whose documents end before the epoch
does is padding from there on. Padding weighs 0.

What a batch holds depends on its number alone: a run that goes on from a checkpoint needs only its
step, and a process needs only its own rows.

Dimension letters: B rows, R of them asked for, W segments of T tokens in a batch.
"""

import dataclasses
import functools
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.require import require, require_at_least


class Places(NamedTuple):
    """Where the tokens of a batch stand; -1 at padding."""

    documents: Int32[np.ndarray, "R W"]  # numbers in the split
    positions: Int32[np.ndarray, "R W T"]  # of the input in its document; its target stands 1 later


def pieces(split: TokenizedSplit, size: int) -> TokenizedSplit:
    """The split's documents cut into pieces of `size` tokens, each a document of its own.

    From few long documents a row learns what is special about them, from many pieces in random
    order what they have in common. The first token of a piece is context only, as in any document,
    so one token of every `size` is not predicted. A last piece of one token joins the piece before.

    Raises:
        ValueError: size < 2.
    """
    require_at_least("size", size, 2)
    starts, names = [], []
    for name, start, end in zip(split.names, split.starts, split.starts[1:], strict=False):
        begins = np.arange(start, max(end - 1, start + 1), size)
        starts.append(begins)
        names += [f"{name}[{number}]" for number in range(len(begins))]
    borders = np.append(np.concatenate(starts), split.starts[-1])
    # Words and bytes are known of whole documents only: pieces have no figures for them.
    nothing = np.zeros(len(names), np.int64)
    return split._replace(starts=borders, names=tuple(names), words=nothing, bytes=nothing)


class _Walk(NamedTuple):
    """A row's documents in an epoch, and how many segments it has read when each of them ends."""

    documents: Int64[np.ndarray, " walked"]
    ends: Int64[np.ndarray, " walked"]


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """Batches [B, W, T] of a split.

    Documents go to rows longest first, each to the row with the fewest segments so far, which
    makes an epoch's length independent of their order. Nothing depends on the number of processes.

    Raises:
        ValueError: on construction, for an option out of range, a split without documents, or a
            document shorter than two tokens, its end included.
    """

    split: TokenizedSplit
    batch_size: int
    """B, rows of the global batch."""
    segment_len: int
    """T, tokens of a segment."""
    segments: int = 1
    """W, segments of a batch."""
    seed: int = 0
    """Decides on the order of each epoch's documents, if they are shuffled."""
    shuffle: bool = False
    """Every epoch has an order of its own; False = the split's order."""
    stride: int = 0
    """A segment begins this many tokens after the last one; 0 = T, so that none is read twice. A
    smaller stride is the sliding window of a model without memory: tokens that an earlier segment
    has predicted are context and weigh 0."""
    _plans: dict[int, list[_Walk]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        for name in ("batch_size", "segment_len", "segments"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("seed", self.seed, 0)
        fits = 0 <= self.stride <= self.segment_len
        require(fits, "stride", self.stride, f"0..{self.segment_len}")
        require_at_least("documents", len(self.split.names), 1)
        short = self._predicted.argmin()
        tokens, accepted = int(self._predicted[short]) + 1, "2 or more, its end included"
        require(tokens >= 2, f"document {self.split.names[short]!r}", f"{tokens} tokens", accepted)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch: as many as the row with the most segments needs."""
        most = max(int(walk.ends[-1]) for walk in self._plan(0) if len(walk.ends))
        return -(-most // self.segments)

    @property
    def num_predicted(self) -> int:
        """Tokens predicted in an epoch, ends included: the sum of its weights."""
        return len(self.split.tokens) - len(self.split.names)

    @property
    def fill(self) -> float:
        """Share of an epoch's places that are not padding, in (0, 1]."""
        places = self.steps_per_epoch * self.batch_size * self.segments * self.segment_len
        return self.num_predicted / places

    def batch(self, step: int, rows: Sequence[int] | Integer[np.ndarray, " R"]) -> Batch:
        """Batch number `step`, counted over all epochs, of the given rows: arrays [R, W, T].

        `valid` is always an array, so that every batch has the same structure.

        Raises:
            ValueError: a negative step, a row outside 0..B-1, or a token beyond the vocabulary.
        """
        documents, first, valid = self._cut(step, rows)
        begins = self.split.starts[documents] + first
        places = np.where(valid, begins[..., None] + np.arange(self.segment_len), 0)
        inputs, targets = (np.where(valid, self.split.at(places + later), 0) for later in (0, 1))
        resets = (first == 0) & valid.any(axis=-1)
        weights = self._with_loss(first, valid).astype(np.float32)
        return Batch(inputs, targets, weights, resets, valid)

    def with_loss(
        self, step: int, rows: Sequence[int] | Integer[np.ndarray, " R"]
    ) -> Bool[np.ndarray, "R W T"]:
        """Where `batch(step, rows)` has loss. No token is read: a process may ask of all rows.

        Raises:
            ValueError: a negative step, or a row outside 0..B-1.
        """
        _, first, valid = self._cut(step, rows)
        return self._with_loss(first, valid)

    def _with_loss(
        self, first: Int64[np.ndarray, "R W"], valid: Bool[np.ndarray, "R W T"]
    ) -> Bool[np.ndarray, "R W T"]:
        """Where segments that begin at these positions have loss: not where they repeat tokens."""
        context = np.where(first == 0, 0, self.segment_len - self._stride)
        return valid & (np.arange(self.segment_len) >= context[..., None])

    def places(self, step: int, rows: Sequence[int] | Integer[np.ndarray, " R"]) -> Places:
        """Where the tokens of `batch(step, rows)` stand, for losses by document or by position.

        Raises:
            ValueError: as `batch` does.
        """
        documents, first, valid = self._cut(step, rows)
        positions = np.where(valid, first[..., None] + np.arange(self.segment_len), -1)
        documents = np.where(valid.any(axis=-1), documents, -1)
        return Places(documents.astype(np.int32), positions.astype(np.int32))

    def word_perplexity(self, nats: float) -> float:
        """`exp(nats / words)`, nats the sum of cross-entropies over an epoch.

        Models with different tokens can be compared by it: a word is what white space separates.
        First tokens of documents belong to words but are not predicted; ends are predicted but
        belong to no word. Above e^700, where there is hardly any white space, it is infinite.
        """
        words = int(self.split.words.sum())
        return math.exp(nats / words) if words and nats / words < 700 else math.inf

    def bits_per_byte(self, nats: float) -> float:
        """Bits per byte of UTF-8, from the sum of cross-entropies over an epoch, in nats."""
        return nats / math.log(2) / int(self.split.bytes.sum())

    def _cut(
        self, step: int, rows: Sequence[int] | Integer[np.ndarray, " R"]
    ) -> tuple[Int64[np.ndarray, "R W"], Int64[np.ndarray, "R W"], Bool[np.ndarray, "R W T"]]:
        """Each segment's document and the position in it at which the segment begins; and valid.

        Document and position are 0 where a segment is padding.
        """
        require_at_least("step", step, 0)
        epoch, within = divmod(step, self.steps_per_epoch)
        plan = self._plan(epoch)
        numbers = within * self.segments + np.arange(self.segments)
        documents, first, count = np.zeros((3, len(rows), self.segments), np.int64)
        for i, row in enumerate(map(int, rows)):
            require(0 <= row < self.batch_size, "row", row, f"0..{self.batch_size - 1}")
            walk = plan[row]
            index = np.searchsorted(walk.ends, numbers, side="right")
            there = index < len(walk.ends)  # later segments come after the row's last document
            documents[i, there] = walk.documents[index[there]]
            begins = walk.ends[index[there]] - self._sizes[documents[i, there]]
            first[i, there] = (numbers[there] - begins) * self._stride
            count[i, there] = self._predicted[documents[i, there]] - first[i, there]
        return documents, first, np.arange(self.segment_len) < count[..., None]

    @functools.cached_property
    def _predicted(self) -> Int64[np.ndarray, " documents"]:
        """Predicted tokens of each document."""
        return np.diff(self.split.starts) - 1

    @functools.cached_property
    def _sizes(self) -> Int64[np.ndarray, " documents"]:
        """Segments of each document."""
        return 1 + -(-np.maximum(self._predicted - self.segment_len, 0) // self._stride)

    @property
    def _stride(self) -> int:
        return self.stride or self.segment_len

    def _plan(self, epoch: int) -> list[_Walk]:
        """The walks of all rows; only the newest epoch's are kept."""
        epoch = epoch if self.shuffle else 0
        if (plan := self._plans.get(epoch)) is None:
            plan = self._make_plan(epoch)
            self._plans.clear()
            self._plans[epoch] = plan
        return plan

    def _make_plan(self, epoch: int) -> list[_Walk]:
        sizes = self._sizes
        order = np.arange(len(sizes))
        if self.shuffle:
            stream = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
            np.random.Generator(np.random.PCG64(stream)).shuffle(order)
        # Stable: documents of one size go to rows in the epoch's order.
        longest_first = np.argsort(-sizes[order], kind="stable")
        loads = [(0, row) for row in range(self.batch_size)]
        row_of = np.zeros(len(sizes), np.int64)  # by place in `order`
        for place in longest_first:
            load, row = loads[0]
            row_of[place] = row
            heapq.heapreplace(loads, (load + int(sizes[order[place]]), row))
        walks = (order[row_of == row] for row in range(self.batch_size))
        return [_Walk(walk, np.cumsum(sizes[walk])) for walk in walks]
