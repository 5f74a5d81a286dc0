"""A run folder: its config, its result, and what a figure is reported with."""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import dacite
import jax
import numpy as np
from jax.experimental import multihost_utils

from inf_former_jax.require import require

Config = TypeVar("Config")

#: Fields that say where a run is written, not what is run.
PLACE = ("out", "fresh")


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


def read_config(folder: Path) -> dict[str, Any]:
    """A run folder's config as JSON.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / "config.json"
    require(path.is_file(), str(folder), "no config.json", "a run folder")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: found damaged JSON ({error}), accepted: a config") from None
    require(isinstance(fields, dict), str(path), type(fields).__name__, "a config")
    return fields


def from_json(kind: type[Config], fields: Mapping[str, Any]) -> Config:
    """The config that `to_json` turned into these fields; PLACE has its defaults.

    Raises:
        ValueError: the fields are those of another kind of config, or of another version.
    """
    try:
        return dacite.from_dict(kind, dict(fields), dacite.Config(cast=[tuple], strict=True))
    except dacite.DaciteError as error:
        raise ValueError(f"config.json: {error}, accepted: a {kind.__name__}") from None


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


def open_run(folder: Path, config: Any) -> dict[str, Any] | None:
    """Make a run folder; the finished result of one that holds the same config, else None.

    Of several processes only the first one looks and writes; the others get {} for a result.

    Raises:
        ValueError: the folder holds a run of another config, or something that is no run, or it
            cannot be written.
    """
    result = None if jax.process_index() else _open(folder, config)
    if jax.process_count() == 1:
        return result
    finished = multihost_utils.broadcast_one_to_all(np.array(result is not None))
    return (result or {}) if finished else None


def _open(folder: Path, config: Any) -> dict[str, Any] | None:
    """`open_run`, in the first process."""
    new = to_json(config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        changed = differences(_completed(read_config(folder), type(config)), new)
        found = f"{folder} with a run of another config: {'; '.join(changed)}"
        require(not changed, "out", found, "the same config, another folder, or --fresh")
    make(folder)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", new)
    result = folder / "result.json"
    return json.loads(result.read_text(encoding="utf-8")) if result.exists() else None


def _completed(fields: dict[str, Any], kind: type) -> dict[str, Any]:
    """A config of an older version with the defaults of the fields that it did not have."""
    try:
        return to_json(from_json(kind, fields))
    except ValueError:
        return fields


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; of several processes only the first one."""
    if jax.process_index():
        return
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def provenance(experiment: str, preset: str, argv: Sequence[str]) -> dict[str, Any]:
    """Command, commit, device, versions and date: what a figure is reported with."""
    device = jax.devices()[0]
    return {
        "experiment": experiment,
        "preset": preset,
        "command": shlex.join(["python", "-m", f"experiments.{experiment}", *argv]),
        "commit": _commit(),
        "device": f"{jax.device_count()} × {device.device_kind} ({platform.machine()})",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "date": datetime.date.today().isoformat(),
    }


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
