"""All parameters of a model as one safetensors file, by our own names, as they are.

    parameters_file.save(params, "sorter/parameters.safetensors")
    params = parameters_file.load("sorter/parameters.safetensors", wanted)

A checkpoint holds the optimiser and the memory as well, in a folder of many files. This is what is
left of it to give away.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from inf_former_jax.files import digest_of, writing
from inf_former_jax.models.convert.folder import DIGEST, read_tensors
from inf_former_jax.require import require, require_same, shapes


def save(params: Mapping[str, Any], path: str | os.PathLike) -> int:
    """Write the parameters, with a digest by which `load` knows them.

    Returns:
        Bytes of the file.
    """
    from safetensors.numpy import save as to_bytes

    leaves = flatten_dict(dict(params), sep="/")
    tensors = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    raw = to_bytes(tensors, {DIGEST: digest_of(tensors)})
    with writing(Path(path)) as file:
        file.write(raw)
    return len(raw)


def load(path: str | os.PathLike, wanted: Any) -> dict[str, Any]:
    """The parameters of a file, to the bit.

    Args:
        wanted: parameters of the same model, or their shapes.

    Raises:
        ValueError: a damaged file, or one of another model, by the first leaf that differs.
        FileNotFoundError: no such file.
    """
    tensors, digest = read_tensors(Path(path))
    require(digest is not None, str(path), "no digest", "a file that `save` has written")
    given = unflatten_dict({name: jnp.asarray(leaf) for name, leaf in tensors.items()}, sep="/")
    require_same(f"{path}: ", shapes(given), shapes(wanted))
    return given
