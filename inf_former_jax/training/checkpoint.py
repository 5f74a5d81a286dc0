"""Checkpoints of the whole train state: asynchronous, verified, walking back past damage.

orbax writes them atomically, but flipped bytes in a data file restore silently, and so does an
array of another dtype. So each checkpoint holds a digest of every leaf's shape, dtype and bits,
formed on the device before the state is donated, and checked against what was restored.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers as policies

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """How often the train state is saved, and what is kept.

    Raises:
        ValueError: on construction, for a count below 1.
    """

    every: int = 200
    """Updates between checkpoints; the last update is always saved."""
    keep: int = 2
    """Newest checkpoints that are kept, beside the best one."""

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: 1 or more")


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this model, or no checkpoint that is whole."""


def _hash(leaf) -> UInt32[Array, ""]:
    """`Σ_i (2i + 1) w_i` over the leaf's 32-bit words, modulo 2³².

    Integer sums are exact in any order, so it is the same on every mesh; the factors are odd, so
    any one changed word changes it.
    """
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    flat = jax.lax.bitcast_convert_type(leaf, words).reshape(-1).astype(jnp.uint32)
    odd = 2 * jnp.arange(flat.size, dtype=jnp.uint32) + 1
    return (flat * odd).sum(dtype=jnp.uint32)


@jax.jit
def _hashes(tree):
    return jax.tree.map(_hash, tree)


def digest(tree: Any) -> dict[str, list]:
    """path → [dtype, shape, hash] of every leaf; small, and as JSON has it."""
    hashes = jax.device_get(_hashes(tree))
    described = jax.tree.map(lambda x, h: [str(x.dtype), list(x.shape), int(h)], tree, hashes)
    leaves = jax.tree_util.tree_leaves_with_path(described, is_leaf=lambda x: isinstance(x, list))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _check_same_model(found: dict[str, list], target: Any, whole: bool) -> None:
    """Refuse a checkpoint whose leaves are not those of the target, naming the first.

    A target that is not the whole state says nothing of the leaves that it lacks.
    """
    leaves = jax.tree_util.tree_leaves_with_path(target)
    accepted = {jax.tree_util.keystr(p): [str(x.dtype), list(x.shape)] for p, x in leaves}
    for name in sorted(accepted.keys() | (found.keys() if whole else set())):
        here, wanted = found.get(name, [None])[:2], accepted.get(name)
        if here != wanted:
            raise CheckpointError(
                f"checkpoint of another architecture: {name}: found {here}, accepted: {wanted}"
            )


class Checkpoints:
    """The checkpoints of one run folder. A context manager; closing waits for what is written.

    Args:
        folder: made if needed; one sub-folder a step.
        best: metrics → number, of which the checkpoint with the largest is kept too.

    Attributes:
        every: updates between checkpoints.
        seconds: that `save` has kept its callers waiting, all calls together.
    """

    def __init__(
        self,
        folder: Path,
        cfg: CheckpointConfig,
        best: Callable[[dict[str, float]], float] | None = None,
        read_only: bool = False,
    ):
        self.every, self.seconds = cfg.every, 0.0
        keep: list[Any] = [policies.LatestN(cfg.keep)]
        if best is not None:
            unmeasured = False  # a checkpoint that was not evaluated is no candidate
            keep.append(
                policies.BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=unmeasured)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            # What a reader finds unfinished may be another process's, that is still writing.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Start writing a state; it may be donated as soon as this returns."""
        begun = time.perf_counter()
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave(digest(state))
        )
        self._manager.save(step, args=items, metrics=metrics)
        self.seconds += time.perf_counter() - begun

    def steps(self) -> list[int]:
        """Steps that are on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Return when everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, target: Any, parts: Sequence[str] = ()) -> Any | None:
        """The newest state that is whole, or None if nothing was saved.

        A damaged checkpoint is named in a warning and the one before it is taken.

        Args:
            target: tree of `jax.ShapeDtypeStruct`s with shardings (or of arrays) like the state.
            parts: if given, the only fields of the target, a NamedTuple, that are read and
                verified; the others come back as None.

        Raises:
            CheckpointError: the checkpoint is of another architecture, or none is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, target, parts)
            except CheckpointError as error:
                if str(error).startswith("checkpoint of another"):
                    raise
                log.warning("checkpoint of step %d is damaged (%s)", step, str(error))
        if steps:
            raise CheckpointError(f"checkpoints of steps {steps}: none of them is whole")
        return None

    def _restore(self, step, target, parts):
        if parts:
            dropped = [name for name in target._fields if name not in parts]
            target = target._replace(**dict.fromkeys(dropped))
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(digest=_JSON)).digest
            _check_same_model(found, target, whole=not parts)
            items = ocp.args.Composite(state=_reader(target, parts))
            state = self._manager.restore(step, args=items).state
            state = target._replace(**state) if parts else state
        except CheckpointError:
            raise
        except Exception as error:  # orbax raises all kinds for a damaged file, plain ones too
            raise CheckpointError(
                str(error).splitlines()[0] if str(error) else repr(error)
            ) from error
        bad = [name for name, leaf in digest(state).items() if leaf != found[name]]
        if bad:
            raise CheckpointError(f"checksum of {bad[0]}" + (" and others" if bad[1:] else ""))
        return state


_JSON = ocp.args.JsonRestore()


def _reader(target, parts):
    """How orbax reads a whole state, or some of its fields."""
    if not parts:
        return ocp.args.StandardRestore(target)
    item = {name: getattr(target, name) for name in parts}
    how = ocp.checkpoint_utils.construct_restore_args(item)
    return ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
