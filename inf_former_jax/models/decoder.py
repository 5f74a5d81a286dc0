"""One decoder for every model of the paper: they differ in what happens beyond the window.

x ─► short-term FIFO ─┬ dropped                              vanilla (FIFO of 0), Transformer-XL
                      ├ compressed, kept as extra keys       Compressive Transformer
                      └ regressed onto N basis functions     ∞-former

A model is a *value* of `ModelConfig`. The memory goes in and comes out; nothing is hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.block import Block, layer_norm, recomputed
from inf_former_jax.models.config import ModelConfig, compute_dtype, exact_dot
from inf_former_jax.models.dropout import RowKeys, dropout, row_keys
from inf_former_jax.models.local_attention.scores import F32, sinusoid
from inf_former_jax.models.open_segment import Cache
from inf_former_jax.models.output import Noise, Output, aux_sums
from inf_former_jax.require import require, require_same, shapes

#: Of each layer; P = S + T + 1 distances, the farthest first.
Distances = tuple[Float[Array, "H P K"] | None, ...]


def operators(cfg: ModelConfig, dtype=None) -> long_term.Operators | None:
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
        else:
            shape = (cfg.num_heads, cfg.head_dim)
            self.bias_u = self.param("bias_u", _BIAS, shape, F32)
            self.bias_w = self.param("bias_w", _BIAS, shape, F32)
        self.block = [Block(cfg, j) for j in range(cfg.num_layers)]
        if cfg.final_norm:
            self.norm_final = layer_norm(dtype=dtype)
        if not cfg.tied:
            self.logits = nn.Dense(
                cfg.vocab_size, use_bias=False, dtype=dtype, dot_general=exact_dot
            )

    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        memory: Memory,
        *,
        operators: long_term.Operators | None = None,
        train: bool = False,
        where: Bool[AnyArray, "B T"] | None = None,
        kl_where: Bool[AnyArray, "B T"] | None = None,
        types: Int[AnyArray, "B T"] | None = None,
        distances: Distances | None = None,
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

        Raises:
            ValueError: tokens or memory of a shape that does not fit the configuration.
        """
        cfg = self.cfg
        check_call(cfg, tokens, memory)
        if cfg.memory_gradient == 0:
            memory = jax.lax.stop_gradient(memory)
        where = None if where is None else jnp.asarray(where)
        rows, keys = self.noise(tokens.shape[0], train)
        x = self.inputs(tokens, types, rows)
        distances = self.distances(tokens.shape[1]) if distances is None else distances
        run, layers, info = recomputed(cfg, Block.__call__), [], []
        for block, layer, r, key in zip(self.block, memory.layers, distances, keys, strict=True):
            x, new_layer, of_layer = run(
                block, x, layer, memory.seen, r, self.biases(), operators, rows, where, key
            )
            layers.append(new_layer)
            info.append(of_layer)
        new = Memory(state.advance(memory.seen, tokens.shape[1]), tuple(layers))
        holds = None if cfg.long_term is None else layers[0].long_term.writes > 0
        counts = where if kl_where is None else jnp.asarray(kl_where)
        return Output(self.outputs(x, rows), new, aux_sums(info, holds, counts), tuple(info))

    def noise(self, batch: int, train: bool) -> Noise:
        """What one segment takes of the random numbers, in this order."""
        cfg, rows = self.cfg, None
        if train and max(cfg.dropout, cfg.attention_dropout) > 0:
            rows = row_keys(self.make_rng("dropout"), batch)
        draws = _draws(cfg)
        return Noise(rows, tuple(self.make_rng("locations") if draws else None for _ in self.block))

    def distances(self, length: int | None = None) -> Distances:
        """Each layer's projected position table, for segments of `length` tokens, else whole ones.

        The same for all segments while the parameters are; None of a layer in absolute attention.
        """
        cfg, table = self.cfg, None
        if cfg.position == "relative":
            farthest = state.window_len(cfg) + (length or cfg.segment_len)
            table = sinusoid(farthest, cfg.d_model, cfg.clamp_len)
        return tuple(block.attention.distances(table) for block in self.block)

    def open(
        self,
        memory: Memory,
        cache: Cache,
        rows: Bool[AnyArray, " B"],
        *,
        operators: long_term.Operators | None = None,
    ) -> tuple[Memory, Cache]:
        """Begin a segment in the given rows: write what is pending, as the call does before it."""
        memories, caches = [], []
        for block, layer, of_layer in zip(self.block, memory.layers, cache.layers, strict=True):
            key = self.make_rng("locations") if _draws(self.cfg) else None
            layer, of_layer = block.open(layer, of_layer, rows, memory.seen, operators, key)
            memories.append(layer)
            caches.append(of_layer)
        return memory._replace(layers=tuple(memories)), cache._replace(layers=tuple(caches))

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
            memory, distances: as `open` left it; of `distances()`.
        """
        steps = np.arange(tokens.shape[1])[None]
        where = steps < counts[:, None]
        # Padding attends somewhere, and nobody sees it.
        places = jnp.minimum(position[:, None] + steps, self.cfg.segment_len - 1)
        x, layers = self._embedded(tokens, places, types), []
        of_layers = memory.layers, cache.layers
        for block, r, *of_layer in zip(self.block, distances, *of_layers, strict=True):
            x, layer = block.extend(x, *of_layer, memory.seen, places, where, r, self.biases())
            layers.append(layer)
        last = jnp.maximum(counts - 1, 0)[:, None, None]
        logits = self.outputs(jnp.take_along_axis(x, last, axis=1), None)[:, 0]
        logits = jnp.where((counts > 0)[:, None], logits.astype(cache.logits.dtype), cache.logits)
        return Cache(tuple(layers), logits)

    def inputs(self, tokens, types, rows: RowKeys | None) -> Float[Array, "B T E"]:
        """What the first layer takes of whole segments."""
        x = self._embedded(tokens, np.arange(tokens.shape[1])[None], types)
        return dropout(x, self.cfg.dropout, rows, 0, "input")

    def _embedded(self, tokens, places, types):
        """Embeddings, with types and learned positions if there are any; places [B or 1, T]."""
        x = self.embed(tokens)
        if types is not None:
            x = x + self.embed(types)
        if self.cfg.scale_embedding:
            x = x * self.cfg.d_model**0.5
        if self.cfg.position == "relative":
            return x
        return x + self.positions[places].astype(x.dtype)

    def biases(self):
        """u and w of relative attention, else None."""
        return (self.bias_u, self.bias_w) if self.cfg.position == "relative" else None

    def outputs(self, x, rows: RowKeys | None) -> Float[Array, "B T V"]:
        """The logits, of what the last layer gives."""
        cfg = self.cfg
        if cfg.final_norm:
            x = self.norm_final(x)
        if cfg.inner_dropout:
            x = dropout(x, cfg.dropout, rows, cfg.num_layers - 1, "output")
        if not cfg.tied:
            return self.logits(x)
        contracted = (((2,), (1,)), ((), ()))
        return exact_dot(x, self.embed.embedding.astype(x.dtype), contracted)


_EMBEDDING = nn.initializers.normal(0.02)
_BIAS = nn.initializers.normal(0.02)


def _draws(cfg):
    return cfg.long_term is not None and cfg.long_term.sticky and cfg.long_term.locations == "draw"


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
