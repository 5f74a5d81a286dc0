"""Real processes: one that is killed and goes on, and two that train together."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
TINY = shlex.split(
    "--model.num-layers 1 --model.d-model 16 --model.d-inner 16 --model.num-heads 2 "
    "--model.head-dim 8 --model.segment-len 24 --model.mem-len 24 --model.long-term.num-basis 8 "
    "--model.long-term.contraction power --model.long-term.horizon 2 "
    "--model.long-term.num-samples 8 --model.dropout 0.1 --length 100 --batch-size 4 "
    "--test-sequences 8 --valid-sequences 8 --optim.steps 40 --optim.warmup-steps 2 "
    "--loop.log-every 5 --loop.eval-every 20 --loop.minutes 0 --checkpoint.every 10"
)

# Two programs of one machine find one another by these arguments instead of a cluster's.
TOGETHER = """
import sys, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), heartbeat_timeout_seconds=20)
from experiments.sorting.__main__ import main
main(sys.argv[3:])
"""


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return os.environ | paths


def start(out, *options, program=("-m", "experiments.sorting"), devices=1):
    command = [sys.executable, *program, *TINY, "--out", str(out), *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(devices), **output)


def finish(process, status=0):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == status, said
    return said


def figures(out):
    """What a run computed, without times, commands and folders.

    Of training rows the gradient's norm, which is one step's; the others are means since the last
    row, and a stopped run has a row more.
    """
    result = json.loads((out / "result.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["split"] == "train" and row["step"] % 5 == 0]
    norms = {row["step"]: row["grad_norm"] for row in logged}
    valid = [row for row in rows if row["split"] == "valid"]
    curve = [row[:2] for row in result["curve"]]
    return {"test": result["test"], "curve": curve, "valid": valid, "norms": norms}


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The figures of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(out))
    return figures(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, uninterrupted, number):
    """kill -9 after the first checkpoint, or a polite stop: every figure is the same."""
    out = tmp_path / "stopped"
    process = start(out)
    wait_for(out / "checkpoints" / "10", process)
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == (-9 if number == signal.SIGKILL else 3)
    assert not (out / "result.json").exists(), "the run was over before it was stopped"
    said = finish(start(out))
    assert "going on after update" in said
    assert figures(out) == uninterrupted


def both(out):
    """What two processes said that ran the same command together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    programs = [("-c", TOGETHER, address, str(number)) for number in range(2)]
    return [finish(p) for p in [start(out, program=p, devices=2) for p in programs]]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """2 hosts × 2 devices against 4 devices of one: same data, same figures; one host writes."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    said = both(together)
    assert "accuracy" in said[0] and "step " not in said[1]
    assert "holds the finished run" in both(together)[0], "both must see that it is over"
    finish(start(alone, devices=4))
    ours, theirs = figures(together), figures(alone)
    assert ours["norms"].keys() == theirs["norms"].keys() and len(ours["norms"]) == 8
    for a, b in zip(ours["valid"], theirs["valid"], strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
    assert len((together / "metrics.jsonl").read_text().splitlines()) == 10
