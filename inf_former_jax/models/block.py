"""One layer of the decoder."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from inf_former_jax.memory import state
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.compression import Compression
from inf_former_jax.models.config import ModelConfig, compute_dtype
from inf_former_jax.models.dropout import RowKeys, dropout
from inf_former_jax.models.local_attention.layer import LocalAttention, keys_values, own_and_later
from inf_former_jax.models.open_segment import LayerCache, append, attend, opened


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
            relative=cfg.position == "relative",
            bias=cfg.attention_bias,
            fused=cfg.fused_by if cfg.fused_attention else None,
        )
        if cfg.long_term is not None:
            self.long_term = LongTermAttention(cfg.long_term)
        if cfg.compressed is not None:
            self.compression = Compression(cfg.compressed)
        dtype = compute_dtype(cfg)
        self.norm_attention = layer_norm(dtype=dtype)
        self.norm_feed_forward = layer_norm(dtype=dtype)
        self.inner = nn.Dense(cfg.d_inner, dtype=dtype)
        self.outer = nn.Dense(cfg.d_model, dtype=dtype)

    def __call__(self, x, memory, seen, distances, biases, operators, rows, where, key):
        """One segment through the layer: (x, memory, info); arguments as `Decoder` makes them."""
        due = state.has_pending(self.cfg, seen)
        if where is not None:  # a row that is all padding has ended: nothing more of it is written
            due &= where.any(axis=1)
        memory, info = self._compress(memory, x, due)
        attended, q = self.local(x, self._seen(memory, x), seen, distances, biases, rows)
        context, remembered, read = self._long_term(q, memory, due, operators, where, key)
        new_memory = state.push(memory._replace(long_term=remembered), x)
        return self.rest(x, attended, context, rows), new_memory, info | read

    def local(self, x, keys_values, seen, distances, biases, rows):
        """Attention of segments over their windows: (attended, queries)."""
        filled, inputs = state.num_filled(self.cfg, seen), self._pre_attention()(x)
        return self.attention(inputs, keys_values, filled, distances, biases, rows, self.layer)

    def keys_values(self, x):
        """Keys and values of a layer's inputs."""
        return self.attention.keys_values(self._pre_attention()(x))

    def _seen(self, memory, x):
        """Keys and values of the window and of x."""
        own, window = self.keys_values(x), state.window(self.cfg, memory)
        if window is None:
            return own
        # What is remembered is float32 whatever x is. Apart from x it costs no gradient of its own.
        past = self.keys_values(window.astype(x.dtype))
        return tuple(jnp.concatenate(pair, axis=2) for pair in zip(past, own, strict=True))

    def seen_twice(self, x):
        """Keys and values of x, which its own segment sees, and the same, x detached, for later."""
        pre, dtype = self.cfg.norm == "pre", compute_dtype(self.cfg)
        norm = self.norm_attention.variables if pre else None

        def project(params, x):
            norm, of_attention = params
            if pre:
                x = layer_norm(parent=None, dtype=dtype).apply(norm, x)
            return keys_values(of_attention, x)

        return own_and_later(project, (norm, self.attention.seen_params()), x)

    def open(self, memory, cache: LayerCache, rows, seen, operators, key):
        """What a new segment finds in the given rows: (memory, cache).

        What is pending there is compressed or written, as the call does it.
        """
        due = rows & state.has_pending(self.cfg, seen)
        if self.cfg.compressed is not None:
            memory = self._compressed(memory, due)[-1]
        window, of_window, projected = state.window(self.cfg, memory), None, None
        if window is not None:
            of_window = self.keys_values(window)
        if self.cfg.long_term is not None:
            memory = memory._replace(long_term=self._written(memory, due, operators, key))
            projected = self.long_term.project(memory.long_term)
        return memory, opened(cache, rows, of_window, projected)

    def extend(self, x, memory, cache: LayerCache, seen, places, where, distances, biases):
        """The call on x [B, C, E] at places [B, C] of segments that are open: (x, cache)."""
        cfg, skipped = self.cfg, state.window_len(self.cfg)
        inputs = self._pre_attention()(x)
        cache = append(cfg, cache, x, self.attention.keys_values(inputs), places, where)
        attended, q = self.attention.cached(
            inputs,
            jnp.moveaxis(cache.keys, 2, 0),
            jnp.moveaxis(cache.values, 2, 0),
            skipped - state.num_filled(cfg, seen),
            skipped + places,
            distances,
            biases,
        )
        context = None
        if cfg.long_term is not None:
            context, _, info = self.long_term(
                at_least_float32(q), memory.long_term, projected=cache.projected
            )
            cache = attend(cache, info["density"], where)
        return self.rest(x, attended, context, None), cache

    def _pre_attention(self):
        return self.norm_attention if self.cfg.norm == "pre" else _identity

    def rest(self, x, attended, context, rows):
        """What follows once both attentions are known."""
        post = self.norm_attention if self.cfg.norm == "post" else _identity
        attended = attended.astype(x.dtype)
        if context is not None:
            attended = attended + context.astype(x.dtype)
        x = post(x + self._dropout(attended, rows, "context"))
        return self._feed_forward(x, rows)

    def _compress(self, memory, x, due):
        """The pending segment into the compressed memory, and what it lost (SPEC §5b).

        Both are detached whatever `memory_gradient` is: the one trains f_c alone, the other never.
        """
        if self.cfg.compressed is None:
            return memory, {}
        pending, slots, memory = self._compressed(memory, due)
        lost = self.attention.reconstruction(*(self._detached_norm(m) for m in (x, pending, slots)))
        return memory, {"reconstruction": jnp.where(due[:, None], lost, 0.0), "compressed": due}

    def _compressed(self, memory, due):
        """(pending, its compressed vectors, the memory with them in the rows that are due)."""
        pending = jax.lax.stop_gradient(state.pending(self.cfg, memory))
        slots = self.compression(pending)
        return pending, slots, state.append_compressed(memory, jax.lax.stop_gradient(slots), due)

    def _detached_norm(self, x):
        """What the attention sees of x, without a gradient to the norm's own parameters."""
        if self.cfg.norm == "post":
            return x
        self.norm_attention(x)  # creates the parameters when the module is initialised
        detached = jax.lax.stop_gradient(self.norm_attention.variables)
        return layer_norm(parent=None, dtype=compute_dtype(self.cfg)).apply(detached, x)

    def _long_term(self, q, memory, due, operators, where, key):
        if self.cfg.long_term is None:
            return None, None, {}
        written = self._written(memory, due, operators, key)
        return self.long_term(at_least_float32(q), written, where=where)

    def _written(self, memory, due, operators, key):
        return self.long_term.write(
            memory.long_term, state.pending(self.cfg, memory), operators=operators, rows=due,
            key=key, detach=self.cfg.memory_gradient == 0,
        )  # fmt: skip

    def _feed_forward(self, x, rows):
        pre = self.norm_feed_forward if self.cfg.norm == "pre" else _identity
        post = self.norm_feed_forward if self.cfg.norm == "post" else _identity
        hidden = _ACTIVATIONS[self.cfg.activation](self.inner(pre(x)))
        if self.cfg.inner_dropout:
            hidden = self._dropout(hidden, rows, "hidden")
        return post(x + self._dropout(self.outer(hidden), rows, "feed_forward"))

    def _dropout(self, x, rows: RowKeys | None, site: str):
        return dropout(x, self.cfg.dropout, rows, self.layer, site)


_ACTIVATIONS = {"relu": nn.relu, "gelu": partial(nn.gelu, approximate=True)}


def recomputed(cfg: ModelConfig, layer: Callable) -> Callable:
    """`layer(block, …)`, which with `cfg.remat` is run again on the way back."""
    return nn.remat(layer) if cfg.remat else layer


def layer_norm(**fields) -> nn.LayerNorm:
    """LayerNorm over the channels, ε = 1e-5."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, **fields)


def _identity(x):
    return x


def at_least_float32(x: Array) -> Array:
    """x, widened to the long-term memory's precision if it is narrower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
