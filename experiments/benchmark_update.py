"""One update of the training step, ready to be timed."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from inf_former_jax.data.batches import Batch
from inf_former_jax.models.decoder import ModelConfig, operators
from inf_former_jax.training import optim, sharding
from inf_former_jax.training.state import init_state
from inf_former_jax.training.step import Objective, make_train_step

#: Sizes that any model can have, so that an update compiles soon.
TINY = {"num_layers": 1, "num_heads": 2, "head_dim": 8, "d_model": 16, "d_inner": 16,
        "segment_len": 16, "mem_len": 16, "vocab_size": 32}  # fmt: skip


def update(
    model: ModelConfig, rows: int, number: int, weighted: slice
) -> tuple[Callable[[], Any], int]:
    """(an update that goes on from the last one, bytes of its temporaries).

    Args:
        rows: of the batch, on each device.
        number: segments of a row.
        weighted: those that have loss.
    """
    mesh, tx = sharding.make_mesh(), optim.optimizer(optim.OptimConfig(learning_rate=1e-6))
    rows = rows * mesh.shape["data"]
    tokens = np.random.default_rng(0).integers(0, 20, (rows, number, model.segment_len))
    weights = np.zeros(tokens.shape, np.float32)
    weights[:, weighted] = 1
    resets = np.zeros((rows, number), bool)
    resets[:, 0] = True
    tokens = tokens.astype(np.int32)
    whole = Batch(tokens, tokens, weights, resets)
    batch = sharding.place_batch(lambda r: jax.tree.map(lambda leaf: leaf[r], whole), rows, mesh)
    now = init_state(model, tx, rows, 0, mesh)
    ops = sharding.everywhere(operators(model), mesh)
    placed = sharding.shardings(now, mesh)
    compiled = make_train_step(model, tx, Objective(), placed).lower(now, batch, ops).compile()

    def run():
        nonlocal now
        now, metrics = compiled(now, batch, ops)
        return metrics

    return run, compiled.memory_analysis().temp_size_in_bytes
