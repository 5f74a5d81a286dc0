"""What a command does before it imports JAX, which takes seconds: signals, and compiled programs.

Only for a process that is one command: `if __name__ == "__main__": process.begin()`.
"""

import contextlib
import gc
import glob
import os
import re
import sys
import warnings
from pathlib import Path

from experiments.run import stopping

#: Bytes of compiled programs that are kept; those that were made first go first.
_MOST = 512 * 2**20


def begin() -> None:
    """Signals end the process with status 3, and compiled programs are kept for the next one.

    Until `imported` nothing is collected: what is imported stays, and to look through it again and
    again takes a quarter of the time until --help.
    """
    stopping.install()
    keep_programs()
    gc.disable()


def imported() -> None:
    """All is imported: garbage is collected again, and what was imported is not looked through."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def keep_programs() -> None:
    """Let JAX keep what it compiles in the user's cache folder, so that a next start is quick.

    JAX's own variables win: JAX_COMPILATION_CACHE_DIR is another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. A folder that cannot be written or holds
    damaged programs costs a line, and programs are compiled anew. Damaged ones are removed, since
    JAX writes over none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if base.startswith("/") else Path.home() / ".cache") / "inf_former_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(0, "not writable")
    except OSError as error:
        return _say(f"{folder} ({error.strerror})")
    _forget_oldest(folder)
    os.environ.update(kept_in(str(folder)) | os.environ)
    shown, said = warnings.showwarning, set()

    def show(message, *rest, **more):
        failed = _FAILED.match(str(message))
        if failed is None:
            return shown(message, *rest, **more)
        what, name = failed.groups()
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{glob.escape(name)}-*") if what == "reading" else ():
                path.unlink()
        if what not in said:  # JAX warns of every program
            said.add(what)
            if what == "writing":
                _say(f"{folder} (a full disk)")
            else:
                print(f"{folder}: found damaged programs, which are made anew", file=sys.stderr)

    warnings.showwarning = show


#: What JAX warns of: the program's name is what the names of its files begin with.
_FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)'")


def kept_in(folder: str) -> dict[str, str]:
    """JAX's variables that keep programs in a folder, also those that compile in .05 s."""
    shortest = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    return {"JAX_COMPILATION_CACHE_DIR": folder, shortest: "0.05"}


def _say(found: str) -> None:
    print(
        f"compiled programs are not kept: found {found}, accepted: a folder that can be written; "
        "delete it, or set JAX_ENABLE_COMPILATION_CACHE=false",
        file=sys.stderr,
    )


def _forget_oldest(folder: Path) -> None:
    """Remove programs until no more than _MOST bytes are left; another process may do the same."""
    with contextlib.suppress(OSError):
        found = [(file.stat(), file.path) for file in os.scandir(folder) if file.is_file()]
        left = sum(stat.st_size for stat, _ in found)
        for stat, path in sorted(found, key=lambda one: one[0].st_mtime):
            if left <= _MOST:
                break
            os.unlink(path)
            left -= stat.st_size
