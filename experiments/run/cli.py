"""The command line of all experiments: options from dataclasses, errors at the door."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

import inf_former_jax.contrib.pallas_read  # noqa: F401 (adds `LongTermConfig.read = "kernel"`)
from experiments.run import folders

Config = TypeVar("Config")

#: Exit statuses: a refused option, file or folder; a NaN stopped the run; a signal did.
REFUSED, STOPPED, INTERRUPTED = 2, 1, 3


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn an error at the door into one line on standard error and exit status 2."""
    with _one_line((ValueError, OSError), REFUSED):
        yield


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Turn what ends a run early into one line and an exit status: 1 after a NaN, 3 by a signal."""
    from inf_former_jax.training.checkpoint import CheckpointError
    from inf_former_jax.training.loop import Interrupted
    from inf_former_jax.training.metrics import NonFiniteError

    with (
        _one_line((NonFiniteError,), STOPPED),
        _one_line((Interrupted,), INTERRUPTED, "saved: the same command goes on from there"),
        _one_line((CheckpointError,), REFUSED),
    ):
        yield


@contextlib.contextmanager
def _one_line(kinds, status, advice=""):
    try:
        yield
    except kinds as error:
        print(f"error: {error}" + (f"; {advice}" if advice else ""), file=sys.stderr)
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
    return name, options(f"{program} {name}", text, config, argv[1:] if named else argv)


def options(program: str, description: str, config: Config, argv: Sequence[str]) -> Config:
    """The config with `--options` applied; what is not accepted is refused as `parse` does."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(config), default=config, prog=program, description=description, args=argv,
                config=(tyro.conf.AvoidSubcommands,),
            )  # fmt: skip
    except SystemExit as error:
        if error.code:
            print(f"error: {_unboxed(said.getvalue())}", file=sys.stderr)
        raise


def start(
    experiment: str,
    preset: str,
    argv: Sequence[str],
    cfg: Any,
    check: Callable[[Any], None],
    run: Callable[[Any, Path, dict[str, Any]], dict[str, Any]],
) -> tuple[Path, dict[str, Any]]:
    """(run folder, result): run an experiment, go on with a run, or say that it is finished.

    The folder is `cfg.out`, or runs/EXPERIMENT/PRESET-seed; with `cfg.fresh` the first free one of
    its numbered folders. What is refused, or ends the run early, becomes one line on standard error
    and an exit status (README).

    Args:
        argv: for the provenance of the result.
        check: raises ValueError for a config that cannot be run, before anything is written.
        run: (config, folder, provenance) → result.
    """
    folder = Path(cfg.out or f"runs/{experiment}/{preset}-{cfg.seed}")
    with refusals():
        if cfg.distributed:
            jax.distributed.initialize()
        check(cfg)
        folder = folders.numbered(folder) if cfg.fresh else folder
        result = folders.open_run(folder, cfg)
    if result is None:
        with stops():
            result = run(cfg, folder, folders.provenance(experiment, preset, argv))
    else:
        print(f"{folder} holds the finished run; --fresh for another one")
    return folder, result


def _unboxed(message: str) -> str:
    """tyro's framed message as one line: option, found, accepted."""
    lines = [line.strip("│|╭╰╮╯+─ ") for line in message.splitlines()]
    rule = re.compile("-*$|For full help")  # what a terminal without UTF-8 has for a line
    text = " ".join(line for line in lines[1:] if not rule.match(line))
    return re.sub(r"^Error parsing (\S+): (\w+): found", r"\1.\2: found", text)
