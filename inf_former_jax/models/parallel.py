"""The decoder over W segments at once, layer by layer instead of segment by segment.

Memory is a constant to autodiff, so layer l's inputs of all segments are known once layer l-1 has
run on all of them: everything but a short recurrence over coefficients is one batch of B·W. Same
parameters, logits, gradients and memory as W calls of the decoder:

    Decoder(cfg).apply({"params": params}, tokens, memory, resets, …, method=parallel.decode)

What later segments see of a layer's inputs x, as keys or as a write, is detached: W·sg(x). Their
own segment sees W·x. The gradient so reaches W from both and x from the second only. Keys and
values are projected once for both.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from inf_former_jax.memory import long_term, segments
from inf_former_jax.memory import state as memories
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.block import at_least_float32, recomputed
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.decoder import Decoder, check_call
from inf_former_jax.models.dropout import RowKeys
from inf_former_jax.models.output import Noise, Output, aux_sums
from inf_former_jax.require import require


def check(cfg: ModelConfig) -> None:
    """Refuse models whose segments depend on each other by more than detached memory.

    Raises:
        ValueError: the memory is differentiated, or it is a compressed one.
    """
    found = f"{cfg.memory_gradient} with parallel segments"
    require(cfg.memory_gradient == 0, "memory_gradient", found, "0 there")
    accepted = "sequential for a model with a compressed memory"
    require(cfg.compressed is None, "schedule", "parallel", accepted)


def decode(
    decoder: Decoder,
    tokens: Int[AnyArray, "B W T"],
    memory: Memory,
    resets: Bool[AnyArray, "B W"],
    *,
    operators: long_term.Operators | None,
    noise: Noise | None = None,
    where: Bool[AnyArray, "B W T"] | None = None,
    kl_where: Bool[AnyArray, "B W T"] | None = None,
    types: Int[AnyArray, "B W T"] | None = None,
    runs: Bool[AnyArray, " W"] | None = None,
    empty: bool = False,
) -> Output:
    """What W calls of the decoder give, one after the other; arguments as of the call, or:

    Args:
        tokens: whole segments, T = cfg.segment_len.
        resets: rows that are reset before each segment.
        operators: `operators(cfg)`, None without a long-term memory.
        noise: `Decoder.noise` of each segment, leaves [W, …]; None drops and draws nothing.
        runs: False at segments that are not run, being padding in every row. All that the memory
            takes of them are their resets; their logits mean nothing.
        empty: the long-term memory is emptied before every segment.

    Returns:
        Logits [B, W, T, V], the memory after all segments, and `aux` summed over them; no `info`.

    Raises:
        ValueError: as `check`, tokens that are no whole segments, or a memory that does not fit.
    """
    cfg, (batch, count, length) = decoder.cfg, np.shape(tokens)
    check(cfg)
    check_call(cfg, tokens[:, 0], memory)
    require(length == cfg.segment_len, "tokens", np.shape(tokens), f"T = {cfg.segment_len}")
    memory = jax.lax.stop_gradient(memory)
    reads = None if where is None else jnp.asarray(where).any(axis=2)
    plan = segments.course(cfg, memory, resets, length, reads=reads, runs=runs, empty=empty)
    noise = noise or Noise(None, (None,) * cfg.num_layers)
    rows = noise.rows and RowKeys(_flat(noise.rows.keys.swapaxes(0, 1)))
    x = decoder.inputs(_flat(tokens), _flat(types), rows)
    run, layers, info = recomputed(cfg, _block), [], []
    of_layers = decoder.block, memory.layers, decoder.distances(), noise.locations
    for block, layer, distances, keys in zip(*of_layers, strict=True):
        given = distances, decoder.biases(), operators, rows, where, keys
        x, layer, of_layer = run(block, x, layer, plan, *given)
        layers.append(layer)
        info.append(of_layer)
    holds = None if cfg.long_term is None else _flat(plan.writes + plan.due > 0)
    aux = aux_sums(info, holds, _flat(where if kl_where is None else kl_where))
    logits = decoder.outputs(x, rows).reshape(batch, count, length, -1)
    return Output(logits, Memory(plan.after, tuple(layers)), aux, ())


def _block(block, x, memory, plan, distances, biases, operators, rows, where, keys):
    """All segments [B·W, T, E] through one layer: (x, the layer's memory after them, info)."""
    cfg, (_, length, dim) = block.cfg, x.shape
    seen = _keys_values(block, x, memory, plan)
    attended, q = block.local(x, seen, _flat(plan.seen), distances, biases, rows)
    context, info = None, {}
    if carried := memories.fifo_len(cfg):
        inputs = jax.lax.stop_gradient(x).reshape(*plan.seen.shape, length, dim)
        past = segments.history(memory.fifo, inputs, plan)
        memory = memory._replace(fifo=segments.last_fifo(past, plan, length, carried))
    if cfg.long_term is not None:
        q, pending = at_least_float32(q), segments.slices(past, plan, length, 0, length)
        each, after = block.long_term.write_all(
            q.reshape(*plan.seen.shape, *q.shape[1:]), memory.long_term, pending, plan,
            operators=operators, where=where, keys=keys,
        )  # fmt: skip
        context, _, info = block.long_term(q, each, where=_flat(where))
        memory = memory._replace(long_term=after)
    return block.rest(x, attended, context, rows), memory, info


def _keys_values(block, x, memory, plan):
    """Keys and values [H, B·W, S + T, K] that segments see: of their windows, and their own."""
    own, later = block.seen_twice(x)
    if not (size := block.cfg.mem_len):
        return own
    # What is remembered is float32 whatever x is.
    first = block.keys_values(memory.fifo[:, -size:].astype(x.dtype))
    length = x.shape[1]

    def of_head(own, later, first):
        rows = segments.history(first, later.reshape(*plan.seen.shape, *later.shape[1:]), plan)
        window = _flat(segments.slices(rows, plan, length, 0, size))
        return jnp.concatenate([window, own], axis=1)

    return jax.tree.map(jax.vmap(of_head), own, later, first)


def _flat(leaf):
    """[B, W, …] as one batch [B·W, …]."""
    return None if leaf is None else leaf.reshape(-1, *leaf.shape[2:])
