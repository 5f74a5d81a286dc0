"""Streams of writes: the exact one is the oracle's, float32 stays beside it, nothing drifts."""

import json

import numpy as np
import pytest

from experiments.analysis import __main__ as analysis
from experiments.analysis.stream import StreamConfig, bound, exact_stream, memories, stream
from inf_former_jax.memory.long_term import LongTermConfig, operators
from tests import oracle
from tests.golden import relative_error

SIZES = {"num_basis": 8, "widths": (0.05, 0.2), "num_samples": 10}
POWER = LongTermConfig(**SIZES, contraction="power", horizon=3)
FIXED = LongTermConfig(**SIZES, tau=0.8)


def noise(writes, length=8, channels=2):
    return np.random.default_rng(0).uniform(-1, 1, (writes, length, channels))


def oracle_stream(cfg, x):
    row = oracle.empty(oracle.MemorySettings(**SIZES, ridge=1.0, tau=0.5))
    for segment in x:
        tau = cfg.tau_of(max(row.writes, 1))
        row = oracle.write(oracle.MemorySettings(**SIZES, ridge=1.0, tau=tau), row, segment)
    return row.coeffs


@pytest.mark.parametrize("cfg", [FIXED, POWER], ids=["fixed", "power"])
def test_the_float64_stream_is_the_oracles(cfg):
    """Seven writes, four of them beyond the horizon."""
    x = noise(7)
    *_, coeffs = exact_stream(operators(cfg, 8, np.float64), x)
    assert relative_error(coeffs, oracle_stream(cfg, x)) < 1e-10
    found = stream(cfg, x)
    assert found["largest"][-1] == pytest.approx(np.abs(coeffs).max())
    assert found["rms"][-1] == pytest.approx(np.sqrt((coeffs**2).mean()))


@pytest.mark.parametrize("cfg", [FIXED, POWER], ids=["fixed", "power"])
def test_the_bound_is_the_largest_that_can_be_reached(cfg):
    """Vectors of the worst signs reach it, found by writing unit vectors one at a time."""
    writes, length = 5, 4
    unit = np.eye(writes * length).reshape(writes * length, writes, length, 1)
    response = np.stack([oracle_stream(cfg, x)[:, 0] for x in unit])  # [W·L, N]
    worst = np.abs(response).sum(0).argmax()
    x = np.sign(response[:, worst]).reshape(writes, length, 1)
    reached = oracle_stream(cfg, x)[worst, 0]
    exact = operators(cfg, length, np.float64)
    assert bound(exact, writes) == pytest.approx(reached)


@pytest.mark.parametrize("change", [{"tau": 0.9}, {"contraction": "power"}])
def test_a_thousand_writes_do_not_drift(change):
    """Bounded, no larger late than early, and float32 within 1e-4 of float64 all along."""
    cfg = LongTermConfig(num_basis=64, num_samples=64, **change)
    found = stream(cfg, noise(1000, 16))
    assert max(found["largest"]) < found["bound"]
    assert np.mean(found["rms"][900:]) < 1.5 * np.mean(found["rms"][100:200])
    assert np.mean(found["rms"][900:]) > 0.1 * np.mean(found["rms"][100:200])
    assert max(found["error"]) < 1e-4


def test_the_command_reports_every_contraction(tmp_path, capsys):
    """A row and a series for each, the picture, and the settings."""
    sizes = ["--segments", "5", "--length", "8", "--num-basis", "8", "--num-samples", "8"]
    kinds = ["--taus", "0.5", "--powers", "1", "2"]
    analysis.main(["stream", *sizes, *kinds, "--out", str(tmp_path)])
    made = json.loads((tmp_path / "result.json").read_text())
    assert list(made["found"]) == ["τ = 0.5", "p = 1", "p = 2"]
    series = np.load(tmp_path / "stream.npz")
    assert made["settings"]["segments"] == 5 and series["error"].shape == (3, 5)
    assert made["found"]["p = 2"]["error"] == series["error"][2].max()
    assert made["found"]["p = 2"]["rms"] == {"1": series["rms"][2, 0], "5": series["rms"][2, 4]}
    assert (tmp_path / "stream.png").stat().st_size > 5000
    assert "error, worst" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, said",
    [
        (["--segments", "0"], "segments: found 0"),
        (["--seed", "-1"], "seed: found -1"),
        (["--powers", "0"], "powers: found 0.0"),
        (["--taus", "1.5"], "taus: found 1.5"),
        (["--num-basis", "7"], "num_basis: found 7"),
    ],
)
def test_impossible_streams_are_refused(given, said, tmp_path, capsys):
    """One line, exit 2, no folder."""
    with pytest.raises(SystemExit) as stopped:
        analysis.main(["stream", *given, "--out", str(tmp_path / "new")])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and said in printed and printed.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_no_contraction_at_all_is_refused():
    """There would be nothing to write with."""
    with pytest.raises(ValueError, match=r"^taus, powers, locations: found none, accepted: one"):
        memories(StreamConfig(taus=(), powers=()))
