"""Each device runs its own rows of a batch; what they add up to is summed over devices once.

Left to XLA's partitioner, a step would sum its gradient over all devices after every segment, and
ask all of them before every write whether their rows are at the same one. Rows do not depend on
each other, so that a device needs nothing of the others before the end of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

#: (shared, by_row, first_row) -> (sums over rows, results by row)
OfRows = Callable[[Any, Any, Int[Array, ""] | int], tuple[Any, Any]]

_EVERYWHERE, _BY_ROW = PartitionSpec(), PartitionSpec("data")


def on_each_device(function: OfRows, mesh: Mesh | None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """`(shared, by_row) -> (sums, results)` of a function that treats rows independently.

    A mesh that splits parameters too, along its model axis, is left to XLA's partitioner.

    Args:
        function: `shared` is whole everywhere, leaves of `by_row` are [B, …]; `first_row` is the
            first one's number in the whole batch.
        mesh: (data, model), which splits the rows along `data`; None on one device.
    """
    if mesh is None or mesh.shape["model"] > 1 or mesh.shape["data"] == 1:
        return lambda shared, by_row: function(shared, by_row, 0)

    def on_this_device(shared, by_row):
        rows = jax.tree.leaves(by_row)[0].shape[0]
        sums, results = function(shared, by_row, rows * jax.lax.axis_index("data"))
        return jax.lax.psum(sums, "data"), results

    return jax.shard_map(
        on_this_device,
        mesh=mesh,
        in_specs=(_EVERYWHERE, _BY_ROW),
        out_specs=(_EVERYWHERE, _BY_ROW),
        check_vma=False,  # carries of loops begin with zeros, which are the same on every device
    )


def mesh_of(placed: Any) -> Mesh | None:
    """The mesh of a tree of shardings; None of no tree."""
    return None if placed is None else jax.tree.leaves(placed)[0].mesh
