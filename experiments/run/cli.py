"""The command line of all experiments: options from dataclasses, errors at the door."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import jax

import inf_former_jax.contrib.fused_attention
import inf_former_jax.contrib.pallas_read  # noqa: F401 (both add options of the models)
from experiments.run import devices, folders, hosts, process, training
from experiments.run.experiment import Config, Experiment
from experiments.run.options import HELP, HELP_ALL, Options, applied, help_text
from experiments.run.stopping import INTERRUPTED
from inf_former_jax.files import printable
from inf_former_jax.generate import NonFiniteState
from inf_former_jax.require import require
from inf_former_jax.training.checkpoint import CheckpointError
from inf_former_jax.training.loop import Interrupted
from inf_former_jax.training.metrics import NonFiniteError

#: Exit statuses (docs/how_to/runs.md): a refused option, file or folder; a NaN stopped the run; a
#: signal did; a file could not be written, or not be read any more. `peers.GONE` is 5.
REFUSED, STOPPED, NO_FILE = 2, 1, 4
_STATUSES = (
    "exit status: 0 done, 1 a NaN stopped the run, 2 something is refused, 3 a signal came, "
    "4 a file cannot be written,\n5 another host is gone\n"
    "compiled programs are kept in ~/.cache/inf_former_jax; JAX_COMPILATION_CACHE_DIR is another "
    "folder,\nand with --no-keep-programs or JAX_ENABLE_COMPILATION_CACHE=false nothing is kept"
)

_SAVED = "saved: the same command goes on from there"
_KEPT = "the same command goes on from the last good checkpoint"


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn an error at the door into one line on standard error and exit status 2.

    A full disk has status 4, and a NaN in what is written status 1.
    """
    with (
        _one_line(ValueError, OSError, status=REFUSED),
        _one_line(NonFiniteState, status=STOPPED),
        _one_line_if_full(),
    ):
        yield


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Turn what ends a run early into one line and an exit status.

    1 after a NaN, 2 by a checkpoint that is refused, 3 by a signal, 4 by a file that cannot be
    written, such as on a full disk.
    """
    with (
        _one_line(NonFiniteError, NonFiniteState, status=STOPPED, on_all=True),
        _one_line(Interrupted, status=INTERRUPTED, advice=_SAVED, on_all=True),
        _one_line(CheckpointError, status=REFUSED),
        _one_line(OSError, status=NO_FILE, advice=_KEPT),
        _one_line_if_full(),
    ):
        yield


@contextlib.contextmanager
def _one_line(
    *kinds: type[Exception], status: int, advice: str = "", on_all: bool = False
) -> Iterator[None]:
    """Turn errors of these kinds into one line and an exit status.

    Args:
        advice: what follows the error's own words.
        on_all: whether of several hosts all end by this error.
    """
    try:
        yield
    except kinds as error:
        if on_all:
            hosts.goodbye()
        _end(str(error), status, advice)


@contextlib.contextmanager
def _one_line_if_full() -> Iterator[None]:
    """A full disk, whatever kind of error orbax or another library makes of it."""
    try:
        yield
    except Exception as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
            causes.append(cause)
        full = next((word for cause in causes for word in _FULL if word in str(cause)), None)
        if full is None:
            raise
        _end(full.lower(), NO_FILE, _KEPT)


#: What the system says of a full disk, of a user's share of it that is used up, and of a file that
#: is longer than the user's may be.
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _end(message: str, status: int, advice: str) -> NoReturn:
    print(printable(f"error: {message}" + (f"; {advice}" if advice else "")), file=sys.stderr)
    hosts.end(status)
    raise SystemExit(status) from None


def main(
    experiment: Experiment,
    description: str | None,
    argv: Sequence[str] | None,
    commands: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType({}),
) -> None:
    """The command line of an experiment: `[PRESET] [--options]`, or one of its other commands.

    It runs the preset, goes on with its run, or finds it finished; then it reports. The run folder
    is `out`, or runs/EXPERIMENT/PRESET-seed; with `fresh` the first free one of its numbered
    folders.

    Args:
        description: what `--help` says.
        argv: None = the program's own.
        commands: name → the command line of what else there is.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    preset, cfg = parse(experiment, description, argv)
    folder = Path(cfg.out or f"runs/{experiment.name}/{preset}-{cfg.seed}")
    with refusals():
        hosts.check(cfg.hosts, cfg.distributed)
        if cfg.distributed:
            hosts.join(cfg.hosts)
        folder = folders.numbered(folder) if cfg.fresh else folder
    with hosts.watched():
        result, finished = start(experiment, preset, cfg, folder, argv)
    if finished:
        print(f"{folder} holds the finished run; --fresh for another one")
    if not jax.process_index():
        with stops():
            experiment.report(preset, folder, result)
    hosts.goodbye()


