"""What a folder of checkpoints holds: which steps are whole, which are damaged, and by which file.

Nothing is compiled, no device but the CPU is used, and nothing needs to be known of the model. The
hashes of `training.digests` are formed by threads of the host.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from inf_former_jax import files
from inf_former_jax.training.checkpoint import (
    UNFINISHED,
    CheckpointError,
    about,
    leaves_of,
    set_aside,
)
from inf_former_jax.training.digests import differing_files, differing_leaves
from inf_former_jax.training.packing import is_packed, on_host

#: A step, one that was set aside as damaged, and one whose save was not finished.
_NAME = re.compile(rf"(?P<step>\d+)(?P<unfinished>{re.escape(UNFINISHED)}.*)?|damaged-(\d+)\+*")


class Step(NamedTuple):
    """A checkpoint, or what is left of one.

    Attributes:
        folder: where it is.
        step: updates that it has behind it.
        size: bytes of its files.
        saved: seconds since 1970 when it was finished; None if that is not known.
        health: "verified" is what a run would go on from. An "unfinished" save may be one that goes
            on now. What a run has "set aside" was damaged when it was to be restored.
        wrong: what is wrong with it, the files first; empty if it is verified.
        about: what it says that it is of, with its "metrics".
    """

    folder: Path
    step: int
    size: int
    saved: float | None
    health: Literal["verified", "damaged", "unfinished", "set aside"]
    wrong: Sequence[str]
    about: Mapping[str, Any]


def look(folder: Path) -> list[Step]:
    """The steps of a folder of checkpoints, oldest first. Every byte of them is read.

    One that a run removes while it is read is left out.

    Raises:
        OSError: the system refuses to read a file, which is no damage of it.
    """
    steps = []
    for path in folder.absolute().iterdir():  # orbax reads no metadata at a relative path
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                step = _step(path, match)
                path.stat()  # which fails if it was removed meanwhile
                steps.append(step)
    return sorted(steps, key=lambda step: (step.step, step.folder.name))


def remove(steps: Sequence[Step]) -> None:
    """Delete the folders of steps; a finished one is first set aside, so that a kill leaves none.

    Raises:
        OSError: the system refuses it.
    """
    for step in steps:
        folder = step.folder
        if folder.name == str(step.step):
            folder = set_aside(folder.parent, step.step)
        shutil.rmtree(folder)


def _step(folder: Path, match: re.Match[str]) -> Step:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    described, wrong = {}, []
    if match["unfinished"]:
        health = "unfinished"
    elif match["step"] is None:
        health = "set aside"
    else:
        _require_readable(folder)
        wrong = _wrong(folder)
        health = "damaged" if wrong else "verified"
        described = _about(folder)
    saved = _saved(folder)
    return Step(folder, int(match["step"] or match[3]), sum(sizes), saved, health, wrong, described)


def _require_readable(folder: Path) -> None:
    """Raise OSError for a file that may not be read: it is not damaged."""
    for path in folder.rglob("*"):
        if path.is_file() and not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _about(folder: Path) -> dict[str, Any]:
    try:
        return about(folder)
    except CheckpointError:
        return {}


def _saved(folder: Path) -> float | None:
    """When orbax finished a checkpoint."""
    try:
        nanoseconds = files.read_json(folder / "_CHECKPOINT_METADATA").get("commit_timestamp_nsecs")
    except (ValueError, FileNotFoundError):
        return None
    return nanoseconds / 1e9 if isinstance(nanoseconds, int) else None


def _wrong(folder: Path) -> list[str]:
    """What is wrong with a finished checkpoint: its files, or else its arrays."""
    try:
        files.read_json(folder / "_CHECKPOINT_METADATA", "what orbax wrote")
        if wrong := differing_files(folder):
            return wrong
        saved = leaves_of(files.read_json(folder / "digest" / "metadata", "a digest"))
        if is_packed(folder):
            return differing_leaves(on_host(_arrays(folder / "packed"), saved), saved)
        return differing_leaves(_arrays(folder / "state"), saved)
    except LookupError as error:
        return [f"packed: found no array {error}"]
    except (ValueError, FileNotFoundError) as error:  # a CheckpointError is a ValueError
        return [str(error).removeprefix(f"{folder}/")]


def _arrays(folder: Path) -> Any:
    """What a folder of arrays holds, as NumPy arrays; keys are their data."""
    absl = logging.getLogger("absl")
    absl.addFilter(_not_of_orbax)
    try:
        with warnings.catch_warnings(), ocp.PyTreeCheckpointer() as reader:
            warnings.simplefilter("ignore")
            tree = reader.metadata(folder).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(tree))
            return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=how))
    except (MemoryError, OSError):
        raise  # of this machine, which says nothing of the file, but for one that is missing
    except Exception as error:  # orbax raises all kinds for a damaged file
        raise CheckpointError((str(error) or repr(error)).splitlines()[0]) from None
    finally:
        absl.removeFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """What orbax logs it raises too, or it is no news."""
    return "orbax" not in record.pathname
