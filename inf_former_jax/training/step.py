"""One update of the parameters: objective → gradient by a schedule → optimiser.

What is minimised is in `training/objective.py`, how its gradient is taken in
`training/schedules.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool

from inf_former_jax.data.batches import Batch
from inf_former_jax.models import all_segments
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.data_parallel import mesh_of, on_each_device
from inf_former_jax.training.forward import ForwardPass, by_segment, kinds
from inf_former_jax.training.objective import Objective, objective_share, objective_weights
from inf_former_jax.training.optim import labels
from inf_former_jax.training.schedules import batch_gradient, schedule_of
from inf_former_jax.training.sharding import along_fsdp, gathered
from inf_former_jax.training.state import TrainState


def make_train_step(
    cfg: ModelConfig,
    tx: optax.GradientTransformation,
    objective: Objective,
    placed: Any = None,
    trained: Literal["all", "memory"] = "all",
    skip_nonfinite: bool = False,
):
    """The jitted `(state, batch, operators) -> (state, metrics)`; the old state is donated.

    Minimises the weighted mean cross-entropy plus, each with its weight in `objective`, the mean
    over densities of the KL (SPEC §2) and the mean over queries of the reconstruction loss
    (SPEC §5b). Both are summed over layers and taken in segments with loss. Metrics are SUMS, the
    gradient's norm before clipping, the norm of long-term memories if there are any, and whether
    the new memory, parameters and optimiser state are finite.

    Args:
        placed: shardings of the state, so that it stays where it is; None on one device.
        trained: of which parameters a gradient is taken (`OptimConfig.trained`, as `tx` has it);
            that of others is zero, and nothing is computed for it.
        skip_nonfinite: leave out an update in which something is not finite (`left_out`).

    Raises:
        ValueError: a parallel schedule of a model that has none (`models.all_segments.check`).
    """
    if objective.schedule == "parallel":
        all_segments.check(cfg)

    shares: Any = PartitionSpec()  # of each gradient, as its parameter is split along fsdp
    if placed is not None:
        leaves, _ = trained_leaves(placed.params, trained)
        shares = [along_fsdp(leaf.spec) for leaf in leaves]

    def gradient(shared, by_row, first_row):
        (params, operators, key, weights, kind), (memory, batch) = shared, by_row
        run = ForwardPass(cfg, operators, key, True, objective.empty_memory, first_row=first_row)
        schedule = schedule_of(objective, run, params, batch)
        share, segments = partial(objective_share, weights), by_segment(batch, kind)
        leaves, whole = trained_leaves(params, trained)
        schedule = schedule.of_parameters(whole)
        grads, sums, memory = batch_gradient(schedule, share, leaves, memory, segments)
        return (grads, sums), memory

    def train_step(state: TrainState, batch: Batch, operators):
        params, memory = state.params, state.memory
        key = jax.random.fold_in(state.key, state.step)
        weights = objective_weights(cfg, objective, memory, batch)
        together = params if placed is None else gathered(params, placed.params)
        shared = together, operators, key, weights, kinds(batch)
        run = on_each_device(gradient, mesh_of(placed), (shares, PartitionSpec()))
        (leaves, sums), memory = run(shared, (memory, batch))
        grads = trained_leaves(jax.tree.map(jnp.zeros_like, params), trained)[1](leaves)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        own, whole = trained_leaves(params, trained)
        moves, _ = trained_leaves(updates, trained)
        params = whole(optax.apply_updates(own, moves))  # the others stay to the bit
        metrics = sums | {
            "grad_norm": optax.tree.norm(grads),
            "memory_finite": all_finite(memory),
            "parameters_finite": all_finite(params),
            "optimizer_finite": all_finite(opt_state),
        }
        stored = [layer.long_term.coeffs for layer in memory.layers if layer.long_term is not None]
        if stored:
            metrics["memory_norm"] = optax.tree.norm(stored)
        after = TrainState(state.step + 1, params, opt_state, memory, state.key)
        return left_out(state, after, metrics) if skip_nonfinite else (after, metrics)

    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))


def left_out(
    before: TrainState, after: TrainState, metrics: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The update, or none where something of it is not finite: (state, metrics).

    Without it parameters, optimiser and memory are those of before, to the bit. The step is counted
    nevertheless, so that the data goes on. Its metrics are 0, but for "skipped", which says so.
    """
    checks = {name: name.endswith("_finite") for name in metrics}
    whole = jnp.stack(
        [value if checks[name] else jnp.isfinite(value) for name, value in metrics.items()]
    ).all()

    def chosen(new, old):
        # What is not trained is the same array, of which no copy is wanted.
        return new if new is old else jnp.where(whole, new, old)

    kept = jax.tree.map(chosen, after._replace(step=0, key=0), before._replace(step=0, key=0))
    metrics = {
        name: jnp.array(True) if checks[name] else jnp.where(whole, value, 0)
        for name, value in metrics.items()
    }
    return kept._replace(step=after.step, key=after.key), metrics | {"skipped": ~whole}


def trained_leaves(
    params: Any, trained: Literal["all", "memory"]
) -> tuple[list[Any], Callable[[Any], Any]]:
    """(the leaves that are trained, function from such leaves to params with these)."""
    leaves, structure = jax.tree.flatten(params)
    names = jax.tree.leaves(labels(params))
    chosen = [number for number, name in enumerate(names) if trained in ("all", name)]

    def whole(found):
        changed = dict(zip(chosen, found, strict=True))
        return jax.tree.unflatten(structure, [changed.get(j, one) for j, one in enumerate(leaves)])

    return [leaves[number] for number in chosen], whole


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number of a tree is finite.

    Leaves of one shape are looked through together: each reduction costs XLA three kernels, and a
    model has few shapes but many leaves.
    """
    by_shape: dict[tuple[int, ...], Array] = {}
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite = jnp.isfinite(leaf)
            by_shape[leaf.shape] = by_shape.get(leaf.shape, True) & finite
    return jnp.stack([jnp.array(True), *(finite.all() for finite in by_shape.values())]).all()
