"""Training steps in processes of their own: the first one, and those of another commit in turns."""

import contextlib
import os
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
from inf_former_jax.require import require

ROOT = Path(__file__).parents[2]


class Worker:
    """A process that runs `worker.py` on a checkout's code; `seconds` is how long it took to be
    ready: the whole way from the start of Python to the end of the first update.

    Raises:
        ValueError: the checkout has no such training step.
    """

    def __init__(self, root: Path, *arguments: str, **environment: str):
        begin, self._name = time.perf_counter(), f"{root}: {' '.join(arguments[:2])}"
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__, *arguments],
            cwd=root,
            env={**os.environ, **environment, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin and self._process.stdout
        self._asked, self._answers = self._process.stdin, self._process.stdout
        said = self._answers.readline()
        self.seconds = time.perf_counter() - begin
        if not said.startswith("ready"):
            self.close()
            found = said.removeprefix("error").strip() or f"exit status {self._process.returncode}"
            require(False, self._name, found, "a training step")
        self.tokens, self.devices = map(int, said.split()[1:])

    def run(self, updates: int) -> float:
        """Mean seconds of some updates."""
        self._asked.write(f"{updates}\n")
        self._asked.flush()
        said = self._answers.readline()
        require(bool(said), self._name, "no answer", "seconds of an update")
        return float(said)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


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
                with working(ROOT, *arguments, JAX_COMPILATION_CACHE_DIR=cache) as one:
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