def command(
    text: str | None, names: Sequence[str], argv: Sequence[str] | None
) -> tuple[str, list[str]] | None:
    """(name, its arguments) of a line `COMMAND [--options]`; None if it asks for help, now printed.

    Another command ends the process with status 2.

    Args:
        text: what `--help` prints.
        names: the commands that there are.
        argv: None = the process's.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "none"
    if name in ("-h", "--help"):
        return print(text)
    with refusals():
        require(name in names, "command", name, ", ".join(names))
    return name, argv[1:]


def parse(
    experiment: Experiment[Config], description: str | None, argv: Sequence[str]
) -> tuple[str, Config]:
    """The preset's name, and its config with the options applied.

    Every field of the config is an option; `--help` after a preset lists them with the preset's
    values. Without a preset the default one is taken. What is not accepted becomes one line on
    standard error and exit status 2.
    """
    program, presets = f"python -m experiments.{experiment.name}", experiment.presets
    if argv and argv[0] in (*HELP, HELP_ALL):
        print(f"usage: {program} [PRESET] [--options]\n\n{description or ''}")
        print(f"presets; without one it is {experiment.default}; PRESET --help shows its options")
        for name, (text, _) in presets.items():
            print(f"  {name:<24} {text}")
        print(f"\n{_STATUSES}")
        raise SystemExit(0)
    named = bool(argv) and not argv[0].startswith("-")
    preset = argv[0] if named else experiment.default
    with refusals():
        require(preset in presets, "preset", preset, ", ".join(presets))
        text, config = presets[preset]
        cfg = options(f"{program} {preset}", text, config, argv[1:] if named else argv)
        if not cfg.keep_programs:
            jax.config.update("jax_enable_compilation_cache", False)
        if not cfg.distributed:
            devices.offer(cfg.devices)
        return preset, experiment.complete(cfg)


def options(program: str, description: str | None, config: Options, argv: Sequence[str]) -> Options:
    """The config with `--options` applied; what is not accepted is refused as `parse` does."""
    process.imported()
    asked = {*argv} & {*HELP, HELP_ALL}
    if asked:
        print(help_text(program, description, config, HELP_ALL in asked))
        raise SystemExit(0)
    with refusals():
        return applied(config, argv)


def start(
    experiment: Experiment[Config],
    preset: str,
    cfg: Config,
    folder: Path,
    argv: Sequence[str],
    program: str = "",
) -> tuple[Mapping[str, Any], bool]:
    """(result, whether it was there): run a config in a folder, or go on with its run.

    What is refused, or ends the run early, becomes one line on standard error and an exit status.

    Args:
        preset, argv, program: for the provenance of the result (`folders.provenance`).
    """
    with contextlib.ExitStack() as held:
        with refusals():
            cfg, note = devices.settled(cfg, folders.devices_before(folder))
            room = training.check_room(experiment, cfg)
            experiment.check(cfg)
            result = held.enter_context(folders.open_run(folder, cfg))
        if result is not None:
            return result, True
        provenance = folders.provenance(experiment.name, preset, argv, program)
        if not jax.process_index():
            print(*filter(None, (note, room)), sep="\n", flush=True)
        with stops():
            return training.run(experiment, cfg, folder, provenance), False
