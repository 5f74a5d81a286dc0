"""Checkpoints of the whole train state: asynchronous, atomic, verified.

How a checkpoint is verified: `Checkpoints.save` writes a `digest` beside the state, which is the
dtype, shape and hash of every leaf, with a checksum of all that. `Checkpoints.restore` forms the
digest of what it has read and compares the two. A checkpoint that differs, cannot be read, or holds
a NaN or an infinity is damaged: a warning names it, the one before it is taken, and its folder gets
the name `damaged-STEP`, so that the run can save its step again. `training.saved_steps` tells which
file is damaged, by a list of the files with their digests.

orbax writes asynchronously and atomically, but restores flipped bytes, and arrays of another dtype,
without a word. The digest is formed on the device before the state is donated.
"""

import dataclasses
import functools
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from inf_former_jax import files
from inf_former_jax.fields import Checked, Count, NonNegative
from inf_former_jax.training.digests import (
    content_of,
    digest,
    digest_and_finite,
    dtypes_and_shapes,
    with_checksum,
    write_list,
)
from inf_former_jax.training.packing import is_packed, pack, unpack

#: What the name of a folder holds that orbax has not finished.
UNFINISHED = ".orbax-checkpoint-tmp"

#: Seconds that a save may take: a hundred years. orbax goes by a clock that may be set, and a save
#: in whose midst it was set to a later date would have taken too long. So a save whose disk hangs
#: is waited for without end.
_EVER = 3_155_760_000

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Checked):
    """How often the train state is saved, and what is kept.

    No update depends on it, so all of it may change when a run goes on.

    Raises:
        ValueError: on construction, for a count below 1 or negative minutes.
    """

    every: Count = 200
    """Updates between checkpoints; the last update is always saved."""
    minutes: NonNegative = 0.0
    """Save also when this many minutes have passed since the last checkpoint; 0 = go by updates
    only. On several hosts this is asked when a row is due, and the first one's clock decides."""
    keep: Count = 2
    """Newest checkpoints that are kept, beside the best one."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that belongs to another run."""


class OtherRunError(CheckpointError):
    """A whole checkpoint that belongs to another run."""


class ArchitectureError(OtherRunError):
    """A checkpoint of a model with other leaves."""


def leaves_of(saved: Any) -> dict[str, list]:
    """The digest that was saved beside a state.

    Raises:
        CheckpointError: it is damaged itself.
    """
    leaves = content_of("leaves", saved)
    if leaves is not None:
        return leaves
    fields = saved if isinstance(saved, dict) else {}
    forms = [[type(part) for part in leaf] for leaf in fields.values() if isinstance(leaf, list)]
    if not forms or len(forms) < len(fields) or any(form != [str, list, int] for form in forms):
        raise CheckpointError("checksum of the digest")
    return fields  # of version 0.2, which wrote no checksum


