"""What all experiments share: options from dataclasses, run folders, errors at the door."""

import contextlib
import dataclasses
import datetime
import io
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")

#: Exit status of a refused option, file or folder, and of a run that a NaN stopped.
REFUSED, STOPPED = 2, 1


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn an error at the door into one line on standard error and exit status 2."""
    with _one_line((ValueError, OSError), REFUSED):
        yield


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Turn a NaN in a run into one line that names the step, and exit status 1."""
    from inf_former_jax.training.metrics import NonFiniteError

    with _one_line((NonFiniteError,), STOPPED):
        yield


@contextlib.contextmanager
def _one_line(kinds, status):
    try:
        yield
    except kinds as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(status) from None


def parse(
    program: str,
    description: str,
    presets: Mapping[str, tuple[str, Config]],
    default: str,
    argv: Sequence[str],
) -> tuple[str, Config]:
    """The preset's name, and its config with the options applied.

    `[PRESET] [--options]`; every field of the config is an option, `--help` after a preset lists
    them with the preset's values. Without a preset the default one is taken. What is not accepted
    becomes one line on standard error and exit status 2.
    """
    if argv and argv[0] in ("-h", "--help"):
        tyro.extras.overridable_config_cli(
            presets, prog=program, description=description, args=["--help"]
        )
    named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if named else default
    with refusals():
        if name not in presets:
            raise ValueError(f"preset: found {name}, accepted: {', '.join(presets)}")
    text, config = presets[name]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return name, tyro.cli(
                type(config), default=config, prog=f"{program} {name}", description=text,
                args=argv[1:] if named else argv, config=(tyro.conf.AvoidSubcommands,),
            )  # fmt: skip
    except SystemExit as error:
        if error.code:
            print(f"error: {_unboxed(said.getvalue())}", file=sys.stderr)
        raise


def _unboxed(message: str) -> str:
    """tyro's framed message as one line: option, found, accepted."""
    lines = [line.strip("│╭╰╮╯─ ") for line in message.splitlines()]
    text = " ".join(line for line in lines[1:] if line and not line.startswith("For full help"))
    return re.sub(r"^Error parsing (\S+): (\w+): found", r"\1.\2: found", text)


def to_json(value: Any) -> Any:
    """A config as JSON has it: nested dicts, lists and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`field: old → new` for every field in which two configs (as JSON) differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for name in sorted(old.keys() | new.keys()):
            rows += differences(old.get(name), new.get(name), f"{prefix}{name}.")
        return rows
    return [] if old == new else [f"{prefix[:-1]}: {json.dumps(old)} → {json.dumps(new)}"]


def open_run(folder: Path, config: Any) -> dict[str, Any] | None:
    """Make a run folder, or the finished result of one that holds the same config.

    Raises:
        ValueError: the folder holds a run of another config, or something that is no run.
    """
    path = folder / "config.json"
    new = to_json(config)
    if path.exists():
        rows = differences(json.loads(path.read_text()), new)
        if rows:
            raise ValueError(f"out: {folder} holds a run of another config: {'; '.join(rows)}")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"out: {folder} is not empty and holds no config.json, accepted: a run")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(new, indent=2) + "\n")
    result = folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None


def provenance(experiment: str, preset: str, argv: Sequence[str]) -> dict[str, Any]:
    """Command, commit, device, versions and date: what a figure is reported with."""
    import jax

    device = jax.devices()[0]
    return {
        "experiment": experiment,
        "preset": preset,
        "command": " ".join(["python", "-m", f"experiments.{experiment}", *argv]),
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

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")


def save_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `result.json`, whole or not at all."""
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    partial.rename(folder / "result.json")
