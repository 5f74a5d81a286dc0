"""Evaluations of a batch: its sums, or figures of every token; without dropout or a gradient."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import all_segments
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.forward import (
    PADDING,
    ForwardPass,
    Segments,
    by_segment,
    swap_leading,
)
from inf_former_jax.training.objective import Objective, TokenFigures, token_figures
from inf_former_jax.training.schedules import batch_sums, schedule_of

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
        schedule: as of `Objective`; nothing is differentiated here.

    Raises:
        ValueError: an unknown schedule, or a parallel one with a compressed memory.
    """
    objective = Objective(schedule=schedule)
    cfg = dataclasses.replace(cfg, memory_gradient=0)
    if schedule == "parallel":
        all_segments.check(cfg)

    def eval_step(params, memory: Memory, batch: Batch, operators, key):
        key = jax.random.fold_in(key, _EVALUATION)
        run = ForwardPass(cfg, operators, key, empty_memory=empty_memory)
        schedule = schedule_of(objective, run, params, batch)
        total = batch_sums(schedule, params, memory, by_segment(batch))
        return total.sums, total.memory

    return jax.jit(eval_step)


def make_token_step(cfg: ModelConfig, empty_memory: bool = False):
    """The jitted `(params, memory, batch, operators, key) -> (TokenFigures, memory)`.

    It serves figures by document or by position, which sums do not tell. Arguments as of
    `make_eval_step`; the figures are [B, W, T].
    """

    def token_step(params, memory: Memory, batch: Batch, operators, key):
        key = jax.random.fold_in(key, _EVALUATION)
        run = ForwardPass(cfg, operators, key, empty_memory=empty_memory)
        run = run.with_distances(params, batch)

        def read(memory: Memory, segment: Segments):
            rngs = {"locations": jax.random.fold_in(key, segment.number)}
            output = run.output(params, memory, segment, rngs)
            return output.memory, token_figures(output.logits, segment.batch.targets)

        def padding(memory: Memory, segment: Segments):
            nats = jnp.zeros(segment.batch.targets.shape)
            return memory, TokenFigures(nats, jnp.zeros(nats.shape, bool))

        def body(memory: Memory, segment: Segments):
            memory = run.start(memory, segment.batch.resets)
            return jax.lax.cond(segment.kind > PADDING, read, padding, memory, segment)

        memory, figures = jax.lax.scan(body, memory, by_segment(batch))
        return swap_leading(figures), memory

    return jax.jit(token_step)
