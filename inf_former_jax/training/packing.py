"""Small leaves of a train state as one vector a dtype, so that a checkpoint has few arrays.

Each array costs orbax some milliseconds, however small it is. A train state has hundreds of arrays,
most of them small.

The fields of a state stay apart, so that one of them can be read without the others. Where a leaf
lies follows from the names, dtypes and shapes of all leaves, which the digest of a checkpoint has.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array

from inf_former_jax.require import require
from inf_former_jax.training.digests import dtypes_and_shapes, words

#: Elements of the largest leaf that is packed. It is part of the format: with another number, the
#: leaves of older checkpoints are looked for in other places.
SMALL = 1 << 16

#: Field → name of an array → the array, as it is written.
Packed = dict[str, dict[str, Any]]


class Place(NamedTuple):
    """Where a leaf lies.

    Attributes:
        field: of the state.
        array: "small-DTYPE", a vector of many leaves, or the leaf's own name.
        start: its first element in the vector; None where the array is the leaf.
    """

    field: str
    array: str
    start: int | None


def places(forms: Mapping[str, Sequence[Any]]) -> dict[str, Place]:
    """Path → place of every leaf. Random keys are not packed.

    Args:
        forms: path → [dtype, shape, …], as a digest has it.
    """
    found, filled = dict[str, Place](), defaultdict[tuple[str, str], int](int)
    names = set[str]()
    for path in sorted(forms):
        dtype, shape = forms[path][:2]
        field, *_ = parts = words(path) or ("state",)
        size = math.prod(shape)
        if size > SMALL or dtype.startswith("key<"):
            name = ".".join(parts)
            while name in names:  # of ['a.b'] and ['a']['b']
                name += "+"
            names.add(name)
            found[path] = Place(field, name, None)
        else:
            vector = field, f"small-{dtype}"
            found[path] = Place(*vector, filled[vector])
            filled[vector] += size
    return found


def by_path(tree: Any) -> dict[str, Any]:
    """path → leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def pack(tree: Any) -> Packed:
    """The arrays of a state as they are written. A vector lies whole on every device of a mesh."""
    leaves, written = by_path(tree), defaultdict[str, dict](dict)
    joined = defaultdict[tuple[str, str], list](list)
    for path, place in places(dtypes_and_shapes(tree)).items():
        if place.start is None:
            written[place.field][place.array] = leaves[path]
        elif leaves[path].size:  # orbax refuses arrays without elements
            joined[place.field, place.array].append(leaves[path])
    placed = (getattr(leaf, "sharding", None) for leaf in leaves.values())
    mesh = next((one.mesh for one in placed if isinstance(one, NamedSharding)), None)
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    vectors = jax.jit(_vectors, out_shardings=whole)(list(joined.values()))
    for (field, array), vector in zip(joined, vectors, strict=True):
        written[field][array] = vector
    return dict(written)


def _vectors(groups: list[list[Array]]) -> list[Array]:
    return [jnp.concatenate([leaf.reshape(-1) for leaf in leaves]) for leaves in groups]


def unpack(
    read: Callable[[Packed, Packed], Packed], target: Any, forms: Mapping[str, Sequence[Any]]
) -> Any:
    """A tree like the target, from what was written of it.

    Args:
        read: (the arrays that are wanted, how orbax reads each) → these arrays.
        target: tree of `jax.ShapeDtypeStruct`s, with the shardings that the leaves get.
        forms: as of `places`; of all leaves that were written.

    Raises:
        ValueError: a vector is shorter than its leaves.
    """
    leaves, found = by_path(target), places(forms)
    wanted, how = defaultdict[str, dict](dict), defaultdict[str, dict](dict)
    for path, leaf in leaves.items():
        field, array, start = found[path]
        if start is None:
            wanted[field][array] = _placed(leaf)
            how[field][array] = ocp.checkpoint_utils.construct_restore_args(_placed(leaf))
        elif math.prod(leaf.shape):
            wanted[field][array], how[field][array] = 0, _ON_HOST
    arrays = read(dict(wanted), dict(how))
    made = {path: _leaf(arrays, found[path], leaf) for path, leaf in leaves.items()}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: made[jax.tree_util.keystr(path)], target
    )


def _placed(leaf: Any) -> Any:
    """The leaf on a device, if it says none: orbax would give the data of a key, not the key."""
    if getattr(leaf, "sharding", None) is not None:
        return leaf
    device = SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)


#: The vectors are read by every process.
_ON_HOST = ocp.RestoreArgs(restore_type=np.ndarray)


def _leaf(arrays: Packed, place: Place, target: Any) -> Any:
    """A leaf of the target, on its devices."""
    if place.start is None:
        return arrays[place.field][place.array]
    leaf = _cut(arrays, place, place.start, [target.dtype, target.shape])
    if getattr(target, "sharding", None) is None:
        return jnp.asarray(leaf)
    return jax.make_array_from_callback(target.shape, target.sharding, leaf.__getitem__)


def _cut(arrays: Packed, place: Place, start: int, form: Sequence[Any]) -> np.ndarray:
    """A leaf that lies in a vector."""
    dtype, shape = form[:2]
    if 0 in shape:
        return np.zeros(shape, jnp.dtype(dtype))
    vector, end = arrays[place.field][place.array], start + math.prod(shape)
    require(end <= vector.size, place.array, f"{vector.size} elements", f"at least {end}")
    return vector[start:end].reshape(shape)


def on_host(arrays: Packed, forms: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """path → leaf of what was written, as NumPy arrays; of a key its data.

    Args:
        forms: as of `places`; of all leaves.

    Raises:
        KeyError, ValueError: other arrays than those of the forms.
    """
    leaves = {}
    for path, place in places(forms).items():
        if place.start is None:
            leaves[path] = np.asarray(arrays[place.field][place.array])
        else:
            leaves[path] = _cut(arrays, place, place.start, forms[path])
    return leaves


def is_packed(folder: Path) -> bool:
    """Whether the checkpoint in a folder has vectors; older ones have an array for each leaf."""
    return not (folder / "state").exists()
