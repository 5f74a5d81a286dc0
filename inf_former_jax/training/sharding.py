"""Where the arrays live: a (data, model) mesh and a table of path → PartitionSpec.

Models know no mesh. The table is applied to the whole train state, so that the optimiser's moments
follow their parameters. On one device it is the same code on a 1 × 1 mesh. A dimension that the
mesh axis does not divide is replicated, and listed by `replicated`.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inf_former_jax.require import require

P = PartitionSpec

#: Attention is split by whole heads; the first pattern found in a leaf's path decides.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(attention|read)/(query|key|value|position)$", P(None, "model", None)),
    (r"attention/(query|key|value)_bias$", P("model", None)),
    (r"(attention|read)/out$", P("model", None, None)),
    (r"bias_[uw]$", P("model", None)),
    (r"inner(_gate)?/kernel$", P(None, "model")),
    (r"inner/bias$", P("model")),
    (r"outer/kernel$", P("model", None)),
    (r"embed/embedding$", P("model", None)),
    (r"logits/kernel$", P(None, "model")),
    (r"^memory/", P("data")),
)


def make_mesh(model: int = 1, devices: int = 0) -> Mesh:
    """Devices as a mesh (data, model), `model` of them along the second axis.

    `AxisType.Auto`, since JAX's default of explicit axes breaks the relative shift.

    Args:
        devices: how many, the first ones; 0 = all.

    Raises:
        ValueError: there are not so many, or model does not divide their number.
    """
    there = jax.device_count()
    require(0 <= devices <= there, "devices", devices, f"at most the {there} that JAX has")
    count = devices or there
    fits = model >= 1 and count % model == 0
    require(fits, "mesh_model", model, f"a divisor of {count} devices")
    shape, kinds = (count // model, model), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "model"), kinds, devices=jax.devices()[:count])


def _path_name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _wanted(name: str) -> PartitionSpec:
    """The spec of the first pattern that is found in a leaf's path."""
    return next((spec for pattern, spec in RULES if re.search(pattern, name)), P())


def _divides(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> bool:
    sizes = zip(shape, spec, strict=False)
    return all(axis is None or size % mesh.shape[axis] == 0 for size, axis in sizes)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A tree of `NamedSharding` of the same structure, by the table RULES.

    Args:
        tree: arrays or shapes; a train state, or any part that keeps its path names.
    """

    def leaf_sharding(path, leaf):
        spec = _wanted(_path_name(path))
        return NamedSharding(mesh, spec if _divides(spec, leaf.shape, mesh) else P())

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def replicated(tree: Any, mesh: Mesh) -> list[str]:
    """Paths of the leaves that the table would split but whose shape the mesh does not divide."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [(_path_name(path), leaf.shape) for path, leaf in leaves]
    return [name for name, shape in names if not _divides(_wanted(name), shape, mesh)]


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The tree on every device of the mesh, whole."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Numbers of the global rows whose data this process has to provide.

    Raises:
        ValueError: the data axis does not divide the batch.
    """
    devices = mesh.shape["data"]
    accepted = f"a multiple of the mesh's {devices} data devices"
    require(batch_size % devices == 0, "batch_size", batch_size, accepted)
    indices = NamedSharding(mesh, P("data")).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in indices.values()]
    return np.unique(np.concatenate(rows))


def place_batch(make: Callable[[np.ndarray], Any], batch_size: int, mesh: Mesh) -> Any:
    """A global batch, split over the data axis; each process makes its own rows only.

    Args:
        make: row numbers → tree of host arrays whose first axis is these rows.
    """
    rows = local_rows(batch_size, mesh)
    sharding = NamedSharding(mesh, P("data"))

    def place(local):
        def shard(index):
            wanted = np.arange(batch_size)[index[0]]
            return local[np.searchsorted(rows, wanted)]

        shape = (batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    return jax.tree.map(place, make(rows))
