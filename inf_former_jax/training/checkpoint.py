"""Checkpoints of the whole train state: asynchronous, atomic, verified.

How a checkpoint is verified: `Checkpoints.save` writes a `digest` beside the state, which is the
dtype, shape and hash of every leaf, with a checksum of all that. `Checkpoints.restore` forms the
digest of what it has read and compares the two. A checkpoint that differs, cannot be read, or holds
a NaN or an infinity is damaged: a warning names it, the one before it is taken, and its folder gets
the name `damaged-STEP`, so that the run can save its step again.

orbax writes asynchronously and atomically, but restores flipped bytes, and arrays of another dtype,
without a word. The digest is formed on the device before the state is donated.
"""

import dataclasses
import itertools
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, UInt32
from orbax.checkpoint import checkpoint_managers as policies

from inf_former_jax import files
from inf_former_jax.fields import Checked, Count

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Checked):
    """How often the train state is saved, and what is kept.

    No update depends on it, so all of it may change when a run goes on.

    Raises:
        ValueError: on construction, for a count below 1.
    """

    every: Count = 200
    """Updates between checkpoints; the last update is always saved."""
    keep: Count = 2
    """Newest checkpoints that are kept, beside the best one."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that belongs to another run."""


class ArchitectureError(CheckpointError):
    """A checkpoint of a model with other leaves."""


def digest(tree: Any) -> dict[str, list]:
    """path → [dtype, shape, hash] of every leaf; small, and as JSON has it."""
    return _digest_and_finite(tree)[0]


def _digest_and_finite(tree: Any) -> tuple[dict[str, list], dict[str, bool]]:
    """`digest`, and path → whether the leaf is finite."""
    hashes, finite = map(jax.tree.leaves, jax.device_get(_hashes_and_finite(tree)))
    leaves = _dtypes_and_shapes(tree)
    whole = zip(leaves.items(), hashes, strict=True)
    digest = {path: [*leaf, int(number)] for (path, leaf), number in whole}
    return digest, dict(zip(leaves, map(bool, finite), strict=True))


def _dtypes_and_shapes(tree: Any) -> dict[str, list]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [str(x.dtype), list(x.shape)] for path, x in leaves}


@jax.jit
def _hashes_and_finite(tree):
    return jax.tree.map(_hash_of_leaf, tree), jax.tree.map(_finite, tree)


def _finite(leaf) -> Bool[Array, ""]:
    inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jnp.isfinite(leaf).all() if inexact else jnp.array(True)


def _hash_of_leaf(leaf) -> UInt32[Array, ""]:
    """`Σ_i (2i + 1) w_i` over the leaf's 32-bit words, modulo 2³².

    Integer sums are exact in any order, so the hash is the same on every mesh. The factors are
    odd, so any one changed word changes it.
    """
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    flat = jax.lax.bitcast_convert_type(leaf, words).reshape(-1).astype(jnp.uint32)
    odd = 2 * jnp.arange(flat.size, dtype=jnp.uint32) + 1
    return (flat * odd).sum(dtype=jnp.uint32)


def _with_checksum(leaves: dict[str, list]) -> dict[str, Any]:
    return {"leaves": leaves, "checksum": zlib.crc32(files.json_text(leaves).encode())}


def _leaves_of(saved: Any) -> dict[str, list]:
    """The digest that was saved; CheckpointError if it is damaged itself."""
    fields = saved if isinstance(saved, dict) else {}
    if _with_checksum(fields.get("leaves", {})) == fields:
        return fields["leaves"]
    forms = [[type(part) for part in leaf] for leaf in fields.values() if isinstance(leaf, list)]
    if not forms or len(forms) < len(fields) or any(form != [str, list, int] for form in forms):
        raise CheckpointError("checksum of the digest")
    return fields  # of version 0.2, which wrote no checksum


def _require_architecture(saved: dict[str, list], target: Any, whole: bool) -> None:
    """Refuse a digest whose leaves are not those of the target, naming the first.

    If the target is not the whole state, the digest may have more leaves.
    """
    accepted = _dtypes_and_shapes(target)
    for name in sorted(accepted.keys() | (saved.keys() if whole else set())):
        found, wanted = saved.get(name, [None])[:2], accepted.get(name)
        if found != wanted:
            raise ArchitectureError(
                f"checkpoint of another architecture: {name}: found {found}, accepted: {wanted}"
            )


def _refuse(what: str, leaves: Sequence[str]) -> None:
    if leaves:
        raise CheckpointError(f"{what} {leaves[0]}" + (" and others" if leaves[1:] else ""))


