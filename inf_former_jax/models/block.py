"""One layer of the decoder, and the configuration that says what it is made of."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.operators import LongTermConfig, check_size, require
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.dropout import RowKeys, dropout
from inf_former_jax.models.local import Compression, LocalAttention


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a decoder. The defaults are the paper's sorting model without LTM.

    Raises:
        ValueError: on construction, for a combination that no model can have.
    """

    vocab_size: int = 22
    """V, number of token ids."""
    num_layers: int = 3
    num_heads: int = 6
    """H."""
    head_dim: int = 50
    """K, width of a head."""
    d_model: int = 300
    """E, channels of the residual stream and of the memory."""
    d_inner: int = 300
    """Width of the feed-forward layer."""
    segment_len: int = 1024
    """T, tokens of a segment; also the length of a write."""
    mem_len: int = 1024
    """Short-term memory in tokens; beside a long-term memory a multiple of segment_len."""
    long_term: LongTermConfig | None = None
    """The unbounded memory of every layer; None = none."""
    compressed: CompressedConfig | None = None
    """The Compressive Transformer's memory of every layer; None = none."""
    norm: Literal["post", "pre"] = "post"
    """Where LayerNorm stands (published: post)."""
    dropout: float = 0.1
    attention_dropout: float = 0.0
    """Dropout of the local attention's probabilities."""
    same_length: bool = False
    """Let every query see the same number of keys, mem_len."""
    clamp_len: int = 0
    """Relative distances above it count as it; 0 = no clamping."""
    query_chunk: int = 128
    """Queries whose local attention scores exist at a time."""
    memory_gradient: int = 0
    """k, segments that a loss's gradient may go back through the memory; 0 = none (paper).

    In training the segments of a batch, counted from its end, form groups of k+1 (the first one
    holds the remainder); the memory is differentiated inside a group and detached at its borders.
    So the last segment reaches k back, others at most k, and k ≥ W-1 is full back-propagation
    through the batch, whose own start is always a constant. Each segment is run twice and once
    backwards, whatever k; if all reached exactly k back, it would be k+1 times as much where every
    segment carries loss. Compressed vectors and sticky locations stay constants.
    """

    def __post_init__(self):
        sizes = ("vocab_size", "num_layers", "num_heads", "head_dim", "d_model", "d_inner",
                 "segment_len", "query_chunk")  # fmt: skip
        for name in sizes:
            value = getattr(self, name)
            require(_is_whole(value) and value >= 1, name, value, "a whole number ≥ 1")
        require(self.d_model % 2 == 0, "d_model", self.d_model, "an even number")
        require(self.norm in ("post", "pre"), "norm", self.norm, "post or pre")
        for name in ("mem_len", "memory_gradient"):
            value = getattr(self, name)
            require(_is_whole(value) and value >= 0, name, value, "a whole number ≥ 0")
        for name in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        if self.same_length:
            require(self.mem_len > 0, "mem_len", self.mem_len, "≥ 1 beside same_length")
        if self.long_term is not None or self.compressed is not None:
            kind = "compressed" if self.long_term is None else "long-term"
            accepted = f"a multiple of segment_len {self.segment_len} beside a {kind} memory"
            require(self.mem_len % self.segment_len == 0, "mem_len", self.mem_len, accepted)
        if self.memory_gradient:
            carried = self.mem_len > 0 or self.long_term is not None
            accepted = "0 without a short-term or long-term memory"
            require(carried, "memory_gradient", self.memory_gradient, accepted)
        if self.long_term is not None:
            check_size(self.long_term, self.segment_len)
        if self.compressed is not None:
            self._check_compressed(self.compressed)

    def _check_compressed(self, compressed):
        require(not self.same_length, "same_length", True, "False beside a compressed memory")
        accepted = f"a divisor of segment_len {self.segment_len}"
        rate = compressed.rate
        require(self.segment_len % rate == 0, "compressed.rate", rate, accepted)
        slots = self.segment_len // rate
        accepted = f"a multiple of the {slots} vectors that a segment yields"
        length = compressed.length
        require(length % slots == 0, "compressed.length", length, accepted)


