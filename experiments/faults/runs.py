"""The tiny run that faults happen to: its processes, its figures, and the run nobody disturbs."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from inf_former_jax import files
from inf_former_jax.training.metrics import read_rows

ROOT = Path(__file__).parents[2]

#: The command of the run: `python -m experiments.sorting` with these options.
PROGRAM = ("-m", "experiments.sorting")
TINY = shlex.split(
    "--model.num-layers 1 --model.d-model 16 --model.d-inner 16 --model.num-heads 2 "
    "--model.head-dim 8 --model.segment-len 24 --model.mem-len 24 --model.long-term.num-basis 8 "
    "--model.long-term.contraction power --model.long-term.horizon 2 "
    "--model.long-term.num-samples 8 --model.dropout 0.1 --length 100 --batch-size 4 "
    "--test-sequences 8 --valid-sequences 8 --optim.steps 40 --optim.warmup-steps 2 "
    "--loop.log-every 5 --loop.eval-every 20 --loop.minutes 0 --checkpoint.every 10"
)
#: Updates between the checkpoints of TINY.
EVERY = 10

#: Seconds after which a process that should have ended is hanging.
_PATIENCE = 300


class Broken(Exception):
    """A fault after which a run does something else than it should."""


def hold(holds: bool, what: str) -> None:
    """Raise Broken with these words unless it holds."""
    if not holds:
        raise Broken(what)


def environment(devices: int, cache: str | Path = "") -> dict[str, str]:
    """That of a run on pretended devices; with a folder for compiled programs, a start is quick."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if cache:
        own |= {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        own |= {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"}
    return os.environ | own


class Run:
    """A process, and what it says, which goes to a file: a pipe could be full."""

    def __init__(self, command: list[str], env: Mapping[str, str]):
        self._words, self._said = "", tempfile.TemporaryFile()  # noqa: SIM115
        to_file: dict[str, Any] = {"stdout": self._said, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(command, env=env, **to_file)

    @property
    def said(self) -> str:
        """All that it has said until now."""
        if not self._said.closed:
            number = self._said.fileno()  # its offset is the child's too, so nothing may move it
            self._words = os.pread(number, os.fstat(number).st_size, 0).decode("utf-8", "replace")
        return self._words

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def status(self) -> int | None:
        """The exit status, -9 after kill -9; None while it runs."""
        return self.wait(0)

    def wait(self, seconds: float = _PATIENCE) -> int | None:
        """The exit status, or None if it runs after these seconds still."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self._words = self.said
            self._said.close()
        return self._process.returncode

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until something holds; False if the process ended before it did."""
        end = time.monotonic() + _PATIENCE
        while not holds():
            if self.status() is not None or time.monotonic() > end:
                return False
            time.sleep(0.0005)
        return True

    def says(self, words: str) -> bool:
        """Wait until it has said these words; False if it ended without."""
        return self.until(lambda: words in self.said)

    def stop(self, number: int) -> None:
        """Send it a signal, if it runs still."""
        self._process.send_signal(number)

    def listens(self) -> bool:
        """Whether it would handle SIGTERM."""
        try:
            status = files.read_text(f"/proc/{self.pid}/status")
        except (OSError, ValueError):
            return False
        masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
        return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def start(
    out: Path,
    *options: str,
    program: tuple[str, ...] = PROGRAM,
    devices: int = 1,
    cache: str | Path = "",
    before: tuple[str, ...] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Run:
    """A process of a tiny run.

    Args:
        before: a command that runs the command which follows it.
        variables: of its environment.
    """
    command = [*before, sys.executable, *program, *TINY, "--out", str(out), *options]
    return Run(command, {**environment(devices, cache), **variables})


def start_all(
    out: Path, *options: str, processes: int = 1, devices: int = 1, cache: str | Path = ""
) -> list[Run]:
    """One process, or several of one run with `--distributed`, as Slurm would start them."""
    if processes == 1:
        return [start(out, *options, devices=devices, cache=cache)]
    job = {"SLURM_JOB_ID": str(_free_job()), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": str(processes)}
    options = (*options, "--distributed")
    runs = []
    for number in range(processes):
        own = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        runs.append(start(out, *options, devices=devices, cache=cache, variables=job | own))
    return runs


def _free_job() -> int:
    """The number of a job of whose port, which JAX derives from it, nobody makes use."""
    for job in range(4096):
        with socket.socket() as port, contextlib.suppress(OSError):
            port.bind(("localhost", 61440 + job))
            return job
    raise Broken("no port is free")


def finish(run: Run, status: int = 0) -> str:
    """What a process said that ends by itself.

    Raises:
        Broken: it has another exit status, or a traceback.
    """
    found = run.wait()
    if found is None:
        run.stop(signal.SIGKILL)
    said = run.said
    hold(found == status and "Traceback" not in said, f"status {found} for {status}: {said}")
    return said


def figures(out: Path) -> dict[str, Any]:
    """What a run computed, without times, commands and folders.

    Of training rows the gradient's norm, which is one step's; the others are means since the last
    row, and a stopped run has a row more. Of the last state a hash of every leaf.
    """
    result, rows = files.read_json(out / "result.json"), read_rows(out / "metrics.jsonl")
    logged = [row for row in rows if row["split"] == "train" and row["step"] % 5 == 0]
    return {
        "test": result["test"],
        "curve": [row[:2] for row in result["curve"]],
        "valid": [row for row in rows if row["split"] == "valid"],
        "norms": {row["step"]: row["grad_norm"] for row in logged},
        "state": files.read_text(out / f"checkpoints/{result['steps']}/digest/metadata"),
    }


def newest(out: Path) -> int:
    """The step of the newest checkpoint that is whole; 0 = none."""
    names = [path.name for path in out.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def made(out: Path) -> int:
    """Updates that a run has a row of."""
    rows = []
    with contextlib.suppress(ValueError):  # one that is being written
        rows = read_rows(out / "metrics.jsonl")
    return max((row["step"] for row in rows), default=0)


def begun_with(said: str) -> int | None:
    """The update after which a run goes on, by its own words; None if it did not come so far."""
    line = next((line for line in said.splitlines() if " updates of " in line), None)
    if line is None:
        return None
    _, goes_on, step = line.partition("going on after update ")
    return int(step.replace(",", "")) if goes_on else 0


class Undisturbed(NamedTuple):
    """A run that nobody stops.

    Attributes:
        options: of its command, beside TINY.
        seconds: from the start of its process to its end.
        training: seconds of that from its first line on, which comes before the updates.
        kept: steps of the checkpoints that it leaves.
    """

    options: tuple[str, ...]
    processes: int
    cache: Path
    figures: dict[str, Any]
    seconds: float
    training: float
    kept: list[str]

    def start(self, out: Path, **how: Any) -> Run:
        """A process of the same run in another folder; `how` as of `start`."""
        return start(out, *self.options, cache=self.cache, **how)

    def require_same(self, out: Path) -> None:
        """Raise Broken if the run of a folder has computed something else than this one."""
        found = figures(out)
        different = [name for name, value in self.figures.items() if found[name] != value]
        hold(not different, f"{out}: other bits than undisturbed: {', '.join(different)}")

    def goes_on(self, out: Path) -> tuple[int, str]:
        """Give the same command again: (the update it goes on after, what it says); to same bits.

        Raises:
            Broken: it does not end well, or computes something else.
        """
        said = finish(self.start(out))
        self.require_same(out)
        return begun_with(said) or 0, said


def kept(out: Path) -> list[str]:
    """Names of a run's checkpoints."""
    return sorted(path.name for path in out.glob("checkpoints/*"))


def undisturbed(root: Path, *options: str, processes: int = 1) -> Undisturbed:
    """The second of two runs, which finds its programs compiled, as all later ones do."""
    cache = root / f"cache-{processes}"

    def both(out: Path) -> list[Run]:
        return start_all(out, *options, processes=processes, cache=cache)

    for run in both(root / f"first-{processes}"):
        finish(run)
    out, begun = root / f"whole-{processes}", time.monotonic()
    runs = both(out)
    runs[0].says("needs about")
    ready = time.monotonic()
    for run in runs:
        finish(run)
    over = time.monotonic()
    known = cache, figures(out), over - begun, over - ready, kept(out)
    return Undisturbed(options, processes, *known)


def line_of(said: str, *words: str) -> str:
    """The first line that has one of these words, else the last one, both not too long."""
    lines = [line.strip() for line in said.strip().splitlines()] or [""]
    found = next((line for line in lines if any(word in line for word in words)), lines[-1])
    return textwrap.shorten(" ".join(map(_short, found.split())), 200, placeholder=" …")


def _short(word: str) -> str:
    """A word, of whose path the last two names are left."""
    parts = word.split("/")
    return "/".join(["…", *parts[-2:]]) if len(parts) > 3 else word
