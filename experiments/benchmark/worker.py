"""A training step in a process of its own, by the code of whatever checkout PYTHONPATH names.

    PYTHONPATH=CHECKOUT python -P worker.py PRESET SCHEDULE QUICK

After the first update it prints "ready TOKENS DEVICES", or "error WHY" if there is none. Each line
that it then reads is a number of updates; their mean seconds are printed. It is run by itself, not
imported by other code, and needs only what all commits since ff6bd0c have.
"""

import importlib
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any


def first_of(*names: str) -> Any:
    """The first of these modules that there is, by newer names and older ones.

    Only files on the path count: an editable install would offer its own modules to any checkout.
    """
    for name in names[:-1]:
        if any(Path(path, *name.split(".")).with_suffix(".py").is_file() for path in sys.path):
            return importlib.import_module(name)
    return importlib.import_module(names[-1])


def main(name: str, schedule: str, quick: str, asked: Iterable[str] = sys.stdin) -> None:
    """Train a preset for as many updates as each line of `asked` says."""
    import jax
    import numpy as np

    steps = first_of("experiments.benchmark.steps", "experiments.benchmark_steps")
    optim, sharding, state, step = (
        importlib.import_module(f"inf_former_jax.training.{module}")
        for module in ("optim", "sharding", "state", "step")
    )
    operators = first_of("inf_former_jax.models.decoder", "inf_former_jax.models").operators
    devices = first_of("experiments.run.devices", "experiments")
    if hasattr(devices, "offer"):
        devices.offer()  # as a run does, from the commit on that has it
    preset = steps.config(name, bool(int(quick)))
    rows, model = preset.batch_size, preset.model
    mesh = steps.mesh_of(rows) if hasattr(steps, "mesh_of") else sharding.make_mesh()
    make, tx = steps.batches(preset, rows), optim.optimizer(preset.optim)
    host, batch = make(np.arange(rows)), sharding.place_batch(make, rows, mesh)
    objective = replace(preset.objective, schedule=schedule)
    carried = state.init_state(model, tx, rows, 0, mesh)
    ops = sharding.everywhere(operators(model), mesh)
    update = step.make_train_step(model, tx, objective, sharding.shardings(carried, mesh))
    carried, metrics = jax.block_until_ready(update(carried, batch, ops))
    tokens = host.tokens.size if host.valid is None else int(host.valid.sum())
    print("ready", tokens, mesh.size, flush=True)
    for line in asked:
        begin = time.perf_counter()
        for _ in range(int(line)):
            carried, metrics = update(carried, batch, ops)
        jax.block_until_ready((carried, metrics))
        print((time.perf_counter() - begin) / int(line), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except Exception as error:  # whatever another commit's code says, in one line
        print("error", f"{type(error).__name__}: {error}".splitlines()[0], flush=True)
