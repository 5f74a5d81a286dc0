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

from inf_former_jax.training.sharding import row_axes, row_devices

#: (shared, by_row, first_row) -> (sums over rows, results by row)
OfRows = Callable[[Any, Any, Int[Array, ""] | int], tuple[Any, Any]]

_EVERYWHERE = PartitionSpec()


def on_each_device(
    function: OfRows, mesh: Mesh | None, kept: Any = _EVERYWHERE
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """`(shared, by_row) -> (sums, results)` of a function that treats rows independently.

    Devices along the mesh's model axis share their rows, and are left to XLA's partitioner.

    Args:
        function: `shared` is whole along data and fsdp, leaves of `by_row` are [B, …]; `first_row`
            is the first one's number in the whole batch.
        mesh: its axes data and fsdp split the rows; None on one device.
        kept: what of `sums` a device keeps, specs along fsdp of its leaves or of whole branches
            (`sharding.along_fsdp`). By default each device has all of them.
    """
    if mesh is None or row_devices(mesh) == 1:
        return lambda shared, by_row: function(shared, by_row, 0)
    axes = row_axes(mesh)

    def on_this_device(shared, by_row):
        rows = jax.tree.leaves(by_row)[0].shape[0]
        sums, results = function(shared, by_row, rows * jax.lax.axis_index(axes))
        return jax.tree.map(lambda spec, part: _summed(part, spec, axes), kept, sums), results

    return jax.shard_map(
        on_this_device,
        mesh=mesh,
        in_specs=(_EVERYWHERE, PartitionSpec(axes)),
        out_specs=(kept, PartitionSpec(axes)),
        axis_names=set(axes),
        check_vma=False,  # carries of loops begin with zeros, which are the same on every device
    )


def _summed(part: Any, spec: PartitionSpec, axes: tuple[str, ...]) -> Any:
    """The sum over devices of each leaf; of a leaf that is split along fsdp this device's share.

    Shares are taken first, so that the other axes add up no more than these.
    """
    if "fsdp" not in spec:
        return jax.lax.psum(part, axes)
    others = tuple(axis for axis in axes if axis != "fsdp")
    dimension = tuple(spec).index("fsdp")
    share = jax.lax.psum_scatter(part, "fsdp", scatter_dimension=dimension, tiled=True)
    return jax.lax.psum(share, others)


def mesh_of(placed: Any) -> Mesh | None:
    """The mesh of a tree of shardings; None of no tree."""
    return None if placed is None else jax.tree.leaves(placed)[0].mesh
