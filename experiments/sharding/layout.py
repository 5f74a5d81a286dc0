"""A training step on a mesh: bytes a device, and the collectives of the compiled program."""

import collections
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import write_operators
from inf_former_jax.training import sharding
from inf_former_jax.training.optim import optimizer
from inf_former_jax.training.state import TrainState, abstract_state
from inf_former_jax.training.step import make_train_step

#: A collective of the program's text: results, kind, groups of devices, where it comes from.
_COLLECTIVE = re.compile(
    r"= (?P<results>\(.*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?\("
    r".*?(replica_groups|source_target_pairs)=(?P<groups>mesh\[.*?\{.*?\}|\S+)"
    r".*?op_name=\"(?P<place>[^\"]*)"
)
_SHAPE = re.compile(r"(pred|[a-z]+\d+)\w*\[([\d,]*)\]")


#: What is told, held and computed does not depend on how well the CPU's code is optimised, which
#: takes long.
UNOPTIMISED = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


class Told(NamedTuple):
    """What a step needs on each device of a mesh.

    Attributes:
        mesh: axis → devices.
        bytes_of: bytes of the parameters, the optimiser, the memory, operators and batch that a
            device holds, and of the scratch memory of the step; activations are in the last.
        collectives: rows of kind, among how many devices, when, how often in the program, bytes
            that a device gets by all of them together. What happens in each segment is counted
            once; how many segments there are does not change it.
        whole: leaves that the table of the layout would split, but the mesh does not divide.
    """

    mesh: dict[str, int]
    bytes_of: dict[str, int]
    collectives: list[dict[str, Any]]
    whole: list[str]


def told(cfg: Any, mesh: Mesh, rows: int, segments: int) -> Told:
    """Compile a config's step for a mesh, and look at it.

    Args:
        rows: B of the whole batch.
        segments: W.

    Raises:
        ValueError: rows that the mesh does not divide.
    """
    sharding.local_rows(rows, mesh)
    state, batch, operators = shapes(cfg, mesh, rows, segments)
    placed = sharding.shardings(state, mesh)
    tx = optimizer(cfg.optim)
    step = make_train_step(cfg.model, tx, cfg.objective, placed, cfg.optim.trained)
    compiled = step.lower(state, batch, operators).compile(UNOPTIMISED)
    held = {
        "parameters": state.params,
        "optimiser": state.opt_state,
        "memory": state.memory,
        "operators": operators,
        "batch": batch,
    }
    sizes = {name: _bytes_on_a_device(tree) for name, tree in held.items()}
    analysis, program = compiled.memory_analysis(), compiled.as_text()
    assert analysis is not None and program is not None  # which a CPU has
    sizes["scratch of the step"] = analysis.temp_size_in_bytes
    whole = sharding.replicated(state, mesh)
    return Told(dict(mesh.shape), sizes, collectives(program), whole)


def shapes(cfg: Any, mesh: Mesh, rows: int, segments: int) -> tuple[TrainState, Batch, Any]:
    """What a config's step takes, as shapes with shardings: (state, batch, operators).

    Args:
        rows, segments: as of `told`.
    """
    length, by_row = cfg.model.segment_len, sharding.by_row(mesh)

    def shape(dims, dtype, placed=by_row) -> Any:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=placed)

    words = (rows, segments, length)
    batch = Batch(
        shape(words, jnp.int32),
        shape(words, jnp.int32),
        shape(words, jnp.float32),
        shape(words[:2], bool),
    )
    operators, everywhere = None, NamedSharding(mesh, PartitionSpec())
    if cfg.model.long_term is not None:
        given = write_operators.shapes(cfg.model.long_term, length)
        operators = jax.tree.map(lambda leaf: shape(leaf.shape, jnp.float32, everywhere), given)
    return abstract_state(cfg.model, optimizer(cfg.optim), rows, mesh), batch, operators


def _bytes_on_a_device(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings, of what one device holds."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def collectives(program: str) -> list[dict[str, Any]]:
    """Rows of `Told.collectives` of a compiled program's text."""
    counts, sizes = collections.Counter(), collections.Counter()
    for found in map(_COLLECTIVE.search, program.splitlines()):
        if found is None:
            continue
        when = "each segment" if "while/body" in found["place"] else "each update"
        key = found["kind"], _among(found["groups"]), when
        counts[key] += 1
        sizes[key] += sum(map(_size, _SHAPE.findall(found["results"])))
    names = ("kind", "among", "when")
    return [
        dict(zip(names, key, strict=True)) | {"count": count, "bytes": sizes[key]}
        for key, count in sorted(counts.items())
    ]


def _size(shape: tuple[str, str]) -> int:
    """Bytes of a shape of the program's text: its dtype and its dimensions."""
    dtype, dims = shape
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return int(np.prod([int(dim) for dim in dims.split(",") if dim], initial=1)) * bits // 8


def _among(groups: str) -> int:
    """How many devices tell each other something, in any of the forms in which XLA writes it."""
    if groups.startswith("mesh"):  # mesh['a'=2,'b'=4], device_ids=(…) {'b'}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
        axes = re.findall(r"'(\w+)'", groups[groups.rindex("{") :])
        return math.prod(int(sizes[axis]) for axis in axes)
    if size := re.match(r"\[\d+,(\d+)\]", groups):  # [2,4]<=[8]
        return int(size[1])
    listed = re.match(r"\{\{([\d,]+)\}", groups)  # {{0,1},{2,3}}
    return len(listed[1].split(",")) if listed else 0
