"""One layer of the decoder: local attention and what its memory adds, then feed-forward (SPEC §4).

Three schedules over segments run it. In each of them what is due is written to the memory, local
attention sees a window of the memory beside the segment, queries read a context that is added or
cells that are joined to its softmax, and the segment's inputs are pushed onto the memory.

    __call__               a whole segment of B rows
    all_segments           W whole segments as B·W rows, from one memory of B rows
    open, extend, commit   a segment that comes in pieces of tokens
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.memory import state
from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.memory.state import LayerMemory
from inf_former_jax.models import open_segment
from inf_former_jax.models.all_segments import Course
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.config import ModelConfig, compute_dtype
from inf_former_jax.models.dropout import dropout
from inf_former_jax.models.layer_memory.compressed import Compressed, Compression
from inf_former_jax.models.layer_memory.kind import Info, MemoryKind, Read, combined
from inf_former_jax.models.layer_memory.long_term import LongTerm
from inf_former_jax.models.local_attention.layer import Attended, KeysValues, LocalAttention
from inf_former_jax.models.memory_read.layer import LayerProjections
from inf_former_jax.models.open_segment import LayerCache
from inf_former_jax.models.projections import dense_dot, from_heads
from inf_former_jax.models.segment import Segment


class Block(nn.Module):
    """One layer; its inputs are B segments of T tokens in E channels."""

    cfg: ModelConfig
    layer: int

    def setup(self):
        cfg, kinds = self.cfg, []
        self.attention = LocalAttention(cfg, self.layer)
        if cfg.compressed is not None:
            self.compression = Compression(cfg.compressed)
            kinds.append(Compressed(cfg, self.compression, self._reconstruction))
        if cfg.long_term is not None and cfg.remembers(self.layer):
            self.long_term = LongTermAttention(cfg.long_term)
            kinds.append(LongTerm(cfg, self.long_term, self._projections()))
        self.kinds: tuple[MemoryKind, ...] = tuple(kinds)
        dtype = compute_dtype(cfg)
        self.norm_attention = norm_of(cfg, dtype=dtype)
        self.norm_feed_forward = norm_of(cfg, dtype=dtype)
        gated = cfg.activation == "swiglu"
        dense = partial(nn.Dense, use_bias=not gated, dtype=dtype, dot_general=dense_dot)
        self.inner, self.outer = dense(cfg.d_inner), dense(cfg.d_model)
        if gated:
            self.inner_gate = dense(cfg.d_inner)

    def __call__(
        self, x: Float[Array, "B T E"], memory: LayerMemory, segment: Segment
    ) -> tuple[Float[Array, "B T E"], LayerMemory, Info]:
        """(outputs, the memory after the segment, diagnostics and terms of the loss)."""
        memory, info = self._write(memory, segment, x)
        q, attended = self._look_around(x, segment, self._window(memory, x.dtype))
        read = self._read(q, attended, memory, segment)
        outputs = self._rest(x, attended, read, segment)
        return outputs, self._push(memory, x, read.mass, segment.seen), info | read.info

    def all_segments(
        self, x: Float[Array, "BW T E"], memory: LayerMemory, segment: Segment, course: Course
    ) -> tuple[Float[Array, "BW T E"], LayerMemory, Info]:
        """The call on W segments, one after the other, run as B·W rows from a memory of B rows.

        Each of them finds a memory of its own. What it finds of the others is a constant, while
        the gradient of its own keys and values reaches x.
        """
        found = after = memory
        constant = jax.lax.stop_gradient(x)
        window = self._window(memory._replace(sinks=None), x.dtype)
        if memory.fifo is not None:
            fifos = course.fifos(memory.fifo, course.by_row(constant))
            found, after = (memory._replace(fifo=fifo) for fifo in fifos)
        if window is not None and course.seen.shape[1] > 1:  # a single segment has no later one
            # All inputs are projected once, and each window is cut out of their keys and values.
            later = self.attention.keys_values(self._normed_before(constant))
            cut = jax.vmap(lambda first, later: course.fifos(first, course.by_row(later))[0])
            window = jax.tree.map(cut, window, later)
        if memory.sinks is not None:
            each, last = course.sinks(memory.sinks, course.by_row(constant))
            found, after = found._replace(sinks=each), after._replace(sinks=last)
            first = self._keys_values(each, x.dtype)
            assert window is not None
            window = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), first, window)
        q, attended = self._look_around(x, segment, window)
        for kind in self.kinds:
            found, after = kind.write_all(found, after, (q, attended.logsum), segment, course)
        read = self._read(q, attended, found, segment)
        return self._rest(x, attended, read, segment), after, read.info

    def _write(
        self, memory: LayerMemory, segment: Segment, x: Array | None = None
    ) -> tuple[LayerMemory, Info]:
        info = {}
        for kind in self.kinds:
            memory, more = kind.write(memory, segment, x)
            info |= more
        return memory, info

    def _look_around(
        self, x: Array, segment: Segment, window: KeysValues | None
    ) -> tuple[Float[Array, "B H T K"], Attended]:
        """The queries of whole segments, and what they find in the segment and the window.

        The window is a constant. It is projected apart from x, so that no gradient by it is formed.
        """
        inputs = self._normed_before(x)
        keys, values = self.attention.keys_values(inputs)
        if window is not None:
            keys = jnp.concatenate([window[0], keys], axis=2)
            values = jnp.concatenate([window[1], values], axis=2)
        q = self.attention.queries(inputs)
        return q, self.attention(q, (keys, values), segment)

    def _read(self, q: Array, attended: Attended, memory: LayerMemory, segment: Segment) -> Read:
        """What the same queries find in the memory, to which what is due has been written."""
        return combined(kind.read(memory, (q, attended.logsum), segment) for kind in self.kinds)

    def _push(
        self, memory: LayerMemory, x: AnyArray | None, mass: AnyArray | None, seen: AnyArray
    ) -> LayerMemory:
        """The memory after segments with these inputs, whose attention fell on these bins."""
        for kind in self.kinds:
            memory = kind.remember(memory, mass)
        return memory if x is None else state.push(memory, x, seen)

    def open(
        self, memory: LayerMemory, cache: LayerCache, segment: Segment, rows: Bool[AnyArray, " B"]
    ) -> tuple[LayerMemory, LayerCache]:
        """Begin a segment in the given rows: the memory and the cache as it finds them."""
        memory, _ = self._write(memory, segment)
        found = [kind.project(memory) for kind in self.kinds]
        projected = next((one for one in found if one is not None), None)
        window = self._window(memory)
        if window is not None:  # the cache holds keys as attention sees them
            keys, values = window
            window = self.attention.placed(keys, np.arange(keys.shape[2])[None]), values
        return memory, open_segment.opened(cache, rows, window, projected)

    def extend(
        self,
        x: Float[Array, "B C E"],
        memory: LayerMemory,
        cache: LayerCache,
        segment: Segment,
        places: Int[Array, "B C"],
    ) -> tuple[Float[Array, "B C E"], LayerCache]:
        """The call on tokens at any places of open segments: (outputs, the cache with them)."""
        assert segment.where is not None
        inputs, slots = self._normed_before(x), state.window_len(self.cfg) + places
        keys, values = self.attention.keys_values(inputs)
        keys_values = self.attention.placed(keys, slots), values
        cache = open_segment.append(cache, x, keys_values, slots, segment.where)
        keys, values = (jnp.moveaxis(part, 2, 0) for part in (cache.keys, cache.values))
        q = self.attention.queries(inputs)
        segment = segment._replace(projected=cache.projected, places=places)
        attended = self.attention.cached(q, (keys, values), segment, slots)
        read = self._read(q, attended, memory, segment)
        if cache.mass is not None and read.mass is not None:
            cache = cache._replace(mass=cache.mass + read.mass.astype(cache.mass.dtype))
        return self._rest(x, attended, read, segment), cache

    def commit(
        self, memory: LayerMemory, cache: LayerCache, seen: Int[AnyArray, " B"]
    ) -> LayerMemory:
        """The memory after segments that are full, which began after `seen` tokens."""
        return self._push(memory, cache.inputs, cache.mass, seen)

    def _normed_before(self, x: AnyArray) -> Any:
        """What attention sees of a layer's inputs."""
        return self.norm_attention(x) if self.cfg.norm == "pre" else x

    def _window(self, memory: LayerMemory, dtype: Any = None) -> KeysValues | None:
        """Keys and values of the memory's window in a dtype; what is remembered is float32."""
        window = state.window(self.cfg, memory)
        return None if window is None else self._keys_values(window, dtype)

    def _keys_values(self, x: AnyArray, dtype: Any = None) -> KeysValues:
        """Keys and values of a layer's inputs that were remembered, in a dtype."""
        return self.attention.keys_values(
            self._normed_before(x if dtype is None else x.astype(dtype))
        )

    def _projections(self) -> LayerProjections:
        """Those of local attention, which sees inputs after the norm where it comes before.

        They stay in the signal's dtype, also where layers compute in bfloat16. What is read is
        added to local attention's output, which has the bias of the output already. Cells have no
        place in the window: where positions are rotary, they stand before it by their age, or all
        of them at one distance from each query.
        """

        def keys_values(x):
            if self.cfg.norm == "pre":
                self.norm_attention(x)  # creates the parameters when the module is initialised
                apply: Any = norm_of(self.cfg, parent=None).apply
                x = apply(self.norm_attention.variables, x)
            keys, values = self.attention.keys_values(x, HIGHEST)
            return self.attention.for_queries(keys), self.attention.for_queries(values)

        return LayerProjections(
            keys_values,
            output=lambda z: from_heads(z, self.attention.out, HIGHEST),
            queries=self.attention.for_cells,
            aged=self.attention.aged,
        )

    def _reconstruction(self, x: AnyArray, old: Array, new: Array) -> Float[Array, "B T"]:
        """`LocalAttention.reconstruction` of vectors before the norm, which is detached, too."""
        if self.cfg.norm == "pre":
            self.norm_attention(x)  # creates the parameters when the module is initialised
            norm = jax.lax.stop_gradient(self.norm_attention.variables)
            apply: Any = norm_of(self.cfg, parent=None, dtype=compute_dtype(self.cfg)).apply
            x, old, new = (apply(norm, part) for part in (x, old, new))
        return self.attention.reconstruction(x, old, new)

    def _rest(
        self, x: Array, attended: Attended, read: Read, segment: Segment
    ) -> Float[Array, "B T E"]:
        """What follows once both attentions are known."""
        cfg, drop = self.cfg, partial(self._dropout, segment)
        output = self.attention.output(attended, read.joined).astype(x.dtype)
        if read.context is not None:
            output = output + read.context.astype(x.dtype)
        x = x + drop(output, "context")
        if cfg.norm == "post":
            x = self.norm_attention(x)
        hidden = self._hidden(self.norm_feed_forward(x) if cfg.norm == "pre" else x)
        if cfg.inner_dropout:
            hidden = drop(hidden, "hidden")
        x = x + drop(self.outer(hidden), "feed_forward")
        return self.norm_feed_forward(x) if cfg.norm == "post" else x

    def _hidden(self, x: Array) -> Float[Array, "B T F"]:
        """Inside the feed-forward layer: `a(x W + b)`, or `silu(x G) ⊙ x W` (Shazeer 2020, §2)."""
        if self.cfg.activation == "swiglu":
            return nn.silu(self.inner_gate(x)) * self.inner(x)
        return _ACTIVATIONS[self.cfg.activation](self.inner(x))

    def _dropout(self, segment: Segment, x: Array, site: str) -> Array:
        return dropout(x, self.cfg.dropout, segment.dropout, self.layer, site)


_ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=True),
    "gelu_exact": partial(nn.gelu, approximate=False),
}


def recomputed(cfg: ModelConfig, layer: Callable) -> Callable:
    """`layer(block, …)`, which is run again in the backward pass if `cfg.remat` says so."""
    return nn.remat(layer) if cfg.remat else layer


def norm_of(cfg: ModelConfig, **fields: Any) -> nn.LayerNorm | nn.RMSNorm:
    """The norm over the channels that the configuration says."""
    kind = nn.RMSNorm if cfg.norm_kind == "rms" else nn.LayerNorm
    return kind(epsilon=cfg.norm_epsilon, use_fast_variance=False, **fields)