def about(folder: Path) -> dict[str, Any]:
    """What a checkpoint's folder says that it is of, with its "metrics"; {} of version 0.2.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / "about" / "metadata"
    if not path.parent.exists():
        return {}
    try:
        content = content_of("about", files.read_json(path))
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(str(error)) from None
    if content is None:
        raise CheckpointError(f"{path}: found other words than were written")
    return content


def set_aside(folder: Path, step: int) -> Path:
    """Rename a step of a folder of checkpoints to `damaged-STEP`, where no run looks for it."""
    names = (f"damaged-{step}" + "+" * again for again in itertools.count())
    free = next(name for name in names if not (folder / name).exists())
    return (folder / str(step)).rename(folder / free)


def _require_architecture(saved: dict[str, list], target: Any, whole: bool) -> None:
    """Refuse a digest whose leaves are not those of the target, naming the first.

    If the target is not the whole state, the digest may have more leaves.
    """
    accepted = dtypes_and_shapes(target)
    for name in sorted(accepted.keys() | (saved.keys() if whole else set())):
        found, wanted = saved.get(name, [None])[:2], accepted.get(name)
        if found != wanted:
            raise ArchitectureError(
                f"checkpoint of another architecture: {name}: found {found}, accepted: {wanted}"
            )


def _refuse(what: str, leaves: Sequence[str]) -> None:
    if leaves:
        raise CheckpointError(f"{what} {leaves[0]}" + (" and others" if leaves[1:] else ""))


class _Best(policies.PreservationPolicy):
    """Keeps the checkpoint with the largest figure. It stays the best when a stopped run goes on.

    orbax's own policy knows the figures of one process only. A checkpoint without metrics is no
    candidate, and one whose metrics are damaged is the worst there is.
    """

    def __init__(self, best: Callable[[dict[str, float]], float]):
        self._best, self._figures = best, dict[int, float]()

    def add(self, step: int, metrics: Any) -> None:
        """Note the figure of a step."""
        if metrics == {}:
            return
        try:
            self._figures[step] = float(self._best(metrics))
        except (KeyError, TypeError, ValueError):
            self._figures[step] = -math.inf

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Of these checkpoints, which orbax has oldest first, whether each one is the best."""
        known = [info.step for info in checkpoints if info.step in self._figures]
        best = max(known, key=lambda step: (self._figures[step], step), default=None)
        return [info.step == best for info in checkpoints]


