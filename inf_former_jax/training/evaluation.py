"""Evaluations of a batch: its sums, or figures of every token; without dropout or a gradient."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory, reset
from inf_former_jax.models import all_segments
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.require import require
from inf_former_jax.training.data_parallel import on_each_device
from inf_former_jax.training.forward import (
    PADDING,
    ForwardPass,
    Segments,
    by_segment,
    kinds,
    swap_leading,
)
from inf_former_jax.training.objective import Objective, token_figures
from inf_former_jax.training.schedules import batch_sums, schedule_of

# Folded into the key of an evaluation, above any step number, which training folds in.
_EVALUATION = 2**31 - 1


def make_eval_step(
    cfg: ModelConfig,
    empty_memory: bool = False,
    schedule: Literal["sequential", "parallel"] = "sequential",
    mesh: Mesh | None = None,
    *,
    foreign_memory: bool = False,
):
    """The jitted `(params, memory, batch, operators, key) -> (sums, memory)`, without dropout.

    Args:
        empty_memory: clear the long-term or compressed memory before every segment (the control).
        schedule: as of `Objective`; nothing is differentiated here.
        mesh: over whose data and fsdp axes the rows are split; None on one device.
        foreign_memory: predict every segment from the long-term or compressed memory of another row
            (another control). It takes twice the time.

    Raises:
        ValueError: an unknown schedule, or a parallel one with a compressed or a foreign memory; on
            call, a foreign memory where a device has one row.
    """
    objective = Objective(schedule=schedule)
    alone = not (foreign_memory and schedule == "parallel")
    require(alone, "foreign_memory", True, "False with schedule parallel")
    cfg = dataclasses.replace(cfg, memory_gradient=0)
    forward = _controlled(cfg, empty_memory, foreign_memory)
    if schedule == "parallel":
        all_segments.check(cfg)

    def sums(shared, by_row, first_row):
        (params, operators, key, kind), (memory, batch) = shared, by_row
        run = forward(operators=operators, key=key, first_row=first_row)
        schedule = schedule_of(objective, run, params, batch)
        total = batch_sums(schedule, params, memory, by_segment(batch, kind))
        return total.sums, total.memory

    return jax.jit(_as_evaluation(on_each_device(sums, mesh)))


def make_lower_step(cfg: ModelConfig, mesh: Mesh | None = None):
    """The jitted `(params, memory, batch) -> (outputs [B, W, T, E], memory)` of `Decoder.lower`."""

    def lower_of_rows(shared, by_row, first_row):
        (params, kind), (memory, batch) = shared, by_row
        lower = partial(Decoder(cfg).apply, {"params": params}, method="lower")

        def read(memory: Memory, segment: Segments):
            of = segment.batch
            return lower(of.tokens, memory, where=of.valid, types=of.types)

        return (), _each_segment(reset, read, memory, by_segment(batch, kind))

    run = on_each_device(lower_of_rows, mesh)
    return jax.jit(lambda params, memory, batch: run((params, kinds(batch)), (memory, batch))[1])


def _each_segment(
    start: Callable[[Memory, Any], Memory],
    read: Callable[[Memory, Segments], Any],
    memory: Memory,
    segments: Segments,
) -> tuple[Any, Memory]:
    """(what is read of each segment, leaves [B, W, …], and the memory after the last one).

    Args:
        start: (memory, resets) → the memory that a segment begins with.
        read: (memory, segment) → (what is read, the memory after it). Of segments that are padding
            in every row it is 0.
    """
    first = jax.tree.map(lambda leaf: leaf[0], segments)
    shapes, _ = jax.eval_shape(read, memory, first)

    def padding(memory: Memory, segment: Segments):
        return jax.tree.map(jnp.zeros_like, shapes), memory

    def body(memory: Memory, segment: Segments):
        memory = start(memory, segment.batch.resets)
        found, memory = jax.lax.cond(segment.kind > PADDING, read, padding, memory, segment)
        return memory, found

    memory, found = jax.lax.scan(body, memory, segments)
    return swap_leading(found), memory


def _controlled(cfg: ModelConfig, empty: bool, foreign: bool) -> Callable[..., ForwardPass]:
    """The forward pass under a control; ValueError for two of them."""
    require(not (empty and foreign), "foreign_memory", True, "False with empty_memory")
    return partial(ForwardPass, cfg, empty_memory=empty, foreign_memory=foreign)


def _as_evaluation(run: Callable[[Any, Any], tuple[Any, Any]]):
    """`(params, memory, batch, operators, key)` of what takes shared values and those by row."""

    def step(params, memory: Memory, batch: Batch, operators, key):
        shared = params, operators, jax.random.fold_in(key, _EVALUATION), kinds(batch)
        return run(shared, (memory, batch))

    return step


def make_token_step(
    cfg: ModelConfig,
    empty_memory: bool = False,
    mesh: Mesh | None = None,
    *,
    foreign_memory: bool = False,
):
    """The jitted `(params, memory, batch, operators, key) -> (TokenFigures, memory)`.

    It serves figures by document or by position, which sums do not tell. Arguments and errors as
    of `make_eval_step`; the figures are [B, W, T].
    """
    forward = _controlled(cfg, empty_memory, foreign_memory)

    def figures_of_tokens(shared, by_row, first_row):
        (params, operators, key, kind), (memory, batch) = shared, by_row
        run = forward(operators=operators, key=key, first_row=first_row)
        run = run.with_distances(params, batch)

        def read(memory: Memory, segment: Segments):
            rngs = {"locations": jax.random.fold_in(key, segment.number)}
            output = run.output(params, memory, segment, rngs)
            return token_figures(output.logits, segment.batch.targets), output.memory

        return (), _each_segment(run.start, read, memory, by_segment(batch, kind))

    step = _as_evaluation(on_each_device(figures_of_tokens, mesh))
    return jax.jit(lambda *arguments: step(*arguments)[1])
