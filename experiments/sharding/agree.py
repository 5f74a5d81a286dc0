"""Whether every preset trains the same on every mesh: losses and memory of a few updates.

    python -m experiments.sharding agree [--options]

Each preset is made tiny, with one layer and all of its operations, and trained on one pretended
device and on meshes of eight, from the same parameters and on the same batches. All is computed in
float64, so that a difference tells a wrong layout from rounding. The exit status is 1 if losses or
memory differ by more than 1e-9 of their size.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results.sharding import AGREEMENT, agree_table, apart
from experiments.run import cli, devices, folders
from experiments.sharding import layout
from experiments.sharding.tiny import LENGTH, presets
from inf_former_jax.data.batches import Batch
from inf_former_jax.fields import Checked, Count
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models.decoder import operators
from inf_former_jax.require import require
from inf_former_jax.training import sharding
from inf_former_jax.training.optim import optimizer
from inf_former_jax.training.state import TrainState, init_state
from inf_former_jax.training.step import make_train_step

#: Of a batch.
ROWS, SEGMENTS = 8, 4

#: (data, fsdp, model) devices.
MESHES = ((8, 1, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8))


@dataclasses.dataclass(frozen=True)
class AgreeConfig(Checked):
    """Which presets, and how long."""

    presets: tuple[str, ...] = ()
    """EXPERIMENT/PRESET, a row of the table each; () = every one that differs when it is tiny."""
    updates: Count = 5
    """Updates, each on a batch of its own."""
    out: str = ""
    """Folder of agree.json; "" = the table alone."""


class Course(NamedTuple):
    """What a mesh made of the updates."""

    losses: list[float]
    memory: list[np.ndarray]


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.sharding agree [--options]`."""
    cfg = cli.options("python -m experiments.sharding agree", __doc__, AgreeConfig(), argv)
    known = presets(cfg.updates)
    trained = {name: label for label, (_, others) in known.items() for name in (label, *others)}
    with cli.refusals():
        for name in cfg.presets:
            require(name in trained, "presets", name, ", ".join(trained))
        path = folders.make(cfg.out) / "agree.json" if cfg.out else None
    jax.config.update("jax_platforms", "cpu")
    devices.offer(8)
    rows = []
    with jax.enable_x64(True):
        for name in dict.fromkeys(trained[one] for one in cfg.presets or trained):
            config, others = known[name]
            rows.append({"preset": name, "others": others, "meshes": dict(on_meshes(config, cfg))})
            most = np.max([apart(found) for found in rows[-1]["meshes"].values()])
            print(f"{name}: {most:.1e}", flush=True)
    origin = folders.provenance("sharding", "agree", ["agree", *argv])
    result = {**origin, "settings": folders.to_json(cfg), "rows": rows}
    print(agree_table([result]))
    if path is not None:
        with cli.refusals():
            folders.write_json(path, result)
            print(path)
    if not all(apart(found) <= AGREEMENT for row in rows for found in row["meshes"].values()):
        print("not as on one device", file=sys.stderr)
        raise SystemExit(1)


def on_meshes(config: Any, cfg: AgreeConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(a mesh, how far it is from one device) of every mesh."""
    begun = first_state(config)
    expected, _ = course(config, begun, (1, 1, 1), cfg.updates)
    for shape in MESHES:
        found, whole = course(config, begun, shape, cfg.updates)
        losses = np.abs(np.subtract(found.losses, expected.losses)) / np.abs(expected.losses)
        pairs = zip(found.memory, expected.memory, strict=True)
        memory = [_apart(ours, theirs) for ours, theirs in pairs]
        name = "×".join(map(str, shape))
        yield name, {"loss": float(losses.max()), "memory": float(np.max(memory)), "whole": whole}


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of a difference, as a part of the norm; of what is nothing, the norm itself."""
    size = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(ours - theirs)) / (size or 1.0)


def first_state(config: Any) -> TrainState:
    """Parameters as a run begins with them, in float64, and an empty memory."""
    tx, mesh = optimizer(config.optim), sharding.make_mesh(1, 1)
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), init_state(config.model, tx, ROWS, 0, mesh).params
    )
    memory = init_memory(config.model, ROWS, jnp.float64)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), memory, jax.random.key(7))


def batch(update: int, vocab: int) -> Batch:
    """Random tokens; loss in two segments; documents that begin in the middle, and padding."""
    rng = np.random.default_rng(update)
    shape = ROWS, SEGMENTS, LENGTH
    weights = rng.random(shape) * (rng.random(shape) < 0.7)
    weights[:, [0, 2]] = 0
    resets = np.zeros(shape[:2], bool)
    resets[[1, 4], 2] = resets[5, 3] = True
    valid = np.ones(shape, bool)
    valid[:3, 3, 5:] = valid[3, 3] = False
    tokens, targets = rng.integers(0, vocab, (2, *shape)).astype(np.int32)
    return Batch(tokens, targets, weights * valid, resets, valid)


def course(
    config: Any, begun: TrainState, shape: tuple[int, int, int], updates: int
) -> tuple[Course, list[str]]:
    """(losses and last memory of the updates, leaves that the mesh does not divide)."""
    data, fsdp, model = shape
    mesh = sharding.make_mesh(model, data * fsdp * model, fsdp)
    placed = sharding.shardings(begun, mesh)
    ops = sharding.everywhere(operators(config.model), mesh)
    tx, trained = optimizer(config.optim), config.optim.trained
    step = make_train_step(config.model, tx, config.objective, placed, trained)
    state = jax.device_put(jax.tree.map(jnp.copy, begun), placed)
    compiled, losses = None, []
    for update in range(updates):
        host = batch(update, config.model.vocab_size)
        rows = sharding.place_batch(functools.partial(_rows, host), ROWS, mesh)
        if compiled is None:
            compiled = step.lower(state, rows, ops).compile(layout.UNOPTIMISED)
        state, metrics = compiled(state, rows, ops)
        losses.append(float(metrics["loss"]))
    memory = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.memory)]
    return Course(losses, memory), sharding.replicated(begun, mesh)


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    return jax.tree.map(lambda leaf: leaf[rows], batch)