class Checkpoints:
    """The checkpoints of one run folder. A context manager; closing waits for what is written.

    Args:
        folder: made if needed; it has one sub-folder for each step.
        best: metrics → number; the checkpoint with the largest number is kept too.
        about: what the checkpoints are of, as JSON has it; saved with each.
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
        about: Mapping[str, Any] | None = None,
    ):
        self.every, self.seconds, self._read_only = cfg.every, 0.0, read_only
        self._about, self._writing = dict(about or {}), 0
        self._most, self._last = 60 * cfg.minutes, time.monotonic()
        self._best = None if best is None else _Best(best)
        keep = [policies.LatestN(cfg.keep), *filter(None, [self._best])]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._list_files,
                timeout_secs=_EVER,
                # Otherwise threads wait for a folder that could not be made: the run does not end.
                create_directories_asynchronously=False,
            ),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self._folder = Path(folder).absolute()
        logging.getLogger("absl").addFilter(self._not_of_orbax)
        self._ignored = sys.unraisablehook
        sys.unraisablehook = self._quiet = self._without_closed_loops
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:  # orbax raises all kinds for a damaged file
            self._listen()
            found = f"what cannot be read ({error})"
            raise CheckpointError(f"{folder}: found {found}, accepted: checkpoints") from None
        if self._best is not None:
            for step in self.steps():
                self._best.add(step, self._metrics_of(step))

    def _metrics_of(self, step: int) -> Any:
        """The metrics that a step was saved with; None if they are damaged."""
        try:
            return about(self._folder / str(step)).get("metrics", {})
        except CheckpointError:
            return None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._manager.close()
        finally:
            self._listen()

    def _listen(self) -> None:
        """Let orbax and tensorstore say what they would say without this."""
        logging.getLogger("absl").removeFilter(self._not_of_orbax)
        if sys.unraisablehook is self._quiet:
            sys.unraisablehook = self._ignored

    def _not_of_orbax(self, record: logging.LogRecord) -> bool:
        """What orbax logs, with tracebacks, it raises too; or it is no news."""
        return "orbax" not in record.pathname

    def _without_closed_loops(self, unraisable: Any) -> None:
        """Drop what tensorstore prints, hundreds of times, of arrays that nobody waits for.

        Once an array of a damaged checkpoint cannot be read, orbax gives up the others.
        """
        if str(unraisable.exc_value) != "Event loop is closed":
            self._ignored(unraisable)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Start writing a state and its digest; the state may be donated when this returns."""
        if step in self._manager.all_steps():
            return
        begun = time.perf_counter()
        # As it will be read: a figure that is not finite is null.
        described = json.loads(files.json_text({**self._about, "metrics": metrics or {}}))
        items = ocp.args.Composite(
            packed=ocp.args.PyTreeSave(pack(state)),
            digest=ocp.args.JsonSave(with_checksum("leaves", digest(state))),
            about=ocp.args.JsonSave(with_checksum("about", described)),
        )
        self._manager.wait_until_finished()  # so that one step at a time is being written
        self._writing, self._last = step, time.monotonic()
        if self._best is not None:
            self._best.add(step, described["metrics"])
        self._manager.save(step, args=items)
        self.seconds += time.perf_counter() - begun

    def overdue(self) -> bool:
        """Whether more minutes have passed since the last save than the config wants."""
        return bool(self._most) and time.monotonic() - self._last > self._most

    def _list_files(self) -> None:
        """Write the list of the files of the step that is being written, before it is finished.

        orbax calls this in the thread that writes. Of several processes the first one does it.
        """
        if not jax.process_index():
            (folder,) = self._folder.glob(f"{self._writing}{UNFINISHED}*")
            write_list(folder)

    def steps(self) -> list[int]:
        """Steps that are on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Return when everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(
        self,
        target: Any,
        parts: Sequence[str] = (),
        accept: Callable[[Path, dict[str, Any]], None] | None = None,
    ) -> Any | None:
        """The newest state that is whole and finite, or None if nothing was saved.

        A damaged checkpoint is named in a warning, and the one before it is taken. The damaged one
        is then renamed, unless the folder is only read.

        Args:
            target: tree of `jax.ShapeDtypeStruct`s with shardings (or of arrays) like the state.
            parts: if given, the only fields of the target, a NamedTuple, that are read and
                verified; the others come back as None.
            accept: raises ValueError for a checkpoint of another run, from its folder and what it
                says that it is of; not asked of version 0.2, which said nothing.

        Raises:
            CheckpointError: the checkpoint is of another architecture or run, or none is whole.
        """
        steps, damaged = self.steps(), []
        for step in reversed(steps):
            try:
                self._require_accepted(step, accept)
                state = self._restore_verified(step, target, parts)
            except OtherRunError:
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
                aside = set_aside(self._folder, step)
                log.warning("checkpoint of step %d is kept as %s", step, aside.name)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._manager.reload()

    def _require_accepted(
        self, step: int, accept: Callable[[Path, dict[str, Any]], None] | None
    ) -> None:
        folder = self._folder / str(step)
        if accept is not None and (described := about(folder)):
            try:
                accept(folder, described)
            except ValueError as error:
                raise OtherRunError(str(error)) from None

    def _restore_verified(self, step: int, target: Any, parts: Sequence[str]) -> Any:
        """The state of a step; CheckpointError unless it is the one that was saved, and finite."""
        if parts:
            others = [name for name in target._fields if name not in parts]
            target = target._replace(**dict.fromkeys(others))
        saved = leaves_of(self._read(step, "digest", ocp.args.JsonRestore()))
        _require_architecture(saved, target, whole=not parts)
        if is_packed(self._folder / str(step)):
            try:
                state = unpack(functools.partial(self._arrays, step, "packed"), target, saved)
            except (ValueError, LookupError) as error:  # a CheckpointError is a ValueError
                raise CheckpointError(str(error)) from None
        else:
            how = ocp.checkpoint_utils.construct_restore_args(target)
            state = self._arrays(step, "state", target, how)
        found, finite = digest_and_finite(state)
        _refuse("checksum of", [name for name, leaf in found.items() if leaf != saved[name]])
        _refuse("NaN or infinity in", [name for name, holds in finite.items() if not holds])
        return state

    def _arrays(self, step: int, item: str, wanted: Any, how: Any) -> Any:
        """Some of the arrays of an item."""
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        return self._read(step, item, args)

    def _read(self, step: int, item: str, args: Any) -> Any:
        """One item of a checkpoint."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # orbax raises all kinds for a damaged file, plain ones too
            raise CheckpointError((str(error) or repr(error)).splitlines()[0]) from error
