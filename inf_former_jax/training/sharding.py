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

P = PartitionSpec

#: Attention is split by whole heads; the first pattern found in a leaf's path decides.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(attention|read)/(query|key|value|position)$", P(None, "model", None)),
    (r"attention/(query|key|value)_bias$", P("model", None)),
    (r"(attention|read)/out$", P("model", None, None)),
    (r"bias_[uw]$", P("model", None)),
    (r"inner/kernel$", P(None, "model")),
    (r"inner/bias$", P("model")),
    (r"outer/kernel$", P("model", None)),
    (r"embed/embedding$", P("model", None)),
    (r"logits/kernel$", P(None, "model")),
    (r"^memory/", P("data")),
)


def make_mesh(model: int = 1) -> Mesh:
    """All devices as a mesh (data, model), `model` of them along the second axis.

    `AxisType.Auto`, since JAX's default of explicit axes breaks the relative shift.

    Raises:
        ValueError: model does not divide the number of devices.
    """
    count = jax.device_count()
    if model < 1 or count % model:
        raise ValueError(f"mesh_model: found {model}, accepted: a divisor of {count} devices")
    return jax.make_mesh((count // model, model), ("data", "model"), (AxisType.Auto,) * 2)


def _path_name(path) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[PartitionSpec, bool]:
    """The leaf's spec, and whether the table wanted more than its shape allows."""
    for pattern, spec in RULES:
        if re.search(pattern, name):
            fits = all(
                axis is None or shape[i] % mesh.shape[axis] == 0 for i, axis in enumerate(spec)
            )
            return (spec, False) if fits else (P(), True)
    return P(), False


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A tree of `NamedSharding` of the same structure, by the table RULES.

    Args:
        tree: arrays or shapes; a train state, or any part that keeps its path names.
    """

    def of_leaf(path, leaf):
        return NamedSharding(mesh, _spec(_path_name(path), leaf.shape, mesh)[0])

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def replicated(tree: Any, mesh: Mesh) -> list[str]:
    """Paths of the leaves that the table would split but whose shape the mesh does not divide."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [(_path_name(path), leaf.shape) for path, leaf in leaves]
    return [name for name, shape in names if _spec(name, shape, mesh)[1]]


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The tree on every device of the mesh, whole."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Numbers of the global rows whose data this process has to provide.

    Raises:
        ValueError: the data axis does not divide the batch.
    """
    if batch_size % mesh.shape["data"]:
        raise ValueError(
            f"batch_size: found {batch_size}, accepted: a multiple of the mesh's "
            f"{mesh.shape['data']} data devices"
        )
    indices = NamedSharding(mesh, P("data")).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in indices.values()]
    return np.unique(np.concatenate(rows))


def place_batch(make: Callable[[np.ndarray], Any], batch_size: int, mesh: Mesh) -> Any:
    """A global batch, split over the data axis, of which each process makes its own rows only.

    Args:
        make: row numbers → tree of host arrays with those rows first.
    """
    rows = local_rows(batch_size, mesh)
    sharding = NamedSharding(mesh, P("data"))

    def place(local):
        shape = (batch_size, *local.shape[1:])

        def rows_of(index):
            wanted = np.arange(batch_size)[index[0]]
            return local[np.searchsorted(rows, wanted)]

        return jax.make_array_from_callback(shape, sharding, rows_of)

    return jax.tree.map(place, make(rows))