def _or_worst(best: Callable[[dict[str, float]], float]) -> Callable[[dict[str, float]], float]:
    """The figure of a checkpoint, or the worst one there is if its metrics are damaged."""

    def figure(metrics: dict[str, float]) -> float:
        try:
            return float(best(metrics))
        except (KeyError, TypeError, ValueError):
            return -math.inf

    return figure


class Checkpoints:
    """The checkpoints of one run folder. A context manager; closing waits for what is written.

    Args:
        folder: made if needed; it has one sub-folder for each step.
        best: metrics → number; the checkpoint with the largest number is kept too.
        read_only: change nothing in the folder, which another process may be writing to.

    Attributes:
        every: updates between checkpoints.
        seconds: for which `save` has kept its callers waiting, all calls together.

    Raises:
        CheckpointError: the folder cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        cfg: CheckpointConfig,
        best: Callable[[dict[str, float]], float] | None = None,
        read_only: bool = False,
    ):
        self.every, self.seconds, self._read_only = cfg.every, 0.0, read_only
        keep: list[Any] = [policies.LatestN(cfg.keep)]
        if best is not None:  # a checkpoint that was not evaluated is no candidate
            candidates = {"keep_checkpoints_without_metrics": False}
            keep.append(policies.BestN(get_metric_fn=_or_worst(best), n=1, **candidates))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self._folder = Path(folder).absolute()
        logging.getLogger("absl").addFilter(self._not_of_orbax)
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:  # orbax raises all kinds for a damaged file
            logging.getLogger("absl").removeFilter(self._not_of_orbax)
            found = f"what cannot be read ({error})"
            raise CheckpointError(f"{folder}: found {found}, accepted: checkpoints") from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._manager.close()
        finally:
            logging.getLogger("absl").removeFilter(self._not_of_orbax)

    def _not_of_orbax(self, record: logging.LogRecord) -> bool:
        """What orbax logs, with tracebacks, it raises too; or it is no news."""
        return "orbax" not in record.pathname

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Start writing a state and its digest; the state may be donated when this returns."""
        if step in self._manager.all_steps():
            return
        begun = time.perf_counter()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            digest=ocp.args.JsonSave(_with_checksum(digest(state))),
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
        """The newest state that is whole and finite, or None if nothing was saved.

        A damaged checkpoint is named in a warning, and the one before it is taken. The damaged one
        is then renamed, unless the folder is only read.

        Args:
            target: tree of `jax.ShapeDtypeStruct`s with shardings (or of arrays) like the state.
            parts: if given, the only fields of the target, a NamedTuple, that are read and
                verified; the others come back as None.

        Raises:
            CheckpointError: the checkpoint is of another architecture, or none is whole.
        """
        steps, damaged = self.steps(), []
        for step in reversed(steps):
            try:
                state = self._restore_verified(step, target, parts)
            except ArchitectureError:
                raise
            except CheckpointError as error:
                log.warning("checkpoint of step %d is damaged (%s)", step, str(error))
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return state
        if steps:
            found = f"checkpoints of steps {steps}: none of them is whole and finite"
            accepted = "one that is; delete the folder, and the run begins anew"
            raise CheckpointError(f"{self._folder}: found {found}, accepted: {accepted}")
        return None

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Rename the folders of damaged steps; of several processes the first one does it."""
        if not steps or self._read_only:
            return
        if not jax.process_index():
            for step in steps:
                names = (f"damaged-{step}" + "+" * again for again in itertools.count())
                free = next(name for name in names if not (self._folder / name).exists())
                (self._folder / str(step)).rename(self._folder / free)
                log.warning("checkpoint of step %d is kept as %s", step, free)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._manager.reload()

    def _restore_verified(self, step: int, target: Any, parts: Sequence[str]) -> Any:
        """The state of a step; CheckpointError unless it is the one that was saved, and finite."""
        if parts:
            others = [name for name in target._fields if name not in parts]
            target = target._replace(**dict.fromkeys(others))
        saved = _leaves_of(self._read(step, "digest", ocp.args.JsonRestore()))
        _require_architecture(saved, target, whole=not parts)
        if parts:
            wanted = {name: getattr(target, name) for name in parts}
            how = ocp.checkpoint_utils.construct_restore_args(wanted)
            args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
            state = target._replace(**self._read(step, "state", args))
        else:
            state = self._read(step, "state", ocp.args.StandardRestore(target))
        found, finite = _digest_and_finite(state)
        _refuse("checksum of", [name for name, leaf in found.items() if leaf != saved[name]])
        _refuse("NaN or infinity in", [name for name, holds in finite.items() if not holds])
        return state

    def _read(self, step: int, item: str, args: Any) -> Any:
        """One item of a checkpoint."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # orbax raises all kinds for a damaged file, plain ones too
            raise CheckpointError((str(error) or repr(error)).splitlines()[0]) from error
