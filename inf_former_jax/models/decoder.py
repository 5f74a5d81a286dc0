"""One decoder for every model of the paper: they differ in what happens beyond the window.

x ─► short-term FIFO ─┬ dropped                              vanilla (FIFO of 0), Transformer-XL
                      ├ compressed, kept as extra keys       Compressive Transformer
                      └ regressed onto N basis functions     ∞-former

A model is a *value* of `ModelConfig`. The memory goes in and comes out; nothing is hidden.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.long_term import Operators, select_rows
from inf_former_jax.memory.state import LayerMemory, Memory
from inf_former_jax.models import all_segments
from inf_former_jax.models.all_segments import flat
from inf_former_jax.models.block import Block, norm_of, recomputed
from inf_former_jax.models.config import ModelConfig, compute_dtype
from inf_former_jax.models.dropout import RowKeys, dropout, row_keys
from inf_former_jax.models.layer_memory.kind import Info
from inf_former_jax.models.local_attention.scores import sinusoid
from inf_former_jax.models.open_segment import Cache
from inf_former_jax.models.output import Output, aux_sums
from inf_former_jax.models.projections import F32, exact_dot, product
from inf_former_jax.models.segment import Distances, Noise, Segment
from inf_former_jax.require import require, require_same, shapes


def operators(cfg: ModelConfig, dtype=None) -> Operators | None:
    """The write operators that all layers share; None without a long-term memory.

    Host arrays: `jax.device_put` them once and pass them to every jitted call.
    """
    if cfg.long_term is None:
        return None
    return long_term.operators(cfg.long_term, cfg.segment_len, dtype)


class Decoder(nn.Module):
    """A causal language model over one segment, with its memory in and out."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        dtype = compute_dtype(cfg)
        self.embed = nn.Embed(cfg.vocab_size, cfg.d_model, dtype, embedding_init=_EMBEDDING)
        if cfg.position == "learned":
            shape = (cfg.max_position, cfg.d_model)
            self.positions = self.param("positions", _EMBEDDING, shape, F32)
        elif cfg.position == "relative":
            shape = (cfg.num_heads, cfg.head_dim)
            self.bias_u = self.param("bias_u", _BIAS, shape, F32)
            self.bias_w = self.param("bias_w", _BIAS, shape, F32)
        self.block = [Block(cfg, j) for j in range(cfg.num_layers)]
        if cfg.final_norm:
            self.norm_final = norm_of(cfg, dtype=dtype)
        if not cfg.tied:
            self.logits = nn.Dense(
                cfg.vocab_size, use_bias=False, dtype=dtype, dot_general=exact_dot
            )

    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        memory: Memory,
        *,
        operators: Operators | None = None,
        train: bool = False,
        where: Bool[AnyArray, "B T"] | None = None,
        kl_where: Bool[AnyArray, "B T"] | None = None,
        types: Int[AnyArray, "B T"] | None = None,
        distances: Distances | None = None,
        noise: Noise | None = None,
        lower: Float[AnyArray, "B T E"] | None = None,
    ) -> Output:
        """Next-token logits of a segment, and the memory for the next one (SPEC §4).

        All of the given memory is a constant to autodiff unless `cfg.memory_gradient` is positive:
        then it is differentiated, but for compressed vectors and sticky locations. Either way the
        gradient reaches the gate through this segment's write.

        Args:
            tokens: a segment of T ≤ cfg.segment_len tokens; after a shorter one only a reset may
                follow if there is a long-term or compressed memory.
            memory: from `memory.state.init` or the previous segment; apply `reset` first for rows
                that start a document.
            operators: `operators(cfg)`; always pass them inside jit.
            train: apply dropout; needs rngs={"dropout": key}. Random sticky locations need
                rngs={"locations": key}, in evaluation too.
            where: False at right padding, which counts in neither salience nor KL.
            kl_where: queries that count in `aux`; None = as `where`.
            types: ids whose embeddings are added to the tokens': who says them (SPEC §7).
            distances: `distances(T)`, if they are at hand from an earlier segment.
            noise: `noise(B, train)`, if its keys have been drawn already.
            lower: what `lower` made of these tokens. Its layers are not run, and their short-term
                memories stay as they are.

        Raises:
            ValueError: tokens, memory or lower of a shape that does not fit the configuration, or
                dropout in training beside lower.
        """
        cfg = self.cfg
        check_call(cfg, tokens, memory)
        if lower is not None:
            shape, accepted = (*np.shape(tokens), cfg.d_model), f"of {cfg.lower_layers} layers"
            require(np.shape(lower) == shape, "lower", np.shape(lower), f"{shape}, {accepted}")
            dropped = max(cfg.dropout, cfg.attention_dropout)
            require(not train or dropped == 0, "dropout", dropped, "0 beside lower")
        if cfg.memory_gradient == 0:
            memory = jax.lax.stop_gradient(memory)
        where = None if where is None else jnp.asarray(where)
        due = state.has_pending(cfg, memory.seen)
        if where is not None:  # a row that is all padding has ended: nothing is written for it
            due &= where.any(axis=1)
        segments = self._segments(
            due,
            memory.seen,
            where,
            operators=operators,
            noise=self.noise(tokens.shape[0], train) if noise is None else noise,
            distances=self.distances(tokens.shape[1]) if distances is None else distances,
        )
        logits, layers, info = self._run(
            Block.__call__, tokens, types, memory, segments, lower=lower
        )
        written = state.long_term_of(Memory(memory.seen, layers))
        holds = None if written is None else jnp.asarray(written.writes) > 0
        aux = aux_sums(info, holds, where if kl_where is None else jnp.asarray(kl_where))
        seen = state.advance(memory.seen, tokens.shape[1])
        return Output(logits, Memory(seen, layers), aux, info)

    def all_segments(
        self,
        tokens: Int[AnyArray, "B W T"],
        memory: Memory,
        resets: Bool[AnyArray, "B W"],
        *,
        operators: Operators | None,
        noise: Noise | None = None,
        where: Bool[AnyArray, "B W T"] | None = None,
        kl_where: Bool[AnyArray, "B W T"] | None = None,
        types: Int[AnyArray, "B W T"] | None = None,
        runs: Bool[AnyArray, " W"] | None = None,
        empty: bool = False,
    ) -> Output:
        """What W calls give, one after the other, computed layer by layer (`all_segments.py`).

        Args:
            tokens: whole segments, T = cfg.segment_len.
            resets: rows that are reset before each segment.
            operators: `operators(cfg)`, None without a long-term memory.
            noise: `noise` of each segment, leaves [W, …]; None: nothing is dropped or drawn.
            where, kl_where, types: as of the call.
            runs: False where a segment is padding in every row. It only resets the memory, and its
                logits mean nothing.
            empty: the long-term memory is emptied before every segment.

        Returns:
            Logits [B, W, T, V], the memory after all segments, `aux` summed over them; no `info`.

        Raises:
            ValueError: as `all_segments.check`, tokens that are no whole segments, or a memory
                that does not fit.
        """
        cfg, (batch, count, length) = self.cfg, np.shape(tokens)
        all_segments.check(cfg)
        check_call(cfg, tokens[:, 0], memory)
        require(length == cfg.segment_len, "tokens", np.shape(tokens), f"T = {cfg.segment_len}")
        # What attention does not see of the first window is still multiplied, by gradients of 0.
        memory = state.reset(jax.lax.stop_gradient(memory), jnp.asarray(resets)[:, 0])
        reads = None if where is None else jnp.asarray(where).any(axis=2)
        course = all_segments.follow_counters(
            cfg, memory, resets, reads=reads, runs=runs, empty=empty
        )
        if noise is not None and noise.dropout is not None:
            keys = flat(jnp.swapaxes(noise.dropout.keys, 0, 1))
            noise = noise._replace(dropout=RowKeys(keys))
        segments = self._segments(
            flat(course.due),
            flat(course.seen),
            flat(where),
            operators=operators,
            noise=noise,
            distances=self.distances(),
        )
        logits, layers, info = self._run(
            Block.all_segments, flat(tokens), flat(types), memory, segments, course
        )
        holds = None if cfg.long_term is None else flat(course.writes + course.due > 0)
        aux = aux_sums(info, holds, flat(where if kl_where is None else kl_where))
        logits = logits.reshape(batch, count, length, -1)
        return Output(logits, Memory(course.after, layers), aux, ())

    def _segments(
        self, due, seen, where, *, operators=None, noise=None, distances=None
    ) -> list[Segment]:
        """What each layer is told of the segment."""
        nothing = (None,) * self.cfg.num_layers
        noise = noise or Noise(None, nothing)
        segment = Segment(due, seen, where, operators, noise.dropout, self._biases())
        by_layer = zip(distances or nothing, noise.locations, strict=True)
        return [segment._replace(distances=table, location_key=key) for table, key in by_layer]

    def lower(
        self,
        tokens: Int[AnyArray, "B T"],
        memory: Memory,
        *,
        where: Bool[AnyArray, "B T"] | None = None,
        types: Int[AnyArray, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T E"], Memory]:
        """What the layers make of a segment that stand below all with a long-term memory.

        No memory reaches them, so that it is the same whatever the memory is, and as long as these
        layers are frozen. Nothing is dropped.

        Args:
            tokens, memory, where, types: as of the call.

        Returns:
            The outputs of `cfg.lower_layers` layers, and the memory with their part written.

        Raises:
            ValueError: tokens or memory of a shape that does not fit the configuration.
        """
        check_call(self.cfg, tokens, memory)
        due = state.has_pending(self.cfg, memory.seen)
        segments = self._segments(due, memory.seen, where, distances=self.distances())
        x, layers, _ = self._through(
            self._input(tokens, types, None),
            Block.__call__,
            memory,
            segments,
            last=self.cfg.lower_layers,
        )
        return x, Memory(state.advance(memory.seen, tokens.shape[1]), layers)

    def _run(
        self,
        layer_call: Callable,
        tokens,
        types,
        memory: Memory,
        segments: list[Segment],
        *more,
        lower=None,
    ) -> tuple[Float[Array, "B T V"], tuple[LayerMemory, ...], tuple[Info, ...]]:
        """All layers, one after the other: (logits, each one's memory, each one's info)."""
        keys, first = segments[0].dropout, 0
        if lower is None:
            x = self._input(tokens, types, keys)
        else:
            x, first = jax.lax.stop_gradient(jnp.asarray(lower)), self.cfg.lower_layers
        x, layers, infos = self._through(x, layer_call, memory, segments, *more, first=first)
        return self._outputs(x, keys), layers, infos

    def _input(self, tokens, types, dropout_keys: RowKeys | None) -> Float[Array, "B T E"]:
        """What the first layer gets."""
        x = self._embedded(tokens, np.arange(tokens.shape[1])[None], types)
        return dropout(x, self.cfg.dropout, dropout_keys, 0, "input")

    def _through(
        self, x, layer_call, memory: Memory, segments: list[Segment], *more, first=0, last=None
    ) -> tuple[Float[Array, "B T E"], tuple[LayerMemory, ...], tuple[Info, ...]]:
        """The layers from `first` to before `last`; the others' memories are as they were."""
        layers, infos = list(memory.layers), []
        for number in range(first, self.cfg.num_layers if last is None else last):
            arguments = x, layers[number], segments[number]
            x, layers[number], info = self._layer(layer_call, self.block[number], *arguments, *more)
            infos.append(info)
        return x, tuple(layers), tuple(infos)

    def _layer(self, layer_call: Callable, block: Block, x: Array, *more: Any) -> Any:
        """One layer. In a program it is traced once for all layers that differ in numbers only.

        Tracing costs Python's time, which grows with the layers otherwise. The masks of dropout
        depend on the layer's place, so that with dropout each layer is traced.
        """
        # Flax has to see the module itself where it makes parameters or captures intermediates.
        seen = any(map(self.is_mutable_collection, ("params", "intermediates")))
        if seen or not isinstance(x, Tracer):
            return recomputed(self.cfg, layer_call)(block, x, *more)
        segment: Segment = more[1]
        place = self.cfg.like_layer(block.layer) if segment.dropout is None else block.layer
        return _layer_program(layer_call, self.cfg, place, block.variables, x, *more)

    def noise(self, batch: int, train: bool, first: Int[AnyArray, ""] | int = 0) -> Noise:
        """The random keys of one segment, drawn in this order.

        Args:
            first: global number of the first row, where the batch is a part of a larger one.
        """
        cfg, dropout_keys = self.cfg, None
        if train and max(cfg.dropout, cfg.attention_dropout) > 0:
            dropout_keys = row_keys(self.make_rng("dropout"), batch, first)
        return Noise(dropout_keys, self._location_keys(batch, first))

    def _location_keys(
        self, batch: int, first: Int[AnyArray, ""] | int = 0
    ) -> tuple[Key[Array, " B"] | None, ...]:
        """Keys of the rows for each layer if sticky locations are drawn."""
        memory = self.cfg.long_term
        if memory is None or not memory.sticky or memory.locations != "draw":
            return (None,) * self.cfg.num_layers
        keys = (self.make_rng("locations") for _ in self.block)
        return tuple(row_keys(key, batch, first).keys for key in keys)

    def distances(self, length: int | None = None) -> Distances:
        """Each layer's projected position table for segments of `length` tokens, or for whole ones.

        It depends on the parameters alone. It is None without relative positions.
        """
        cfg = self.cfg
        if cfg.position != "relative":
            return (None,) * cfg.num_layers
        farthest = state.window_len(cfg) + (length or cfg.segment_len)
        table = sinusoid(farthest, cfg.d_model, cfg.clamp_len)
        return tuple(block.attention.distances(table) for block in self.block)

    def open(
        self,
        memory: Memory,
        cache: Cache,
        rows: Bool[AnyArray, " B"],
        *,
        operators: Operators | None = None,
    ) -> tuple[Memory, Cache]:
        """Begin a segment in the given rows: write what is pending, as the call does before it."""
        due = rows & state.has_pending(self.cfg, memory.seen)
        noise = Noise(None, self._location_keys(len(rows)))
        segments = self._segments(due, memory.seen, None, operators=operators, noise=noise)
        opened = [
            block.open(layer, part, segment, rows)
            for block, layer, part, segment in zip(
                self.block, memory.layers, cache.layers, segments, strict=True
            )
        ]
        layers, caches = zip(*opened, strict=True)
        return memory._replace(layers=layers), cache._replace(layers=caches)

    def extend(
        self,
        tokens: Int[AnyArray, "B C"],
        counts: Int[AnyArray, " B"],
        position: Int[AnyArray, " B"],
        memory: Memory,
        cache: Cache,
        distances: Distances,
        types: Int[AnyArray, "B C"] | None = None,
    ) -> Cache:
        """The cache after each row's first counts[b] tokens: what the call computes for them alone.

        Args:
            tokens, types: right-padded; counts[b] ≤ T - position[b] of them count.
            position: tokens of the row's segment so far; it was opened before its first one.
            memory: as `open` left it.
            distances: `distances()`.
        """
        steps = np.arange(tokens.shape[1])[None]
        # Padding attends somewhere, and nobody sees it.
        places = jnp.minimum(position[:, None] + steps, self.cfg.segment_len - 1)
        due, where = jnp.zeros(tokens.shape[0], bool), steps < counts[:, None]
        segments = self._segments(due, memory.seen, where, distances=distances)
        x, layers = self._embedded(tokens, places, types), []
        of_layers = zip(self.block, memory.layers, cache.layers, segments, strict=True)
        for block, layer, part, segment in of_layers:
            x, part = block.extend(x, layer, part, segment, places)
            layers.append(part)
        last = jnp.maximum(counts - 1, 0)[:, None, None]
        logits = self._outputs(jnp.take_along_axis(x, last, axis=1), None)[:, 0]
        logits = jnp.where((counts > 0)[:, None], logits.astype(cache.logits.dtype), cache.logits)
        return Cache(tuple(layers), logits)

    def commit(self, memory: Memory, cache: Cache, rows: Bool[AnyArray, " B"]) -> Memory:
        """The memory after the full segments of the given rows, as the call returns it."""
        of_layers = zip(self.block, memory.layers, cache.layers, strict=True)
        layers = tuple(block.commit(layer, part, memory.seen) for block, layer, part in of_layers)
        after = Memory(state.advance(memory.seen, self.cfg.segment_len), layers)
        return select_rows(rows, after, memory)

    def _embedded(self, tokens, places, types):
        """Embeddings, with types and learned positions if there are any; places [B or 1, T]."""
        x = self.embed(tokens)
        if types is not None:
            x = x + self.embed(types)
        if self.cfg.scale_embedding:
            x = x * self.cfg.d_model**0.5
        if self.cfg.position != "learned":
            return x
        return x + self.positions[places].astype(x.dtype)

    def _biases(self):
        """u and w of relative attention, else None."""
        return (self.bias_u, self.bias_w) if self.cfg.position == "relative" else None

    def _outputs(self, x, dropout_keys: RowKeys | None) -> Float[Array, "B T V"]:
        """The logits, from the outputs of the last layer."""
        cfg = self.cfg
        if cfg.final_norm:
            x = self.norm_final(x)
        if cfg.inner_dropout:
            x = dropout(x, cfg.dropout, dropout_keys, cfg.num_layers - 1, "output")
        if not cfg.tied:
            return self.logits(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return product(x, self.embed.embedding.astype(x.dtype), None, wide, transposed=True)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _layer_program(
    layer_call: Callable, cfg: ModelConfig, place: int, variables: Any, *arguments: Any
) -> Any:
    """`layer_call` of the layer at a place, as a function of its parameters.

    JAX keeps the trace by the static arguments and the shapes of the others; XLA inlines the calls.
    """
    call = recomputed(cfg, layer_call)
    return Block(cfg, place, parent=None).apply(variables, *arguments, method=call)


_EMBEDDING = nn.initializers.normal(0.02)
_BIAS = nn.initializers.normal(0.02)


def check_call(cfg: ModelConfig, tokens: Int[AnyArray, "B T"], memory: Memory) -> None:
    """Refuse a segment or a memory that does not fit the model.

    Raises:
        ValueError: as the decoder's call.
    """
    shape = np.shape(tokens)
    accepted = f"[B, T] with T ≤ segment_len {cfg.segment_len}"
    require(len(shape) == 2 and shape[1] <= cfg.segment_len, "tokens", shape, accepted)
    expected = jax.eval_shape(lambda: state.init(cfg, shape[0]))
    require_same("memory", shapes(memory), shapes(expected))
