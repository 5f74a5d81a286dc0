"""Where the arrays live: a (data, fsdp, model) mesh and a table of path → PartitionSpec.

Models know no mesh. The table is applied to the whole train state, so that the optimiser's moments
follow their parameters. On one device it is the same code on a 1 × 1 × 1 mesh. A dimension that the
mesh axis does not divide is replicated, and listed by `replicated`. A mesh of the user's own may
lack an axis: nothing is split along it.

Rows of a batch, and their memory, are split over data and fsdp. Between updates each device along
fsdp holds its share of the parameters and of the optimiser's state (Rajbhandari et al. 2020, ZeRO).
An update puts the parameters together once (`gathered`) and leaves each device its share of the
gradient. Layer by layer would need less memory during the update, and would tell every parameter
once in each of the W segments.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inf_former_jax.require import require

P = PartitionSpec

#: Axes of the mesh that split rows.
ROWS = ("data", "fsdp")

#: Attention is split by whole heads along model, and by d_model along fsdp. The first pattern found
#: in a leaf's path decides.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(attention|read)/(query|key|value|position)$", P("fsdp", "model", None)),
    (r"attention/(query|key|value)_bias$", P("model", None)),
    (r"(attention|read)/out$", P("model", None, "fsdp")),
    (r"bias_[uw]$", P("model", None)),
    (r"inner(_gate)?/kernel$", P("fsdp", "model")),
    (r"inner/bias$", P("model")),
    (r"outer/kernel$", P("model", "fsdp")),
    (r"(gate|compression)/kernel$", P(None, "fsdp", None)),
    (r"embed/embedding$", P("model", "fsdp")),
    (r"positions$", P(None, "fsdp")),
    (r"logits/kernel$", P("fsdp", "model")),
    (r"^memory/", P(ROWS)),
)


def make_mesh(model: int = 1, devices: int = 0, fsdp: int = 1) -> Mesh:
    """Devices as a mesh (data, fsdp, model); data has those that the other two leave.

    `AxisType.Auto`, since JAX's default of explicit axes breaks the relative shift.

    Args:
        model: how many devices share a row: heads, feed-forward layers and vocabulary are split.
        devices: how many, the first ones; 0 = all.
        fsdp: how many devices, each with rows of its own, share parameters and optimiser state.

    Raises:
        ValueError: there are not so many, or model · fsdp does not divide their number.
    """
    there = jax.device_count()
    require(0 <= devices <= there, "devices", devices, f"at most the {there} that JAX has")
    count = devices or there
    fits = model >= 1 and count % model == 0
    require(fits, "mesh_model", model, f"a divisor of {count} devices")
    fits, shared = fsdp >= 1 and count // model % fsdp == 0, f" with mesh_model {model}"
    accepted = f"a divisor of {count // model} devices{shared if model > 1 else ''}"
    require(fits, "mesh_fsdp", fsdp, accepted)
    shape, kinds = (count // model // fsdp, fsdp, model), (AxisType.Auto,) * 3
    return jax.make_mesh(shape, (*ROWS, "model"), kinds, devices=jax.devices()[:count])


def row_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of a mesh that split rows: those with more than one device."""
    return tuple(axis for axis in ROWS if mesh.shape.get(axis, 1) > 1)


def row_devices(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in row_axes(mesh))


def by_row(mesh: Mesh) -> NamedSharding:
    """How an array whose first axis is the rows of a batch is split."""
    return NamedSharding(mesh, P(row_axes(mesh)))


def _path_name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _wanted(name: str) -> PartitionSpec:
    """The spec of the first pattern that is found in a leaf's path."""
    return next((spec for pattern, spec in RULES if re.search(pattern, name)), P())


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one dimension."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def _on(mesh: Mesh, spec: PartitionSpec) -> PartitionSpec:
    """The spec without the axes that a mesh lacks, or that have one device."""

    def there(entry):
        axes = tuple(axis for axis in _axes(entry) if mesh.shape.get(axis, 1) > 1)
        return axes if len(axes) > 1 else axes[0] if axes else None

    return P(*map(there, spec))


def _fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec without the dimensions that the mesh does not divide."""

    def divides(size, entry):
        return size % math.prod(mesh.shape[axis] for axis in _axes(entry)) == 0

    entries = [e if divides(size, e) else None for size, e in zip(shape, spec, strict=False)]
    return P(*entries) if any(entries) else P()


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A tree of `NamedSharding` of the same structure, by the table RULES.

    Args:
        tree: arrays or shapes; a train state, or any part that keeps its path names.
    """

    def leaf_sharding(path, leaf):
        spec = _on(mesh, _wanted(_path_name(path)))
        return NamedSharding(mesh, _fitting(spec, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def replicated(tree: Any, mesh: Mesh) -> list[str]:
    """Paths of the leaves with a dimension that the table splits and the mesh does not divide."""

    def whole(path, shape):
        spec = _on(mesh, _wanted(_path_name(path)))
        return any(e != f for e, f in itertools.zip_longest(spec, _fitting(spec, shape, mesh)))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [_path_name(path) for path, leaf in leaves if whole(path, leaf.shape)]


def along_fsdp(spec: PartitionSpec) -> PartitionSpec:
    """Of a leaf's spec what splits it along fsdp, without the other axes."""
    return P(*(entry if entry == "fsdp" else None for entry in spec))


def gathered(tree: Any, placed: Any) -> Any:
    """Inside of a jitted function: leaves that are split along fsdp, put together on each device.

    Args:
        placed: their shardings, as `shardings` has them.
    """

    def whole(leaf, there):
        if "fsdp" not in there.spec:
            return leaf
        spec = P(*(None if entry == "fsdp" else entry for entry in there.spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(there.mesh, spec))

    return jax.tree.map(whole, tree, placed)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The tree on every device of the mesh, whole."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Numbers of the global rows whose data this process has to provide.

    Raises:
        ValueError: the mesh does not divide the batch.
    """
    devices = row_devices(mesh)
    accepted = f"a multiple of the mesh's {devices} data devices"
    require(batch_size % devices == 0, "batch_size", batch_size, accepted)
    indices = by_row(mesh).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in indices.values()]
    return np.unique(np.concatenate(rows))


def place_batch(make: Callable[[np.ndarray], Any], batch_size: int, mesh: Mesh) -> Any:
    """A global batch, split over data and fsdp; each process makes its own rows only.

    Args:
        make: row numbers → tree of host arrays whose first axis is these rows.
    """
    rows, sharding = local_rows(batch_size, mesh), by_row(mesh)

    def place(local):
        def shard(index):
            wanted = np.arange(batch_size)[index[0]]
            return local[np.searchsorted(rows, wanted)]

        shape = (batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    return jax.tree.map(place, make(rows))
