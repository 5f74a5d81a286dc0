"""What a machine may do to a run: a full disk, a folder nobody may write to, a second run in it."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.faults.damage import stopped
from experiments.faults.row import SAME, Bench, Row, trying
from experiments.faults.runs import EVERY, Run, finish, hold, line_of, made, newest
from inf_former_jax import files

#: Mounts a file system of $1 bytes at $2 for a command alone, and keeps in $3 what it leaves there.
_SMALL_DISK = (
    'mount -t tmpfs -o "size=$1" none "$2" || exit 99; out=$2; kept=$3; shift 3; "$@"; '
    'status=$?; cp -a "$out"/. "$kept"; exit $status'
)


def full_disk(bench: Bench) -> Row:
    """A file system that is too small for the run; what it left goes on where there is room.

    Raises:
        Broken: the run does not end with status 4 and a line, or does not go on to the same bits.
    """
    size, whole = sum(_sizes(bench)), bench.whole

    def run(out: Path) -> Run:
        left = bench.place("full-left")
        out.mkdir()
        left.mkdir()
        room = str(int(size * bench.pick.uniform(0.2, 1.2)))
        own = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
        there = str(out), str(left)
        ended = whole.start(out, before=(*own, "sh", "-c", _SMALL_DISK, "sh", room, *there))
        ended.wait()
        out.rmdir()
        left.rename(out)
        return ended

    return _full("full disk (tmpfs), full {} times", f"with room, {SAME}", run, bench)


def too_long(bench: Bench) -> Row:
    """The same by the limit that a user has for the size of a file (RLIMIT_FSIZE); errors too."""
    most, whole = max(_sizes(bench)), bench.whole

    def run(out: Path) -> Run:
        limit = bench.pick.randrange(3_000, most)
        return whole.start(out, before=("prlimit", f"--fsize={limit}"))

    fault = "files may not be longer (RLIMIT_FSIZE), one was {} times"
    return _full(fault, f"without the limit, {SAME}", run, bench)


def _sizes(bench: Bench) -> list[int]:
    """Bytes of each file of the undisturbed run."""
    complete = bench.root / f"whole-{bench.whole.processes}"
    return [path.stat().st_size for path in complete.rglob("*") if path.is_file()]


def _full(fault: str, then: str, run: Callable[[Path], Run], bench: Bench) -> Row:
    """The row of runs with too little room, some of which may have enough by chance.

    Args:
        fault: its name, with {} for how many had not.
        run: begins, or runs, one in a folder.
    """
    lost, told, full, statuses = 0, "nothing", 0, set()
    for number in range(bench.tries):
        out = bench.place("full")
        begun = run(out)
        status = begun.wait()
        statuses.add(status or 0)
        with trying(number + 1):
            done, saved = _of_full(begun.said, status, out)
            if status == 4:
                full, lost, told = full + 1, max(lost, done - saved), line_of(begun.said, "error:")
            bench.whole.goes_on(out)
        shutil.rmtree(out)
    return Row(fault.format(full), 1, bench.tries, lost, told, sorted(statuses), then)


def _of_full(said: str, status: int | None, out: Path) -> tuple[int, int]:
    """(updates made, updates saved) of a run whose disk was full; Broken if it did not say so."""
    hold(status in (0, 4) and "Traceback" not in said, f"status {status} for 4: {said}")
    told = said.count("error: ") == 1 and "the same command goes on" in said
    hold(told or status == 0, f"no line: {said}")
    return made(out), newest(out)


def without_override() -> tuple[str, ...]:
    """What begins a command of root's that must not write where permissions forbid it."""
    return ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in a folder and below it until the block ends."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    try:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # of a save that was being finished
                path.chmod(modes[path] & ~0o222)
        yield
    finally:
        for path in folder.rglob("*"):
            path.chmod(modes.get(path, 0o644 | 0o111 * path.is_dir()))
        folder.chmod(modes[folder])


def locked_before(bench: Bench) -> Row:
    """A folder that became read-only while the run was stopped: it is refused, and untouched.

    Raises:
        Broken: it is not refused in a line with status 2, or a file changed.
    """
    root, whole, tries = bench[:3]
    base, told = stopped(root, whole), ""
    for number in range(tries):
        out = bench.place("locked")
        shutil.copytree(base, out)
        with trying(number + 1):
            before = contents(out)
            with read_only(out):
                said = finish(whole.start(out, before=without_override()), 2)
            hold(said.count("error: ") == 1 and ", accepted: " in said, said)
            hold(contents(out) == before, "a file changed")
            whole.goes_on(out)
        told = line_of(said, "error:")
        shutil.rmtree(out)
    return Row("read-only folder", 1, tries, 0, told, [2], f"once it may be written, {SAME}")


def locked_meanwhile(bench: Bench) -> Row:
    """A folder that becomes read-only while the run trains: it ends with status 4 and a line.

    Raises:
        Broken: it does not.
    """
    whole, tries = bench[1:3]
    lost, told = 0, ""
    for number in range(tries):
        out = bench.place("locked")
        with trying(number + 1):
            run = whole.start(out, before=without_override())
            hold(run.until(lambda out=out: newest(out) >= EVERY), f"it ended: {run.said}")
            with read_only(out):
                said = finish(run, 4)
            hold(said.count("error: ") == 1, said)
            done, saved = made(out), newest(out)
            begun, _ = whole.goes_on(out)
            hold(begun == saved, f"goes on after {begun} of {saved}")
        lost, told = max(lost, done - saved), line_of(said, "error:")
        shutil.rmtree(out)
    fault = "folder that becomes read-only while it trains"
    return Row(fault, 1, tries, lost, told, [4], f"once it may be written, {SAME}")


def contents(folder: Path) -> dict[str, str]:
    """name → digest of every file in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): files.digest(path) for path in found}


def two_runs(bench: Bench) -> Row:
    """A second run in the folder of one that trains: it is refused, and the first one goes on.

    Raises:
        Broken: it is not refused in a line with status 2, or the first one is disturbed.
    """
    whole, tries = bench[1:3]
    told = ""
    for number in range(tries):
        out = bench.place("shared")
        with trying(number + 1):
            first = whole.start(out)
            hold(first.says(" updates of "), first.said)
            os.kill(first.pid, signal.SIGSTOP)  # it must not be over before the second one asks
            try:
                said = finish(whole.start(out), 2)
            finally:
                os.kill(first.pid, signal.SIGCONT)
            hold(f"in use by process {first.pid}" in said and said.count("error: ") == 1, said)
            finish(first)
            whole.require_same(out)
        told = line_of(said, "error:").replace(str(first.pid), "N")
        shutil.rmtree(out)
    then = "the first one: the same bits"
    return Row("two runs in one folder", 1, tries, 0, told, [2], then)
