"""A run folder: its config, its result, and what a figure is reported with."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import dacite
import jax
import numpy as np
from jax.experimental import multihost_utils

from inf_former_jax import files
from inf_former_jax.require import require
from inf_former_jax.training.metrics import read_rows

Config = TypeVar("Config")

#: Fields that say where a run is written, not what is run.
PLACE = ("out", "fresh", "any_size")

#: Fields, with all inside them, that may change when a run goes on: no update depends on them, but
#: for the order in which a mesh adds numbers up.
CHANGEABLE = (
    "loop",
    "checkpoint",
    "mesh_model",
    "mesh_fsdp",
    "devices",
    "keep_programs",
    "tensorboard",
    "distributed",
    "hosts",
)

#: The file whose lock the process has that a run folder belongs to.
LOCK = "lock"


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON has it: nested dicts, lists and numbers, without PLACE."""
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: value for name, value in fields.items() if name not in PLACE}


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`field: old → new` for every field in which two configs (as JSON) differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for name in sorted(old.keys() | new.keys()):
            rows += differences(old.get(name), new.get(name), f"{prefix}{name}.")
        return rows
    return [] if old == new else [f"{prefix[:-1]}: {json.dumps(old)} → {json.dumps(new)}"]


def check_free(file: Path, config: Any) -> None:
    """Refuse to write over a result whose settings are another config's.

    Options that an older version had not are defaults.

    Raises:
        ValueError: there is one.
    """
    if file.is_file():
        then = files.read_json(file).get("settings", {})
        with contextlib.suppress(ValueError):  # of another kind of config, which differs anyway
            then = to_json(from_json(type(config), then, file))
        others = differences(then, to_json(config))
        found = f"{file} of other settings, {', '.join(others)}"
        require(not others, "out", found, "another folder")


def read_config(folder: Path) -> dict[str, Any]:
    """A run folder's config as JSON.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return {name: value for name, value in _read_config(folder).items() if name != "changes"}


def devices_before(folder: Path) -> int:
    """How many devices the run of a folder has; 0 = it is not known, or there is none yet.

    Runs of older versions had one, if nobody asked for more.
    """
    if not (folder / "config.json").is_file():
        return 0
    count = _read_config(folder).get("devices", 1)
    return count if isinstance(count, int) else 0  # `open_run` refuses what is no number


def changes(folder: Path) -> list[str]:
    """`field: old → new` of what was changed when the run went on, oldest first."""
    return _read_config(folder).get("changes", [])


def _read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json: the config's fields, and "changes" if there are any."""
    try:
        fields = files.read_json(folder / "config.json", "a config")
    except FileNotFoundError:
        raise ValueError(f"{folder}: found no config.json, accepted: a run folder") from None
    noted = fields.get("changes", [])
    holds = isinstance(noted, list) and all(isinstance(change, str) for change in noted)
    require(holds, f"{folder / 'config.json'}: changes", repr(noted), "a list of texts")
    return fields


def from_json(
    kind: type[Config], fields: Mapping[str, Any], path: str | Path = "config.json"
) -> Config:
    """The config that `to_json` turned into these fields; PLACE has its defaults.

    Args:
        path: where the fields come from, for errors.

    Raises:
        ValueError: the fields are those of another kind of config, or of another version.
    """
    try:
        return dacite.from_dict(kind, dict(fields), dacite.Config(cast=[tuple], strict=True))
    except dacite.UnexpectedDataError as error:
        names = textwrap.shorten(", ".join(sorted(error.keys)), 60, placeholder=" …")
        found = f"a config of another experiment or version ({names})"
    except (dacite.DaciteError, TypeError) as error:
        found = textwrap.shorten(str(error), 200, placeholder=" …")
    except ValueError as error:  # a value that its field forbids
        raise ValueError(f"{path}: {error}") from None
    raise ValueError(f"{path}: found {found}, accepted: a {kind.__name__}")


