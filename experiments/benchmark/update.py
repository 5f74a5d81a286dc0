"""One update of the training step, ready to be timed."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark.timing import operations
from inf_former_jax.data.batches import Batch
from inf_former_jax.models.decoder import ModelConfig, operators
from inf_former_jax.training import optim, sharding
from inf_former_jax.training.forward import by_segment
from inf_former_jax.training.schedules import (
    all_or_none,
    branch_taken,
    first_middle_last,
    segments_at_once,
)
from inf_former_jax.training.state import init_state
from inf_former_jax.training.step import Objective, make_train_step

#: Sizes that any model can have, so that an update compiles soon.
TINY = {"num_layers": 1, "num_heads": 2, "head_dim": 8, "d_model": 16, "d_inner": 16,
        "segment_len": 16, "mem_len": 16, "vocab_size": 32}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Update:
    """A compiled training step, and what is known of it without running it."""

    run: Callable[[], Any]
    """One update, which goes on from the last one; returns its metrics."""
    tokens: int
    """Of a batch, padding included."""
    trace: float
    """Seconds to trace and lower."""
    compile: float
    """Seconds to compile what was lowered."""
    temporaries: int
    """Bytes."""
    program: int
    """Bytes of the compiled program's HLO text."""
    operations: dict[str, int]
    """Of its matrix products, by kind (`benchmark_timing.operations`)."""
    moved: int
    """Bytes of state, batch and operators read and of state and metrics written, each once."""


def prepare(
    model: ModelConfig,
    tx: Any,
    objective: Objective,
    make: Callable[[np.ndarray], Batch],
    rows: int,
) -> Update:
    """A training step of a fresh state, compiled; its batch is the same in every update.

    Args:
        make: row numbers → their batch.
        rows: of the batch, on each device.
    """
    mesh = sharding.make_mesh()
    rows = rows * mesh.shape["data"]
    host, batch = make(np.arange(rows)), sharding.place_batch(make, rows, mesh)
    now = init_state(model, tx, rows, 0, mesh)
    ops = sharding.everywhere(operators(model), mesh)
    begun = time.perf_counter()
    traced = make_train_step(model, tx, objective, sharding.shardings(now, mesh)).trace(
        now, batch, ops
    )
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    compiled_at = time.perf_counter()
    size = compiled.memory_analysis()
    taken = branches_taken(host, objective.schedule, memory_gradient=model.memory_gradient)

    def run():
        nonlocal now
        now, metrics = compiled(now, batch, ops)
        return metrics

    return Update(
        run, host.tokens.size, lowered_at - begun, compiled_at - lowered_at,
        size.temp_size_in_bytes, len(compiled.as_text()),
        dict(operations(traced.jaxpr.jaxpr, taken)),
        size.argument_size_in_bytes + size.output_size_in_bytes,
    )  # fmt: skip


def branches_taken(
    batch: Batch, schedule: str, size: int = 0, memory_gradient: int = 0
) -> list[tuple[int, ...]]:
    """How often an update takes each branch of its schedule's choices, in the program's order.

    A group of segments has a branch for each start of its gradient, and one more for padding
    (`schedules.branch_taken`). A smaller first group has a choice of its own, before the others'.

    Args:
        size: of the parallel schedule's groups; 0 = `schedules.segments_at_once`.
    """
    kinds = by_segment(batch).kind
    if schedule == "parallel":
        size, starts_of = size or segments_at_once(batch), first_middle_last
    else:
        size, starts_of = memory_gradient + 1, all_or_none
    rest = len(kinds) % size
    found = []
    for groups in ([kinds[:rest]] if rest else [], kinds[rest:].reshape(-1, size)):
        if len(groups):
            starts = starts_of(len(groups[0]))
            taken = [int(branch_taken(group, starts)) for group in groups]
            found.append(tuple(taken.count(branch) for branch in range(len(starts) + 1)))
    return found


def update(model: ModelConfig, rows: int, number: int, weighted: slice) -> Update:
    """An update on random tokens, sequential.

    Args:
        rows: of the batch, on each device.
        number: segments of a row.
        weighted: those that have loss.
    """

    def make(rows):
        tokens = np.random.default_rng(0).integers(0, 20, (len(rows), number, model.segment_len))
        weights = np.zeros(tokens.shape, np.float32)
        weights[:, weighted] = 1
        resets = np.zeros(tokens.shape[:2], bool)
        resets[:, 0] = True
        tokens = tokens.astype(np.int32)
        return Batch(tokens, tokens, weights, resets)

    tx = optim.optimizer(optim.OptimConfig(learning_rate=1e-6))
    return prepare(model, tx, Objective(), make, rows)
