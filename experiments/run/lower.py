"""Outputs of the layers below a memory: computed once, and kept on disk for other runs.

Beside a frozen model the memory may be in the upper layers only. Nothing of it reaches the layers
below, and their outputs depend on the texts alone. So these are the same after every update, under
every control, and for every memory that is trained or tried beside the model.

A batch's file is named by a hash of the model, and of all batches up to this one, since a window
reaches back into them.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.run import folders
from experiments.run.batches import fresh_memory
from experiments.run.config import RunConfig
from inf_former_jax import files
from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import init
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.require import require
from inf_former_jax.training import sharding
from inf_former_jax.training.evaluation import make_lower_step

#: Fields of a model that say nothing about the layers below the memory, without any.
_ABOVE = {"long_term_layers": (), "cell_distance": 0, "cells_by_age": False, "memory_gradient": 0}
#: And what an evaluation does not do. A training that does is refused.
_ABOVE |= {"dropout": 0.0, "attention_dropout": 0.0}
#: Parameters before the first layer.
_BEFORE = ("embed", "positions")
#: Fields of a batch that these layers read.
_READ = ("tokens", "resets", "valid", "types")


def check(model: ModelConfig, trained: str = "memory") -> None:
    """Refuse to keep what is not the same in every run.

    Args:
        trained: `OptimConfig.trained`; "memory" for a model that is not trained at all.

    Raises:
        ValueError: layers that learn or drop, no layer below the memory, a table of positions that
            upper layers share, or several hosts.
    """

    def refuse_unless(fits: bool, found: str, accepted: str) -> None:
        require(fits, "keep_lower", found, accepted)

    found = "a model whose lower layers are trained"
    refuse_unless(trained == "memory", found, "optim.trained memory")
    accepted = "a model with a memory in upper layers alone (long_term_layers)"
    refuse_unless(model.lower_layers > 0, "no layer below the memory", accepted)
    dropped = max(model.dropout, model.attention_dropout)
    refuse_unless(dropped == 0, f"a dropout of {dropped}", "0")
    accepted = "learned or rotary positions"
    refuse_unless(model.position != "relative", "relative positions", accepted)
    refuse_unless(jax.process_count() == 1, "several hosts", "one")


class LowerOnce:
    """The lower layers that all evaluations of a task share, if `cfg.keep_lower` says where.

    They are those of the first parameters that are evaluated: the model is frozen.
    """

    def __init__(self, cfg: RunConfig, mesh: Mesh):
        self._cfg, self._mesh = cfg, mesh
        self._below: LowerLayers | None = None

    def added(self, params: Any, batches: Iterable[Batch], rows: int) -> Iterable[Batch]:
        """`LowerLayers.added`, or the batches as they are where none are kept."""
        if not self._cfg.keep_lower:
            return batches
        if self._below is None:
            self._below = LowerLayers(self._cfg.model, params, self._mesh, self._cfg.keep_lower)
        return self._below.added(batches, rows)


class LowerLayers:
    """The lower layers of one model, for batches that follow each other.

    Args:
        params: of the model, or of more than these layers.
        folder: where outputs are kept and found.
    """

    def __init__(self, model: ModelConfig, params: Any, mesh: Mesh, folder: str | Path):
        self._model, self._mesh, self._folder = model, mesh, Path(folder)
        names = {*_BEFORE, *(f"block_{number}" for number in range(model.lower_layers))}
        own = {name: leaf for name, leaf in params.items() if name in names}
        # A training step may take the given arrays for what it makes.
        self._params = jax.tree.map(jnp.array, own)
        self._run = make_lower_step(model, mesh)
        self._placed = sharding.by_row(mesh)
        settings = folders.to_json(dataclasses.replace(model, long_term=None, **_ABOVE))
        named = jax.tree.leaves_with_path(jax.device_get(self._params))
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in named}
        said = np.array(json.dumps([settings, model.lower_layers], sort_keys=True))
        self._begin = files.digest_of(leaves | {"settings": said})
        self._folder.mkdir(parents=True, exist_ok=True)

    def added(self, batches: Iterable[Batch], rows: int, skipped: int = 0) -> Iterator[Batch]:
        """The batches with `lower`, but the first `skipped`.

        Args:
            batches: all from the first one on, each after the other.
            rows: B, of a batch.

        Raises:
            Unwritable, OSError: as `files.writing`, if a file cannot be written.
        """
        memory, key = fresh_memory(self._model, rows, self._mesh), self._begin
        behind: list[Batch] = []  # that the memory has not read
        for number, batch in enumerate(batches):
            read = {name: leaf for name, leaf in batch._asdict().items() if name in _READ}
            read = {name: np.asarray(leaf) for name, leaf in read.items() if leaf is not None}
            key = files.digest_of(read | {"before": np.array(key)})
            if number < skipped:
                behind.append(batch)
                continue
            file = self._folder / f"{key}.npy"
            if (kept := self._read(file, batch)) is not None:
                behind.append(batch)
                yield batch._replace(lower=kept)
                continue
            for one in behind:
                _, memory = self._run(self._params, memory, one)
            behind.clear()
            lower, memory = self._run(self._params, memory, batch)
            lower = jax.device_put(lower, self._placed)  # as `to_come` and `_read` have it
            self._write(file, lower)
            yield batch._replace(lower=lower)

    def to_come(self, batch: Batch) -> Batch:
        """The batch with the shape of what will be added: a step can be compiled for it."""
        memory = jax.eval_shape(partial(init, self._model, batch.tokens.shape[0]))
        lower, _ = jax.eval_shape(self._run, self._params, memory, batch)
        placed = jax.ShapeDtypeStruct(lower.shape, lower.dtype, sharding=self._placed)
        return batch._replace(lower=placed)

    def _read(self, file: Path, batch: Batch) -> jax.Array | None:
        """What a file holds; None if it is not there, or damaged."""
        try:
            raw = np.load(file)
        except (OSError, ValueError, EOFError):
            return None
        wanted: Any = self.to_come(batch).lower
        if raw.shape != wanted.shape or raw.dtype.itemsize != wanted.dtype.itemsize:
            return None
        return jax.device_put(raw.view(wanted.dtype), self._placed)

    def _write(self, file: Path, lower: jax.Array) -> None:
        """Write bits: NumPy's files know no bfloat16."""
        host = np.asarray(lower)
        with files.writing(file) as out:
            np.save(out, host.view(f"uint{8 * host.dtype.itemsize}"))
