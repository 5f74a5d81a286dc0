"""No measure ends the others: what fails, hangs, dies or finds no time is a row of the verdicts."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmark import accelerator
from experiments.benchmark.accelerator import (
    AcceleratorConfig,
    Trial,
    measure,
    measure_all,
    verdict,
)
from experiments.benchmark.steps import config

CHILD = """
import os, sys, time
for line in sys.stdin:
    if line == "1\\n":
        os.abort()
    if line == "2\\n":
        time.sleep(60)
    said = '"child %d of %s"' % (os.getpid(), line.strip())
    print('{"verdict": "use", "measured":', said, "}", flush=True)
"""


def test_a_measure_that_dies_or_hangs_is_a_row(monkeypatch):
    """The first child aborts in 1, the second is given up in 2, the third measures the rest."""
    start = subprocess.Popen
    asked = []

    def popen(command, **pipes):
        asked.append((command[1:], pipes["env"]["XLA_PYTHON_CLIENT_PREALLOCATE"]))
        return start([sys.executable, "-c", CHILD], **pipes)

    monkeypatch.setattr(accelerator.subprocess, "Popen", popen)
    trials = [Trial(f"option {number}", "small") for number in range(5)]
    cfg = AcceleratorConfig(repeats=3, longest=1.0)
    found = measure_all(cfg, trials)
    rows = [next(found)]
    assert len(asked) == 1  # a row is known before the next one is asked for
    rows += found
    assert [row["option"] for row in rows] == [trial.option for trial in trials]
    by = [row["measured"].split(" of ") for row in rows]
    assert [(row["verdict"], row["measured"]) for row in rows[1:3]] == [
        ("not available", "the process ended with status -6"),
        ("not available", "took too long"),
    ]
    assert [by[number][1] for number in (0, 3, 4)] == ["0", "3", "4"]
    assert by[3][0] == by[4][0] != by[0][0]
    command = ["-m", "experiments.benchmark.accelerator", "--child", "3", "0"]
    assert asked == [(command, "false")] * 3


def test_without_time_nothing_is_started(monkeypatch):
    monkeypatch.setattr(accelerator, "start", None)
    cfg = AcceleratorConfig(minutes=1e-6, longest=1e9)
    clock = iter(range(100))
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: next(clock))
    rows = [*measure_all(cfg)]
    assert {row["verdict"] for row in rows} == {"not measured"}
    assert len(rows) == len(accelerator.TRIALS)


def test_a_child_says_what_fails(monkeypatch):
    """An error is an answer, in one line of at most 200 characters; what is printed is none."""

    def fail(trial, repeats, quick):
        os.write(1, b"noise\n")
        if trial is accelerator.TRIALS[3]:
            raise RuntimeError("RESOURCE_EXHAUSTED\n" + "x" * 500)
        return {"measured": f"{repeats} {quick}", "verdict": "use"}

    monkeypatch.setattr(accelerator, "measure", fail)
    monkeypatch.setattr(sys, "stdin", iter(["3\n", "4\n"]))
    read, write = os.pipe()
    out, err = os.dup(1), os.dup(2)
    try:
        os.dup2(write, 1)
        accelerator.child(7, False)
    finally:
        os.dup2(out, 1)
        os.dup2(err, 2)
        for one in (write, out, err):
            os.close(one)
    with os.fdopen(read) as answers:
        lines = [json.loads(line) for line in answers]
    assert lines == [
        {"measured": "RuntimeError: RESOURCE_EXHAUSTED", "verdict": "not available"},
        {"measured": "7 False", "verdict": "use"},
    ]


def test_verdicts():
    """Faster, else smaller, and never with a loss that is no number."""
    assert verdict(1.03, 5.0, True) == "use"
    assert verdict(1.02, 0.8, True) == "use where memory is short"
    assert verdict(1.02, 0.81, True) == "do not use"
    assert verdict(9.0, 0.1, False) == "do not use"


def test_every_trial_is_a_model_that_can_be():
    """And differs from its default by what its option names."""
    for trial in accelerator.TRIALS:
        if trial.preset not in (accelerator.GOLDEN, accelerator.READ):
            model = config(trial.preset, False).model
            pair = (accelerator.changed(model, c) for c in (trial.default, trial.tried))
            default, tried = map(dataclasses.asdict, pair)
            assert (default != tried) is ("schedule" not in trial.tried), trial


@pytest.mark.slow
def test_a_trial_of_a_read(monkeypatch):
    """The same sum in chunks of another length; the case of the default is made once."""
    found = measure(Trial("chunks", accelerator.READ, {"chunk": 8}, {"chunk": 16}), 1, True)
    assert found["error"] < 1e-5 and found["faster"] > 0 and np.isfinite(found["room"])
    assert found["measured"].startswith(f"{found['faster']:.2f} × as fast: ")
    assert set(found["rows"]) == {"default", "tried"}
