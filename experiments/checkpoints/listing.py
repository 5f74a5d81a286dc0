"""The table of a run's checkpoints, and the removal of those that are worth nothing."""

import contextlib
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.run import cli, folders, room, tables
from inf_former_jax.fields import Checked
from inf_former_jax.files import printable
from inf_former_jax.require import require
from inf_former_jax.training import saved_steps
from inf_former_jax.training.saved_steps import Step

_HEADER = ("step", "size", "saved", "health", "best", "commit")
_NAMES = ("experiment", "preset")
_DIR = "a run folder with checkpoints, or its folder of checkpoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListingConfig(Checked):
    """What to do with the checkpoints."""

    repair: bool = False
    """Remove the damaged and unfinished ones."""


class Place(NamedTuple):
    """Where checkpoints are: their folder, that of the run, and its config as JSON, None if none.

    A folder of checkpoints outside a run is its own run folder.
    """

    checkpoints: Path
    run: Path
    config: dict[str, Any] | None


def main(argv: Sequence[str]) -> None:
    """List the checkpoints of the folder that the arguments name, or repair it."""
    words = [word for word in argv if not word.startswith("-")]
    rest = [word for word in argv if word.startswith("-")]
    with cli.refusals():
        require(len(words) == 1, "DIR", " ".join(words) or "none", _DIR)
    cfg = cli.options("python -m experiments.checkpoints", None, ListingConfig(), rest)
    jax.config.update("jax_platforms", "cpu")  # an accelerator is some run's
    with cli.refusals(), contextlib.ExitStack() as held:
        where = place(Path(words[0]))
        holder = held.enter_context(folders.unused(where.run))
        in_use = f"in use by process {holder}"
        accepted = "a run that has ended or was stopped"
        require(not (holder and cfg.repair), "repair", f"{where.run}, which is {in_use}", accepted)
        if not cfg.repair:
            held.close()  # to list keeps no run out
        steps = saved_steps.look(where.checkpoints)
        require(bool(steps), str(words[0]), "no checkpoint", _DIR)
        show(where, steps, in_use if holder else "")
        worthless = [step for step in steps if step.health != "verified"]
        if cfg.repair:
            repair(steps)
    if worthless and not cfg.repair and not holder:
        raise SystemExit(1)


def place(folder: Path) -> Place:
    """Where the checkpoints of a folder are, which is theirs or their run's.

    Raises:
        ValueError: it is neither, or the run's config is damaged.
    """
    require(folder.is_dir(), str(folder), "no folder", _DIR)
    checkpoints, run = folder / "checkpoints", folder
    if not checkpoints.is_dir():
        checkpoints = folder
        run = parent if (parent := folder.resolve().parent) and _is_run(parent) else folder
    return Place(checkpoints, run, folders.read_config(run) if _is_run(run) else None)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").exists()


def show(where: Place, steps: Sequence[Step], in_use: str) -> None:
    """Print the table, and below it what is wrong with each step, and what differs of its config.

    Args:
        in_use: by which process; its run saves and removes steps while they are looked at.
    """
    best = best_of(steps)
    rows = []
    for step in steps:
        first = "best" if step is best else ""
        figures = str(step.step), room.size(step.size), _date(step.saved)
        rows.append((*figures, step.health, first, step.about.get("commit") or ""))
    named = (" ".join(filter(None, map(step.about.get, _NAMES))) for step in steps)
    of = ", ".join(dict.fromkeys(filter(None, named)))
    print(printable(f"{where.checkpoints}" + (f" of {of}" if of else "")))
    tables.show("", _HEADER, rows)
    if in_use:
        print(printable(f"{where.run} is {in_use}: what is unfinished may be being saved"))
    for step in steps:
        for wrong in step.wrong:
            print(printable(f"step {step.step} is damaged: {wrong}"))
        settings = step.about.get("settings")
        if settings is not None and where.config is not None:
            for difference in folders.differences(settings, where.config):
                print(printable(f"step {step.step} is of another configuration: {difference}"))


def best_of(steps: Sequence[Step]) -> Step | None:
    """The step whose figure the run calls the best of these; None if no step has one."""
    known = [step for step in steps if step.about.get("metrics") and step.about.get("best")]

    def figure(step: Step) -> tuple[float, int]:
        value = step.about["metrics"].get(step.about["best"])
        sign = 1 if step.about["higher_is_better"] else -1
        return (-float("inf") if value is None else sign * value), step.step

    return max(known, key=figure, default=None)


def repair(steps: Sequence[Step]) -> None:
    """Remove the steps that are not verified, and say which.

    Raises:
        ValueError: some are damaged and none is verified; those and all others stay.
    """
    worthless = [step for step in steps if step.health != "verified"]
    damaged = [step.folder.name for step in steps if step.health == "damaged"]
    if damaged:
        accepted = "a folder with a verified one; delete it, and the run begins anew"
        found = f"{', '.join(damaged)} damaged and no step verified"
        require(len(worthless) < len(steps), "repair", found, accepted)
    saved_steps.remove(worthless)
    for step in worthless:
        print(f"removed {step.folder.name} ({step.health}, {room.size(step.size)})")
    if not worthless:
        print("nothing to remove")


def _date(seconds: float | None) -> str:
    """Date and time in the zone of this machine."""
    if seconds is None:
        return "unknown"
    try:
        return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):  # no time that there can be
        return "unknown"