def numbered(folder: Path) -> Path:
    """The folder itself if it is free, else the first free one of folder-2, folder-3, …"""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def make(folder: str | Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        ValueError: it cannot be made or written.
    """
    folder = Path(folder)
    accepted = "a folder that can be made and written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: found {folder} ({error.strerror}), accepted: {accepted}") from None
    require(os.access(folder, os.W_OK | os.X_OK), "out", f"{folder} (not writable)", accepted)
    return folder


@contextlib.contextmanager
def open_run(folder: Path, config: Any) -> Iterator[dict[str, Any] | None]:
    """Make a run folder, which belongs to this process until the block ends.

    Fields in CHANGEABLE may differ from the folder's config, which then becomes the new one.
    `optim.skip_nonfinite` may grow, and so may `optim.steps` if the learning rate is constant. If
    the run was over and has more to do by the new config, its result is kept under another name.

    Of several processes only the first one looks and writes; the others get {} for a result.

    Yields:
        The finished result of a run of this config, or None.

    Raises:
        ValueError: the folder holds a run of another config, a damaged file, or something that is
            no run; another process has it; or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        result = None if jax.process_index() else _open(folder, config, held)
        if jax.process_count() > 1:
            over = multihost_utils.broadcast_one_to_all(np.array(result is not None))
            result = (result or {}) if over else None
        yield result


def _open(folder: Path, config: Any, held: contextlib.ExitStack) -> dict[str, Any] | None:
    """`open_run`, in the first process; `held` keeps the lock."""
    is_folder = folder.is_dir() or not folder.exists()
    require(is_folder, "out", f"{folder}, which is a file", "a folder")
    if folder.exists() and any(map(_counts, folder.iterdir())):
        _changes_of(folder, config)  # refused before any file of the folder is touched
    held.enter_context(_locked(make(folder)))
    new = to_json(config)
    if not any(map(_counts, folder.iterdir())):
        write_json(folder / "config.json", new)
        return None
    changed = _changes_of(folder, config)
    read_rows(folder / "metrics.jsonl")
    result = read_result(folder)
    if result is not None:
        _changes(result["settings"], config, f"{folder} with the result", folder / "result.json")
        if changed and _has_more_to_do(result, new):
            (folder / "result.json").replace(folder / f"result-{result['steps']}.json")
            result = None
    if changed:
        noted = [*changes(folder), *changed]
        write_json(folder / "config.json", new | {"changes": noted})
    return result


def _counts(path: Path) -> bool:
    """Whether a file makes its folder more than an empty one; a kill leaves those that do not."""
    return path.name != LOCK and ".partial" not in path.name


def _changes_of(folder: Path, config: Any) -> list[str]:
    """What a config changes of a run's; ValueError if some of it must stay."""
    fields, saved = read_config(folder), folder / "checkpoints"
    is_folder = saved.is_dir() or not os.path.lexists(saved)
    require(is_folder, str(saved), "no folder", "a folder; delete it, and the run begins anew")
    return _changes(fields, config, f"{folder} with a run", folder / "config.json")


def check_step(fields: Mapping[str, Any], config: Any, step: Path) -> None:
    """Refuse a checkpoint of another config than the run's, but for what may change.

    Args:
        fields: the config that the checkpoint was saved with, as JSON.
        step: its folder.

    Raises:
        ValueError: naming the fields that differ.
    """
    _changes(dict(fields), config, f"{step} with a checkpoint", step)


def _changes(fields: dict[str, Any], config: Any, what: str, path: Path) -> list[str]:
    """What a config changes of these fields; those that an older version had not are defaults."""
    for part in ("loop", "checkpoint"):  # of every version, and their changes are accepted
        require(part in fields, f"{path}: {part}", "nothing", "a part of every config")
    old, new = to_json(from_json(type(config), fields, path)), to_json(config)
    if not (old.get("devices") and new.get("devices")):  # 0 says nothing
        old, new = ({**side, "devices": 0} for side in (old, new))
    changed = differences(old, new)
    fixed = [change for change in changed if not _may_change(change.split(": ")[0], old, new)]
    more = f" and {len(fixed) - 5} more" if fixed[5:] else ""
    found = f"{what} of another config: {'; '.join(fixed[:5])}{more}"
    require(not fixed, "out", found, "the same config, another folder, or --fresh")
    return changed


def _may_change(field: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if field == "optim.steps":  # every other schedule depends on it from the first update on
        constant = new["optim"]["schedule"] == "constant"
        return constant and new["optim"]["steps"] > old["optim"]["steps"]
    if field == "optim.skip_nonfinite":  # every update so far was finite, or left out
        return new["optim"]["skip_nonfinite"] > old["optim"].get("skip_nonfinite", 0)
    return field.split(".")[0] in CHANGEABLE


def _has_more_to_do(result: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a run that was over goes on by its new config."""
    limit = 60 * new["loop"]["minutes"]
    in_time = not limit or result["training_seconds"] < limit
    return in_time and result["steps"] < new["optim"]["steps"]


@contextlib.contextmanager
def unused(folder: Path) -> Iterator[str]:
    """Keep runs out of a run folder until the block ends, and write nothing.

    Where there is no lock file, or the file system has no locks, nobody is kept out.

    Yields:
        Which process has the folder; "" = none.
    """
    with contextlib.ExitStack() as held:
        holder = ""
        with contextlib.suppress(FileNotFoundError), files.reading(folder / LOCK):
            file = held.enter_context(open(folder / LOCK, encoding="utf-8", errors="replace"))
            holder = _holder(file)
        yield holder


def _holder(file: IO[str]) -> str:
    """Take a file's lock, or say which process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200)
        return holder if holder and holder.isprintable() else "unknown"
    except OSError:
        pass
    return ""


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock. The system takes it back when the process ends, however it ends.

    Where the file system has no locks, nobody is kept out.
    """
    path = folder / LOCK
    with files.reading(path, "a file that can be written"):
        file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
    with file:
        holder = _holder(file)
        found = f"{folder}, which is in use by process {holder}"
        require(not holder, "out", found, "another folder, or --fresh")
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; of several processes only the first one."""
    if not jax.process_index():
        files.write_json(path, content)


def write_result(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a run's result.json, with a digest by which `read_result` knows it."""
    write_json(folder / "result.json", {**content, "digest": _digest(content)})


def read_result(folder: Path) -> dict[str, Any] | None:
    """A run folder's result, or None if there is none yet.

    Raises:
        ValueError: it is damaged.
    """
    path, accepted = folder / "result.json", "a result; delete the file, and the run makes it again"
    try:
        result = files.read_json(path, accepted)
    except FileNotFoundError:
        return None
    digest = result.pop("digest", None)
    old = digest is None and "changes" not in result  # version 0.2 wrote neither
    kinds_hold = all(isinstance(result.get(name), kind) for name, kind in _OF_EVERY_RESULT.items())
    whole = kinds_hold if old else digest == _digest(result)
    require(whole, str(path), "other figures than were written", accepted)
    return result


def preset_of(folder: Path) -> str:
    """The preset of a finished run; of any other folder, a published model's too, its name."""
    with contextlib.suppress(ValueError):  # a damaged result is no reason not to read a model
        if result := read_result(folder):
            return result.get("preset", folder.name)
    return folder.name


#: What a run writes whatever its task, by which a result of version 0.2 is known.
_OF_EVERY_RESULT: dict[str, Any] = {
    "settings": dict,
    "steps": int,
    "curve": list,
    "training_seconds": int | float,
    "test": dict,
    "seconds_until": dict,
}


def _digest(content: Mapping[str, Any]) -> int:
    return zlib.crc32(files.json_text(content).encode())


def provenance(
    experiment: str, preset: str, argv: Sequence[str], program: str = ""
) -> dict[str, Any]:
    """Command, commit, device, versions and date: what a figure is reported with.

    Args:
        argv: arguments of the command.
        program: the package whose command it was; "" = the experiment's.
    """
    device = jax.devices()[0]
    return {
        "experiment": experiment,
        "preset": preset,
        "command": shlex.join(["python", "-m", f"experiments.{program or experiment}", *argv]),
        "commit": _commit(),
        "device": f"{jax.device_count()} × {device.device_kind} ({platform.machine()})",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _VERSIONS},
        "date": datetime.date.today().isoformat(),
    }


#: Packages that figures may depend on.
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def _commit() -> str:
    def git(*arguments):
        where = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    except OSError:  # no git on this machine
        return "unknown"
    return commit + ("+changes" if changed else "")
