"""Evaluations: a scan over the segments of a batch, without dropout, without a gradient."""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import parallel
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.require import require
from inf_former_jax.training.forward import (
    PADDING,
    at_once,
    distances,
    forward,
    forward_all,
    in_time,
    segment_kinds,
    start_of_segment,
    zero_sums,
)
from inf_former_jax.training.gradient import scan_groups

# Folded into the key of an evaluation, above any step number, which training folds in.
_EVALUATION = 2**31 - 1


def make_eval_step(
    cfg: ModelConfig,
    empty_memory: bool = False,
    schedule: Literal["sequential", "parallel"] = "sequential",
):
    """The jitted `(params, memory, batch, operators, key) -> (sums, memory)`, without dropout.

    Args:
        empty_memory: clear the long-term or compressed memory before every segment (the control).
        schedule: see `Objective`; nothing is differentiated here.

    Raises:
        ValueError: an unknown schedule, or a parallel one with a compressed memory.
    """
    require(schedule in ("sequential", "parallel"), "schedule", schedule, "sequential or parallel")
    if schedule == "parallel":
        return _parallel_eval_step(dataclasses.replace(cfg, memory_gradient=0), empty_memory)

    def eval_step(params, memory, batch: Batch, ops, key):
        key = jax.random.fold_in(key, _EVALUATION)
        run = partial(
            forward, cfg, params, ops=ops, train=False, known=distances(cfg, params, batch)
        )

        def body(carry, now):
            total, memory = carry
            segment, number, kind = now
            memory = start_of_segment(cfg, memory, segment.resets, empty_memory)
            sums, memory = jax.lax.switch(
                kind,
                (
                    lambda memory, *_: (zero_sums(), memory),
                    lambda *given: (zero_sums(), run(*given)[1]),
                    lambda *given: run(*given),
                ),
                memory, segment, jax.random.fold_in(key, number),
            )  # fmt: skip
            return (jax.tree.map(jnp.add, total, sums), memory), None

        segments = in_time(batch)
        xs = (segments, jnp.arange(segments.tokens.shape[0]), segment_kinds(segments))
        (sums, memory), _ = jax.lax.scan(body, (zero_sums(), memory), xs)
        return sums, memory

    return jax.jit(eval_step)


def _parallel_eval_step(cfg, empty_memory):
    parallel.check(cfg)

    def eval_step(params, memory, batch: Batch, ops, key):
        key = jax.random.fold_in(key, _EVALUATION)

        def of_group(carry, group):
            total, memory = carry
            given = *group, key, ops, False, empty_memory
            sums, memory = forward_all(cfg, params, memory, *given)
            return (jax.tree.map(jnp.add, total, sums), memory), None

        segments = in_time(batch)
        xs = (segments, jnp.arange(segments.tokens.shape[0]), segment_kinds(segments))
        return scan_groups(of_group, (zero_sums(), memory), xs, at_once(batch))

    return jax.jit(eval_step)


class TokenFigures(NamedTuple):
    """What a model made of every token, whatever its weight."""

    nats: Float[Array, "B W T"]  # cross-entropy
    right: Bool[Array, "B W T"]  # the target was the likeliest token


def make_token_step(cfg: ModelConfig, empty_memory: bool = False):
    """The jitted `(params, memory, batch, operators, key) -> (TokenFigures, memory)`.

    For figures by document or by position, which sums do not tell. Arguments as `make_eval_step`.
    """
    decoder = Decoder(cfg)

    def token_step(params, memory: Memory, batch: Batch, ops, key):
        key, known = jax.random.fold_in(key, _EVALUATION), distances(cfg, params, batch)

        def read(memory, segment, number):
            out = decoder.apply(
                {"params": params}, segment.tokens, memory, operators=ops, where=segment.valid,
                types=segment.types, rngs={"locations": jax.random.fold_in(key, number)},
                distances=known,
            )  # fmt: skip
            return out.memory, _figures(out.logits, segment.targets)

        def nothing(memory, segment, _):
            nats = jnp.zeros(segment.targets.shape)
            return memory, TokenFigures(nats, jnp.zeros(segment.targets.shape, bool))

        def body(memory, now):
            segment, number, kind = now
            memory = start_of_segment(cfg, memory, segment.resets, empty_memory)
            return jax.lax.cond(kind > PADDING, read, nothing, memory, segment, number)

        segments = in_time(batch)
        xs = (segments, jnp.arange(segments.tokens.shape[0]), segment_kinds(segments))
        memory, figures = jax.lax.scan(body, memory, xs)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), figures), memory

    return jax.jit(token_step)


def _figures(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]):
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return TokenFigures(nats.astype(jnp.zeros(()).dtype), jnp.argmax(logits, axis=-1) == targets)
