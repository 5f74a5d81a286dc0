"""Kills and signals at random moments: what goes on is the run that nobody disturbed, to the bit.

    python -m tests.experiments.run.drill [MOMENTS]

One run is stopped again and again and always started by the same command, until it is finished;
then the next one begins, until there were that many moments with kill -9, and as many with SIGTERM.
"""

import functools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[3]
TINY = shlex.split(
    "--model.num-layers 1 --model.d-model 16 --model.d-inner 16 --model.num-heads 2 "
    "--model.head-dim 8 --model.segment-len 24 --model.mem-len 24 --model.long-term.num-basis 8 "
    "--model.long-term.contraction power --model.long-term.horizon 2 "
    "--model.long-term.num-samples 8 --model.dropout 0.1 --length 100 --batch-size 4 "
    "--test-sequences 8 --valid-sequences 8 --optim.steps 40 --optim.warmup-steps 2 "
    "--loop.log-every 5 --loop.eval-every 20 --loop.minutes 0 --checkpoint.every 10"
)


def environment(devices: int, cache: str | Path = "") -> dict[str, str]:
    """That of a run on pretended devices; with a folder for compiled programs, a start is quick."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if cache:
        own |= {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        own |= {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"}
    return os.environ | own


def start(out: Path, *options: str, program=("-m", "experiments.sorting"), devices=1, cache=""):
    """The process of a tiny run."""
    command = [sys.executable, *program, *TINY, "--out", str(out), *options]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(devices, cache), **output)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What a process said that ends by itself."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == status, said
    return said


def figures(out: Path) -> dict[str, Any]:
    """What a run computed, without times, commands and folders.

    Of training rows the gradient's norm, which is one step's; the others are means since the last
    row, and a stopped run has a row more. Of the last state a hash of every leaf.
    """
    result = json.loads((out / "result.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["split"] == "train" and row["step"] % 5 == 0]
    return {
        "test": result["test"],
        "curve": [row[:2] for row in result["curve"]],
        "valid": [row for row in rows if row["split"] == "valid"],
        "norms": {row["step"]: row["grad_norm"] for row in logged},
        "state": (out / f"checkpoints/{result['steps']}/digest/metadata").read_text(),
    }


def listens(process: subprocess.Popen) -> bool:
    """Whether the process would handle SIGTERM, or is over."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return process.poll() is not None or any(
        int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks
    )


class Undisturbed(NamedTuple):
    """A run that nobody stops."""

    options: tuple[str, ...]
    cache: Path
    figures: dict[str, Any]
    seconds: float
    training: float  # seconds from its first line on, which comes before the updates


def newest(out: Path) -> int:
    """The step of the newest checkpoint that is whole; 0 = none."""
    names = [path.name for path in out.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def require_went_on(said: str, saved: int) -> None:
    """Assert that a run which came as far as to say so began with the newest checkpoint."""
    if " updates of " in said:
        going_on = f"; going on after update {saved}\n" if saved else " tokens\n"
        assert going_on in said, f"step {saved} was saved: {said}"


def undisturbed(root: Path, *options: str) -> Undisturbed:
    """The second of two, which finds its programs compiled, as all later ones do."""
    cache = root / "cache"
    finish(start(root / "first", *options, cache=cache))
    process, begun = start(root / "whole", *options, cache=cache), time.monotonic()
    process.stdout.readline()
    ready = time.monotonic()
    finish(process)
    over = time.monotonic()
    return Undisturbed(options, cache, figures(root / "whole"), over - begun, over - ready)


def drill(
    root: Path,
    whole: Undisturbed,
    number: signal.Signals,
    moments: int,
    say: Callable[[str], None] = lambda said: None,
) -> int:
    """Stop runs at random moments with a signal; the number of runs that came to their end.

    Raises:
        AssertionError: a run says something else than it should, or computes something else than
            the undisturbed one.
    """
    pick, runs = random.Random(int(number)), 0

    def compare(out: Path) -> None:
        found = figures(out)
        different = [name for name, value in whole.figures.items() if found[name] != value]
        assert not different, f"{out}: {different}"
        shutil.rmtree(out)

    out = root / f"stopped-{runs}"
    for moment in range(moments):
        saved = newest(out)
        process = start(out, *whole.options, cache=whole.cache)
        while number == signal.SIGTERM and not listens(process):
            time.sleep(0.001)
        trains = pick.random() < 0.5  # the moment counts from the first line, before the updates
        if trains:
            process.stdout.readline()
        after = pick.uniform(0, whole.training if trains else whole.seconds)
        try:
            said, _ = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            said, _ = process.communicate(timeout=300)
        allowed = (0, -9) if number == signal.SIGKILL else (0, 3)
        assert process.returncode in allowed, f"status {process.returncode}: {said}"
        assert "Traceback" not in said, said
        require_went_on(said, saved)
        lines = said.strip().splitlines()
        since = "training" if trains else "the start"
        say(f"{moment + 1}: {after:.2f} s after {since}, status {process.returncode}: {lines[-1:]}")
        if process.returncode == 0:
            compare(out)
            runs += 1
            out = root / f"stopped-{runs}"
    if process.returncode:
        saved = newest(out)
        said = finish(start(out, *whole.options, cache=whole.cache))
        assert "Traceback" not in said, said
        require_went_on(said, saved)
        compare(out)
        runs += 1
    return runs


def main(moments: int) -> None:
    """The whole drill, with ten checkpoints a run."""
    with tempfile.TemporaryDirectory() as folder:
        root, say = Path(folder), functools.partial(print, flush=True)
        whole = undisturbed(root, "--optim.steps", "100")
        for number in (signal.SIGKILL, signal.SIGTERM):
            runs = drill(root, whole, number, moments, say)
            say(f"{number.name}: {moments} moments, {runs} runs to the end, each to the same bits")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
