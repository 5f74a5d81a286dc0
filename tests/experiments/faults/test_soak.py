"""What a soak samples, and a soak of seconds: of a run and of a stream."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.faults import soak
from experiments.faults.runs import Run, environment
from experiments.faults.slope import slope
from experiments.results.faults import soak_table


def test_the_first_fifth_is_left_out():
    times, figures = soak.settled([100, 101, 102, 103, 110], [1, 2, 3, 4, 5])
    assert (times, figures) == ([2, 3, 10], [3, 4, 5])
    assert soak.settled([], []) == ([], [])


def test_samples_are_of_live_arrays(monkeypatch):
    """Eight more megabytes are seen, and not before it is time."""
    now = [0.0]
    monkeypatch.setattr("experiments.faults.soak.time.monotonic", lambda: now[0])
    samples, kept, over = soak.Samples(every=1.0, minutes=1 / 60), [], []
    for second in (0.0, 0.5, 1.0, 2.0):
        now[0] = second
        kept.append(jnp.ones(2**21))
        over.append(samples.take(step=second))
    assert over == [False, False, True, False]
    assert samples.times == [0, 1, 2] and samples.figures["step"] == [0, 1, 2]
    assert np.diff(samples.figures["live"]).tolist() == [2 * 2**23, 2**23]
    assert all(2**20 < figure < 2**40 for figure in samples.figures["process"])


def test_rows_begin_anew_alone():
    old, fresh = ({"a": jnp.full((2, 3), n), "b": jnp.full(2, n)} for n in (1, 0))
    found = soak._reset(old, fresh, jnp.array([True, False]))
    assert found["a"].tolist() == [[0, 0, 0], [1, 1, 1]] and found["b"].tolist() == [0, 1]


def test_what_grows_is_named(capsys):
    seconds = [0, 60, 120, 180]
    series = [2**20] * 4, [2**20, 2**21, 3 * 2**20, 2**22]
    flat, steep = (slope(seconds, figures).to_json() for figures in series)
    assert soak.report({"training": {"live": flat, "process": flat}}) == []
    growing = soak.report({"streaming": {"live": steep, "process": flat}})
    assert growing == ["streaming: live arrays"]
    assert "NOT FLAT" in capsys.readouterr().out


@pytest.mark.slow
def test_live_arrays_do_not_grow_in_a_soak_of_seconds(tmp_path):
    """Of the process in its first seconds nothing can be said: it is a matter of the allocator."""
    command = [sys.executable, "-m", "experiments.faults", "soak", "--minutes", "0.1"]
    command += ["--every", "0.1", "--out", str(tmp_path)]
    run = Run(command, environment(1, tmp_path / "cache"))
    run.wait()
    assert run.status() in (0, 1), run.said
    content = json.loads((tmp_path / "soak.json").read_text())
    training, streaming = (content["slopes"][part] for part in ("training", "streaming"))
    for slopes in (training, streaming):
        assert slopes["live"]["samples"] > 2 and slopes["live"]["mean"] > 10_000
        assert slopes["step"]["mean"] > 0
    # Two standard errors are too few for a test: by chance one of twenty would fail.
    assert abs(training["live"]["hourly"]) < 6 * training["live"]["error"]
    assert streaming["live"]["grown"] == 0
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_the_table_is_sorted_by_how_often_they_saved():
    """Written by hand."""
    one = {"samples": 4, "mean": 2**21, "hourly": 2**20, "error": 2**19, "hours": 0.5}
    one |= {"grown": 0.25, "flat": False}

    def result(every):
        settings = {"checkpoint_every": every, "minutes": 2.5}
        known = {"device": "cpu", "commit": "c", "date": "2026-12-01", "settings": settings}
        return known | {"slopes": {"training": {"process": one, "step": one}}}

    lines = soak_table([result(2000), result(100)]).splitlines()
    words = "training: memory of the process | 4 | 2.000 MiB | +1.0000 ± 0.5000 | +25.00 %"
    assert lines[2] == f"| 100 | 2.5 | {words} | NOT FLAT | +640.0 KiB | cpu, c, 2026-12-01 |"
    assert lines[4].startswith("| 2,000 | 2.5 |") and len(lines) == 6
