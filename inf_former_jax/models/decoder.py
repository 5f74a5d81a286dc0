"""One decoder for every model of the paper: they differ in what happens beyond the window.

x ─► short-term FIFO ─┬ dropped                              vanilla (FIFO of 0), Transformer-XL
                      └ regressed onto N basis functions     ∞-former

A model is a *value* of `ModelConfig`. The memory goes in and comes out; nothing is hidden.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.state import LayerMemory, Memory
from inf_former_jax.models.attention import LocalAttention, LongTermAttention, sinusoid
from inf_former_jax.models.dropout import RowKeys, dropout, row_keys


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

    def __post_init__(self):
        sizes = ("vocab_size", "num_layers", "num_heads", "head_dim", "d_model", "d_inner",
                 "segment_len", "query_chunk")  # fmt: skip
        for name in sizes:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number ≥ 1")
        _require(self.d_model % 2 == 0, "d_model", self.d_model, "an even number")
        _require(self.norm in ("post", "pre"), "norm", self.norm, "post or pre")
        _require(self.mem_len >= 0, "mem_len", self.mem_len, "a whole number ≥ 0")
        for name in ("dropout", "attention_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        if self.same_length:
            _require(self.mem_len > 0, "mem_len", self.mem_len, "≥ 1 beside same_length")
        if self.long_term is not None:
            accepted = f"a multiple of segment_len {self.segment_len} beside a long-term memory"
            _require(self.mem_len % self.segment_len == 0, "mem_len", self.mem_len, accepted)


def _require(holds, name, found, accepted):
    if not holds:
        raise ValueError(f"{name}: found {found}, accepted: {accepted}")


class Output(NamedTuple):
    """What a decoder returns for one segment."""

    logits: Float[Array, "B T V"]
    memory: Memory
    aux: dict[str, tuple[Array, Array]]  # {"kl": (sum, count)} beside a long-term memory
    info: tuple[dict[str, Any], ...]  # per layer, for figures; costs nothing under jit when unused


def operators(cfg: ModelConfig, dtype=None) -> long_term.Operators | None:
    """The write operators that all layers share; None without a long-term memory.

    Host arrays: `jax.device_put` them once and pass them to every jitted call.
    """
    if cfg.long_term is None:
        return None
    return long_term.operators(cfg.long_term, cfg.segment_len, dtype)


class Block(nn.Module):
    """One layer: [local attention + long-term attention], then feed-forward (SPEC §4)."""

    cfg: ModelConfig
    layer: int

    def setup(self):
        cfg = self.cfg
        self.attention = LocalAttention(
            cfg.num_heads,
            cfg.head_dim,
            same_length=cfg.mem_len if cfg.same_length else 0,
            chunk=cfg.query_chunk,
            rate=cfg.attention_dropout,
        )
        if cfg.long_term is not None:
            self.long_term = LongTermAttention(cfg.long_term)
        self.norm_attention = _layer_norm()
        self.norm_feed_forward = _layer_norm()
        self.inner = nn.Dense(cfg.d_inner)
        self.outer = nn.Dense(cfg.d_model)

    def __call__(self, x, memory, seen, positions, biases, operators, rows, where, key):
        """One segment through the layer: (x, memory, info); arguments as `Decoder` makes them."""
        pre = self.norm_attention if self.cfg.norm == "pre" else _identity
        post = self.norm_attention if self.cfg.norm == "post" else _identity
        short_term = state.short_term(self.cfg, memory)
        attended, q = self.attention(
            pre(x),
            None if short_term is None else pre(short_term),
            state.num_short_term(self.cfg, seen),
            positions,
            biases,
            rows,
            self.layer,
        )
        context, remembered, info = self._long_term(q, memory, seen, operators, where, key)
        new_memory = state.push(memory._replace(long_term=remembered), x)
        attended = attended if context is None else attended + context
        x = post(x + self._dropout(attended, rows, "context"))
        return self._feed_forward(x, rows), new_memory, info

    def _long_term(self, q, memory, seen, operators, where, key):
        if self.cfg.long_term is None:
            return None, None, {}
        due = state.has_pending(self.cfg, seen)
        if where is not None:  # a row that is all padding has ended: nothing more of it is written
            due &= where.any(axis=1)
        pending = state.pending(self.cfg, memory)
        written = self.long_term.write(
            memory.long_term, pending, operators=operators, rows=due, key=key
        )
        return self.long_term(q, written, where=where)

    def _feed_forward(self, x, rows):
        pre = self.norm_feed_forward if self.cfg.norm == "pre" else _identity
        post = self.norm_feed_forward if self.cfg.norm == "post" else _identity
        hidden = self._dropout(nn.relu(self.inner(pre(x))), rows, "hidden")
        return post(x + self._dropout(self.outer(hidden), rows, "feed_forward"))

    def _dropout(self, x, rows: RowKeys | None, site: str):
        return dropout(x, self.cfg.dropout, rows, self.layer, site)


def _layer_norm():
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)


def _identity(x):
    return x


class Decoder(nn.Module):
    """A causal language model over one segment, with its memory in and out."""

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        memory: Memory,
        *,
        operators: long_term.Operators | None = None,
        train: bool = False,
        where: Bool[AnyArray, "B T"] | None = None,
        kl_where: Bool[AnyArray, "B T"] | None = None,
    ) -> Output:
        """Next-token logits of a segment, and the memory for the next one (SPEC §4).

        All of the given memory is a constant to autodiff; the gradient reaches the gate through
        this segment's write.

        Args:
            tokens: a segment of T ≤ cfg.segment_len tokens; after a shorter one only a reset may
                follow if there is a long-term memory.
            memory: from `memory.state.init` or the previous segment; apply `reset` first for rows
                that start a document.
            operators: `operators(cfg)`; always pass them inside jit.
            train: apply dropout; needs rngs={"dropout": key}. Random sticky locations need
                rngs={"locations": key}, in evaluation too.
            where: False at right padding, which counts in neither salience nor KL.
            kl_where: queries that count in the KL; None = as `where`.

        Raises:
            ValueError: tokens or memory of a shape that does not fit the configuration.
        """
        cfg = self.cfg
        _check_call(cfg, tokens, memory)
        memory = jax.lax.stop_gradient(memory)
        where = None if where is None else jnp.asarray(where)
        rows = None
        if train and max(cfg.dropout, cfg.attention_dropout) > 0:
            rows = row_keys(self.make_rng("dropout"), tokens.shape[0])
        embed = nn.Embed(cfg.vocab_size, cfg.d_model, embedding_init=_EMBEDDING, name="embed")
        x = dropout(embed(tokens) * cfg.d_model**0.5, cfg.dropout, rows, 0, "input")
        biases = [self.param(n, _BIAS, (cfg.num_heads, cfg.head_dim)) for n in ("bias_u", "bias_w")]
        positions = sinusoid(cfg.mem_len + tokens.shape[1], cfg.d_model, cfg.clamp_len)
        layers, info = [], []
        for j, layer in enumerate(memory.layers):
            block = Block(cfg, j, name=f"block_{j}")
            key = self.make_rng("locations") if _draws(cfg) else None
            x, new_layer, of_layer = block(
                x, layer, memory.seen, positions, tuple(biases), operators, rows, where, key
            )
            layers.append(new_layer)
            info.append(of_layer)
        x = dropout(x, cfg.dropout, rows, cfg.num_layers - 1, "output")
        logits = nn.Dense(cfg.vocab_size, use_bias=False, name="logits")(x)
        new = Memory(state.advance(memory.seen, tokens.shape[1]), tuple(layers))
        aux = _aux(cfg, info, new, where if kl_where is None else jnp.asarray(kl_where))
        return Output(logits, new, aux, tuple(info))


_EMBEDDING = nn.initializers.normal(0.02)
_BIAS = nn.initializers.normal(0.02)


def _draws(cfg):
    return cfg.long_term is not None and cfg.long_term.sticky and cfg.long_term.locations == "draw"


def _aux(cfg, info, memory, where):
    """Sum of the KL over layers, heads and queries that count, and the number of the latter."""
    if cfg.long_term is None:
        return {}
    total = sum(of_layer["kl"] for of_layer in info)  # [B, H, T], 0 in empty rows
    holds = (memory.layers[0].long_term.writes > 0)[:, None, None]
    counts = holds if where is None else holds & where[:, None, :]
    counts = jnp.broadcast_to(counts, total.shape)
    return {"kl": (jnp.where(counts, total, 0.0).sum(), counts.sum().astype(total.dtype))}


def _check_call(cfg, tokens, memory):
    shape = np.shape(tokens)
    accepted = f"[B, T] with T ≤ segment_len {cfg.segment_len}"
    _require(len(shape) == 2 and shape[1] <= cfg.segment_len, "tokens", shape, accepted)
    _require(memory.seen.shape == shape[:1], "memory", memory.seen.shape, f"{shape[0]} rows")
    accepted = f"{cfg.num_layers} layers of this configuration"
    _require(len(memory.layers) == cfg.num_layers, "memory", len(memory.layers), accepted)
    for layer in memory.layers:
        _check_layer(cfg, layer)


def _check_layer(cfg, layer: LayerMemory):
    found = None if layer.fifo is None else layer.fifo.shape[1]
    expected = state.fifo_len(cfg) or None
    _require(found == expected, "memory: FIFO length", found, expected)
    parts = (layer.long_term is None, cfg.long_term is None)
    _require(parts[0] == parts[1], "memory: long-term part", parts[0], "as in the configuration")
