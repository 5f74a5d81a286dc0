"""Training steps in processes of their own: the first one, and those of another commit in turns."""

import contextlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmark import worker
from experiments.benchmark.steps import steps
from experiments.benchmark.timing import BenchmarkConfig
from experiments.run import process
from inf_former_jax.require import require

ROOT = Path(__file__).parents[2]


class Child:
    """A process of Python that answers each line with a line; both are read as they come."""

    def __init__(self, *command: str, **options: Any):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, *command], **pipes, **options)

    def ask(self, line: Any) -> None:
        """Write a line, unless it has ended."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def answer(self, seconds: float | None = None) -> str:
        """Its next line; "" if it ended without one, or gave none in these seconds."""
        assert self.process.stdout
        said, end = b"", time.monotonic() + (seconds or 0)
        while not said.endswith(b"\n"):
            left = None if seconds is None else max(0.0, end - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                return ""
            if not (read := os.read(self.process.stdout.fileno(), 2**16)):
                return ""
            said += read
        return said.decode()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


class Worker(Child):
    """A process that runs `worker.py` on a checkout's code; `seconds` is how long it took to be
    ready: the whole way from the start of Python to the end of the first update.

    Raises:
        ValueError: the checkout has no such training step.
    """

    def __init__(self, root: Path, *arguments: str, **environment: str):
        begin, self._name = time.perf_counter(), f"{root}: {' '.join(arguments[:2])}"
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, **environment, "PYTHONPATH": paths}
        command = "-P", worker.__file__, *arguments
        super().__init__(*command, cwd=root, env=env, stderr=subprocess.DEVNULL)
        said = self.answer()
        self.seconds = time.perf_counter() - begin
        if not said.startswith("ready"):
            self.close()
            found = said.removeprefix("error").strip() or f"exit status {self.process.returncode}"
            require(False, self._name, found, "a training step")
        self.tokens, self.devices = map(int, said.split()[1:])

    def run(self, updates: int) -> float:
        """Mean seconds of some updates."""
        self.ask(updates)
        said = self.answer()
        require(bool(said), self._name, "no answer", "seconds of an update")
        return float(said)


@contextlib.contextmanager
def working(root: Path, *arguments: str, **environment: str) -> Iterator[Worker]:
    """A `Worker`, which ends with the block."""
    one = Worker(root, *arguments, **environment)
    try:
        yield one
    finally:
        one.close()


def first_steps(name: str, cfg: BenchmarkConfig) -> dict[str, float]:
    """Seconds from the start of Python to the end of the first update: medians.

    Each is of a fresh process; `first_step` with an empty cache of compiled programs,
    `first_step_cached` with what the process before it left there.
    """
    found: dict[str, list[float]] = {"first_step": [], "first_step_cached": []}
    for _ in range(cfg.times):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in found.values():
                arguments = name, "sequential", str(int(cfg.quick))
                with working(ROOT, *arguments, **process.kept_in(cache)) as one:
                    seconds.append(one.seconds)
    return {label: statistics.median(seconds) for label, seconds in found.items()}


def presets(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Each preset as a user meets it: tokens a second, the first step, and memory.

    The step is that of the measure steps, in float32 and segment by segment. State is the
    parameters, the optimiser's moments and the memories of all rows.
    """
    found = steps(replace(cfg, schedules=("sequential",), dtypes=("float32",)))
    for row in found["rows"]:
        row |= first_steps(row["preset"], cfg)
    return found
