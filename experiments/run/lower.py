"""Outputs of the layers below a memory: computed once, and kept on disk for other runs.

Beside a frozen model the memory may be in the upper layers only. Nothing of it reaches the layers
below, and their outputs depend on the texts alone. So these are the same after every update, under
every control, and for every memory that is trained or tried beside the model.

A batch's file is named by a hash of the model, and of all batches up to this one, since a window
reaches back into them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.run import folders
from experiments.run.batches import fresh_memory
from inf_former_jax import files
from inf_former_jax.data.batches import Batch
from inf_former_jax.models.config import compute_dtype
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.require import require
from inf_former_jax.training.evaluation import make_lower_step

#: Fields of a model that say nothing about the layers below the memory, without any.
_ABOVE = {"long_term_layers": (), "cell_distance": 0, "cells_by_age": False, "memory_gradient": 0}
#: And what an evaluation does not do. A training that does is refused.
_ABOVE |= {"dropout": 0.0, "attention_dropout": 0.0}
#: Parameters before the first layer.
_BEFORE = ("embed", "positions")


def check(model: ModelConfig, trained: str, name: str) -> None:
    """Refuse to keep what is not the same in every run.

    Args:
        trained: `OptimConfig.trained`; "memory" for a model that is not trained at all.
        name: of the option.

    Raises:
        ValueError: layers that learn or drop, no layer below the memory, a table of positions that
            upper layers share, or several hosts.
    """
    found = "a model whose lower layers are trained"
    require(trained == "memory", name, found, "optim.trained memory")
    accepted = "a model with a memory in upper layers alone (long_term_layers)"
    require(model.lower_layers > 0, name, "no layer below the memory", accepted)
    dropped = max(model.dropout, model.attention_dropout)
    require(dropped == 0, name, f"a dropout of {dropped}", "0")
    accepted = "learned or rotary positions"
    require(model.position != "relative", name, "relative positions", accepted)
    require(jax.process_count() == 1, name, "several hosts", "one")


class LowerLayers:
    """The lower layers of one model, for batches that follow each other.

    Args:
        params: of the model, or of more than these layers.
        folder: where outputs are kept and found.

    Attributes:
        computed, found: how many batches were run, and how many were on disk.
    """

    def __init__(self, model: ModelConfig, params: Any, mesh: Mesh, folder: str | Path):
        self._model, self._mesh, self._folder = model, mesh, Path(folder)
        names = {*_BEFORE, *(f"block_{number}" for number in range(model.lower_layers))}
        own = {name: leaf for name, leaf in params.items() if name in names}
        # A training step may take the given arrays for what it makes.
        self._params = jax.tree.map(jnp.array, own)
        self._run = make_lower_step(model, mesh)
        self._dtype = np.dtype(compute_dtype(model) or own["embed"]["embedding"].dtype)
        self._placed = NamedSharding(mesh, PartitionSpec("data"))
        settings = folders.to_json(dataclasses.replace(model, long_term=None, **_ABOVE))
        leaves = jax.tree.leaves_with_path(jax.device_get(self._params))
        digest = files.digest_of({jax.tree_util.keystr(path): leaf for path, leaf in leaves})
        self._begin = _hash(json.dumps([settings, model.lower_layers, digest], sort_keys=True))
        self._folder.mkdir(parents=True, exist_ok=True)
        self.computed = self.found = 0

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
            read = batch.tokens, batch.resets, batch.valid, batch.types
            key = _hash(key, *(np.asarray(leaf) for leaf in read if leaf is not None))
            if number < skipped:
                behind.append(batch)
                continue
            file = self._folder / f"{key}.npy"
            if (kept := self._read(file, batch.tokens.shape)) is not None:
                behind.append(batch)
                self.found += 1
                yield batch._replace(lower=kept)
                continue
            for one in behind:
                _, memory = self._run(self._params, memory, one)
            behind.clear()
            lower, memory = self._run(self._params, memory, batch)
            lower = jax.device_put(lower, self._placed)  # as `to_come` and `_read` have it
            self._write(file, lower)
            self.computed += 1
            yield batch._replace(lower=lower)

    def to_come(self, batch: Batch) -> Batch:
        """The batch with the shape of what will be added: a step can be compiled for it."""
        shape = (*batch.tokens.shape, self._model.d_model)
        return batch._replace(lower=jax.ShapeDtypeStruct(shape, self._dtype, sharding=self._placed))

    def _read(self, file: Path, shape: tuple[int, ...]) -> jax.Array | None:
        """What a file holds; None if it is not there, or damaged."""
        try:
            raw = np.load(file)
        except (OSError, ValueError, EOFError):
            return None
        if raw.shape != (*shape, self._model.d_model) or raw.dtype.itemsize != self._dtype.itemsize:
            return None
        return jax.device_put(raw.view(self._dtype), self._placed)

    def _write(self, file: Path, lower: jax.Array) -> None:
        """Write bits: NumPy's files know no bfloat16."""
        host = np.asarray(lower)
        with files.writing(file) as out:
            np.save(out, host.view(f"uint{8 * host.dtype.itemsize}"))


def _hash(*parts: str | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str) else f"{part.dtype} {part.shape}"
        digest.update(f"{text}\n".encode())
        if not isinstance(part, str):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:32]