def _is_whole(value):
    return isinstance(value, int)


class Block(nn.Module):
    """One layer: [local attention + long-term attention], then feed-forward (SPEC §4)."""

    cfg: ModelConfig
    layer: int

    def setup(self):
        cfg = self.cfg
        self.attention = LocalAttention(
            cfg.num_heads,
            cfg.head_dim,
            cfg.d_model,
            same_length=cfg.mem_len if cfg.same_length else 0,
            chunk=cfg.query_chunk,
            rate=cfg.attention_dropout,
        )
        if cfg.long_term is not None:
            self.long_term = LongTermAttention(cfg.long_term)
        if cfg.compressed is not None:
            self.compression = Compression(cfg.compressed)
        self.norm_attention = _layer_norm()
        self.norm_feed_forward = _layer_norm()
        self.inner = nn.Dense(cfg.d_inner)
        self.outer = nn.Dense(cfg.d_model)

    def __call__(self, x, memory, seen, positions, biases, operators, rows, where, key):
        """One segment through the layer: (x, memory, info); arguments as `Decoder` makes them."""
        pre = self.norm_attention if self.cfg.norm == "pre" else _identity
        post = self.norm_attention if self.cfg.norm == "post" else _identity
        due = state.has_pending(self.cfg, seen)
        if where is not None:  # a row that is all padding has ended: nothing more of it is written
            due &= where.any(axis=1)
        memory, info = self._compress(memory, x, due)
        window = state.window(self.cfg, memory)
        attended, q = self.attention(
            pre(x),
            None if window is None else pre(window),
            state.num_filled(self.cfg, seen),
            positions,
            biases,
            rows,
            self.layer,
        )
        context, remembered, read = self._long_term(q, memory, due, operators, where, key)
        new_memory = state.push(memory._replace(long_term=remembered), x)
        attended = attended if context is None else attended + context
        x = post(x + self._dropout(attended, rows, "context"))
        return self._feed_forward(x, rows), new_memory, info | read

    def _compress(self, memory, x, due):
        """The pending segment into the compressed memory, and what it lost (SPEC §5b).

        Both are detached whatever `memory_gradient` is: the one trains f_c alone, the other never.
        """
        if self.cfg.compressed is None:
            return memory, {}
        pending = jax.lax.stop_gradient(state.pending(self.cfg, memory))
        slots = self.compression(pending)
        lost = self.attention.reconstruction(*(self._detached_norm(m) for m in (x, pending, slots)))
        memory = state.append_compressed(memory, jax.lax.stop_gradient(slots), due)
        return memory, {"reconstruction": jnp.where(due[:, None], lost, 0.0), "compressed": due}

    def _detached_norm(self, x):
        """What the attention sees of x, without a gradient to the norm's own parameters."""
        if self.cfg.norm == "post":
            return x
        self.norm_attention(x)  # creates the parameters when the module is initialised
        detached = jax.lax.stop_gradient(self.norm_attention.variables)
        return _layer_norm(parent=None).apply(detached, x)

    def _long_term(self, q, memory, due, operators, where, key):
        if self.cfg.long_term is None:
            return None, None, {}
        pending = state.pending(self.cfg, memory)
        written = self.long_term.write(
            memory.long_term, pending, operators=operators, rows=due, key=key,
            detach=self.cfg.memory_gradient == 0,
        )  # fmt: skip
        return self.long_term(q, written, where=where)

    def _feed_forward(self, x, rows):
        pre = self.norm_feed_forward if self.cfg.norm == "pre" else _identity
        post = self.norm_feed_forward if self.cfg.norm == "post" else _identity
        hidden = self._dropout(nn.relu(self.inner(pre(x))), rows, "hidden")
        return post(x + self._dropout(self.outer(hidden), rows, "feed_forward"))

    def _dropout(self, x, rows: RowKeys | None, site: str):
        return dropout(x, self.cfg.dropout, rows, self.layer, site)


def _layer_norm(**fields):
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, **fields)


def _identity(x):
    return x
