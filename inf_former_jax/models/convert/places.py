"""Which tensor of a file is which parameter of `Decoder`: a table of places, applied both ways."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped

from inf_former_jax.require import require

Tensors = Mapping[str, Shaped[np.ndarray, "..."]]

#: The output matrix, in the files of every model that has one of its own.
HEAD = "lm_head.weight"


class Place(NamedTuple):
    """Where the parts of one tensor belong: equal parts of its last axis, one for each path."""

    shape: tuple[int, ...]  # of the tensor
    paths: tuple[tuple[str, ...], ...]
    leaf: tuple[int, ...]  # shape of each parameter
    transposed: bool = False  # the parameters are parts of the tensor's transpose


def whole(shape: tuple[int, ...], *path: str) -> Place:
    """The place of a tensor that is one parameter as it is."""
    return Place(shape, (path,), shape)


def turned(leaf: tuple[int, ...], inputs: int, *path: str) -> Place:
    """The place of a linear layer's weight [out, in], as PyTorch has it.

    Args:
        leaf: the parameter's shape, of which the first `inputs` axes are in.
    """
    shape = math.prod(leaf[inputs:]), math.prod(leaf[:inputs])
    return Place(shape, (path,), leaf, True)


def unpack(places: Mapping[str, Place], tensors: Tensors, where: str) -> dict:
    """Parameters of `Decoder` from tensors by their names.

    Half-precision tensors become float32, others keep their dtype. All numbers must be finite in
    the dtype that JAX computes in, which is float32 for float64 unless x64 is on.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or kind, or has a number that is
            not finite, named after `where`.
    """
    params = {}
    for name in tensors:
        require(name in places, f"{where}: {name}", "such a tensor", "those of this model only")
    for name, (shape, paths, leaf, transposed) in places.items():
        require(name in tensors, f"{where}: {name}", "no such tensor", f"one of shape {shape}")
        tensor = np.asarray(tensors[name])
        found = f"shape {tensor.shape}"
        require(tensor.shape == shape, f"{where}: {name}", found, f"shape {shape}")
        floating = jnp.issubdtype(tensor.dtype, np.floating)
        require(floating, f"{where}: {name}", tensor.dtype, "floating-point numbers")
        tensor = tensor.astype(np.float32) if tensor.dtype.itemsize < 4 else tensor
        kind = jax.dtypes.canonicalize_dtype(tensor.dtype)
        with np.errstate(over="ignore"):
            wrong = tensor[~np.isfinite(tensor.astype(kind, copy=False))]
        if wrong.size:
            found, accepted = f"{wrong.size} times {wrong[0]}", f"finite numbers of {kind}"
            require(False, f"{where}: {name}", found, accepted)
        tensor = tensor.T if transposed else tensor
        for path, part in zip(paths, np.split(tensor, len(paths), axis=-1), strict=True):
            params[path] = part.reshape(leaf)
    return unflatten_dict(params)


def pack(places: Mapping[str, Place], params: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `unpack`: contiguous host arrays by their names.

    Raises:
        ValueError: a parameter is missing, left over, or of another shape.
    """
    tensors: dict[str, Any] = {}
    leaves: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    for name, (shape, paths, leaf, transposed) in places.items():
        for path in paths:
            found = np.shape(leaves[path]) if path in leaves else "nothing"
            require(found == leaf, f"params/{'/'.join(path)}", found, leaf)
        *rest, width = shape[::-1] if transposed else shape
        sides = (*rest, width // len(paths))
        parts = [np.asarray(leaves.pop(path)).reshape(sides) for path in paths]
        tensor = np.concatenate(parts, axis=-1)
        tensors[name] = np.ascontiguousarray(tensor.T if transposed else tensor)
    accepted = "the parameters of this configuration only"
    require(not leaves, "params", "/".join(next(iter(leaves), ())), accepted)
    return tensors


def sizes(
    tensors: Tensors, where: str, told_by: Mapping[str, tuple[str, str]], layer: str
) -> dict[str, int]:
    """What shapes tell of the architecture, by the names of `ModelConfig`.

    Args:
        told_by: tensor → the fields that its two axes tell.
        layer: what names of a layer's tensors begin with, its number as a group.

    Raises:
        ValueError: a tensor that tells it is missing or has another number of axes.
    """
    told = {}
    for name, fields in told_by.items():
        require(name in tensors, f"{where}: {name}", "no such tensor", "one of 2 axes")
        shape = np.shape(tensors[name])
        fits = len(shape) == 2 and math.prod(shape) > 0
        require(fits, f"{where}: {name}", shape, "2 axes")
        told |= dict(zip(fields, shape, strict=True))
    layers = {int(match[1]) for name in tensors if (match := re.match(layer, name))}
    return told | {"num_layers": max(layers) + 1}


def is_tied(tensors: Tensors, embedding: str) -> bool:
    """Whether the output matrix is the embedding's: it is not there, or the same numbers."""
    return HEAD not in tensors or np.array_equal(tensors[HEAD], tensors[embedding])


def without_tied_head(tensors: Tensors, embedding: str, where: str) -> dict[str, Any]:
    """The tensors of a tied model without the output matrix, which says nothing new.

    Raises:
        ValueError: it is another one than the embedding's.
    """
    found, accepted = f"another matrix than {embedding}", "the same, or tie_word_embeddings false"
    require(is_tied(tensors, embedding), f"{where}: {HEAD}", found, accepted)
    return {name: tensor for name, tensor in tensors.items() if name != HEAD}
