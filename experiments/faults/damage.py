"""Damage to a checkpoint's files: a flipped byte, a file cut short, a file that is gone."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from experiments.faults.row import SAME, Bench, Row, trying
from experiments.faults.runs import EVERY, Undisturbed, finish, hold, line_of, newest
from inf_former_jax import files


def flip(path: Path, pick: random.Random) -> None:
    """Change one bit of a file."""
    raw = bytearray(files.read_bytes(path))
    raw[pick.randrange(len(raw))] ^= 1 << pick.randrange(8)
    with files.writing(path) as file:
        file.write(raw)


def cut(path: Path, pick: random.Random) -> None:
    """Leave the beginning of a file."""
    os.truncate(path, pick.randrange(path.stat().st_size))


def delete(path: Path, _pick: random.Random) -> None:
    """Remove a file."""
    path.unlink()


def stopped(root: Path, whole: Undisturbed) -> Path:
    """The folder of a run that SIGTERM has stopped after its third checkpoint or a little later.

    A folder that is there already is taken.
    """
    out = root / "stopped"
    if not out.exists():
        run = whole.start(out)
        hold(run.until(lambda: newest(out) >= 3 * EVERY), f"it ended: {run.said}")
        run.stop(signal.SIGTERM)
        finish(run, 3)
    return out


def damaged(fault: str, harm: Callable[[Path, random.Random], None], bench: Bench) -> Row:
    """Harm any file of the newest checkpoint; the run goes on from this one or the one before.

    Nothing may hang on the file, as on orbax's marks that a write has ended; then the newest
    checkpoint is as good as it was. Otherwise it has to be named.

    Raises:
        Broken: the run goes on with other bits, or without a word from an older checkpoint.
    """
    root, whole, tries, pick = bench[:4]
    base, lost, harmless = stopped(root, whole), 0, 0
    told = "nothing"
    for number in range(tries):
        out = bench.place("damaged")
        shutil.copytree(base, out)
        saved = newest(out)
        found = sorted((out / f"checkpoints/{saved}").rglob("*"))
        sizes = {path: path.stat().st_size for path in found if path.is_file()}
        (path,) = pick.choices([*sizes], [*sizes.values()])  # every byte is as likely as any other
        harm(path, pick)
        name = path.relative_to(out)
        with trying(number + 1):
            begun, said = whole.goes_on(out)
            named = f"checkpoint of step {saved} is damaged" in said
            hold(named == (begun < saved), f"{name}: goes on after {begun} of {saved}: {said}")
        lost, harmless = max(lost, saved - begun), harmless + (begun == saved)
        told = line_of(said, "is damaged") if named else told
        shutil.rmtree(out)
    then = SAME
    if harmless:
        then += f"; {harmless} times no run reads the file, and nothing was lost"
    return Row(fault, 1, tries, lost, told, [0], then)
