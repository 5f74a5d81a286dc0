"""What a memory's signal gives back, by hand and beside the decoder's own memory."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.analysis import precision, signal
from experiments.analysis.__main__ import main
from experiments.results.analysis import functions_table
from experiments.run import training
from experiments.sorting import __main__ as sorting_main
from experiments.sorting import data as sorting
from experiments.sorting.config import PRESETS, SortingConfig
from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.fit import ridge
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import operators
from tests.experiments.sorting.test_compare import shrunk

CELLS = LongTermConfig(num_basis=4, functions="rectangular", fit="intervals", tau=0.5)


def ramp(*segments):
    """One row of one channel: the numbers of each segment."""
    return np.array(segments, np.float32)[None, :, :, None]


def test_errors_of_cells_by_hand():
    """Two vectors a segment, four cells, τ = ½: the old two segments end as a cell each.

    After the second write all four numbers have a cell. The third squeezes four cells into two, of
    the means 1 and 5 of the segments (0, 2) and (4, 6); (8, 10) is whole. The mean of all is 5 and
    the squared distances from it are 25 + 9 + 1 + 1 + 9 + 25 = 70.
    """
    found = dict(signal.errors_in_turn(CELLS, ramp((0, 2), (4, 6), (8, 10))))
    assert list(found) == [1, 2, 3]
    np.testing.assert_allclose(found[1], [0], atol=1e-6)
    np.testing.assert_allclose(found[2], [0, 0], atol=1e-6)
    np.testing.assert_allclose(found[3], [0, 3 * 2 / 70, 3 * 2 / 70], atol=1e-6)
    figures = signal.measure(CELLS, ramp((0, 2), (4, 6), (8, 10)))
    assert figures["newest"] == pytest.approx(0, abs=1e-6)
    assert figures["in_turn"] == pytest.approx(4 / 70, abs=1e-6)
    assert figures["by_writes"]["3"] == figures["in_turn"]


def test_errors_of_one_cell_and_of_enough():
    """One cell holds a row's mean, whose error is 1; as many cells as vectors hold each of them."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    one = dataclasses.replace(CELLS, num_basis=1)
    x[1] += 10  # the mean is a row's own
    assert signal.error_at_once(one, x) == pytest.approx(1, abs=1e-6)
    all_of_them = dataclasses.replace(CELLS, num_basis=12)
    assert signal.error_at_once(all_of_them, x) == pytest.approx(0, abs=1e-6)


def test_times_of_vectors_are_those_of_the_regression():
    """The newest write's are its own; the first write's are the middles, contracted since."""
    points = LongTermConfig(num_basis=8, widths=(0.2,), num_samples=8)
    times = signal.vector_times(points, 3, 2)
    np.testing.assert_allclose(times[-2:], ridge.write_times(0.75, 8, 2)[1])
    np.testing.assert_allclose(times[:2], 0.75**2 * ridge.first_fit_times(2))
    np.testing.assert_allclose(times[2:4], 0.75 * ridge.write_times(0.75, 8, 2)[1])
    np.testing.assert_allclose(signal.vector_times(CELLS, 2, 2), [0.125, 0.375, 0.625, 0.875])


@pytest.mark.parametrize(
    "kind, num_basis, widths",
    [
        ("published", 128, (0.01, 0.05)),
        ("narrow", 16, (0.062,)),
        ("narrow", 1024, (0.016,)),  # (1 - τ)/L = .25/16
        ("published", 15, (0.01,)),
    ],
)
def test_widths_of_other_functions(kind, num_basis, widths):
    given = LongTermConfig(num_samples=64, gate=False)
    memory = signal.with_functions(given, num_basis, kind, writes=3, length=16)
    assert (memory.widths, memory.num_basis, memory.num_samples) == (widths, num_basis, num_basis)
    assert not memory.gate


def test_memories_that_cannot_be_are_left_out():
    """Cells that are contracted in pairs are a power of two, and have no widths."""
    doubling = LongTermConfig(
        num_basis=8, functions="rectangular", fit="intervals", contraction="doubling"
    )
    assert list(signal.memories(doubling, (8, 12, 16), 3, 4)) == ["8 rectangular", "16 rectangular"]
    with pytest.raises(ValueError, match=r"num_basis: found \(12,\), accepted: numbers"):
        signal.memories(doubling, (12,), 3, 4)


@pytest.fixture
def tiny(monkeypatch):
    """The presets that the tests run, in their smallest size: 76 tokens in 4 segments."""
    for name in ("infinity-former", "infinity-former-sticky", "vanilla"):
        text, config = PRESETS[name]
        small = dataclasses.replace(shrunk(config), length=76)
        monkeypatch.setitem(PRESETS, name, (text, small))


@pytest.mark.slow
def test_a_run_writes_what_its_own_memory_holds(tiny, tmp_path, capsys):
    """Writing the collected signal anew gives the coefficients that the decoder carries."""
    run = tmp_path / "run"
    sorting_main.main(["infinity-former", "--out", str(run)])
    main(["signal", "--run", str(run), "--num-basis", "16", "64", "--sequences", "3"])
    found = json.loads((run / "signal.json").read_text())
    names = ["own", "16 published", "64 published", "16 narrow", "64 narrow"]
    assert [row["name"] for row in found["memories"]] == names and found["writes"] == 2
    assert found["memories"][0]["layers"] == found["memories"][2]["layers"]  # its own N is 64
    assert "told apart" in capsys.readouterr().out and (run / "signal.png").stat().st_size > 10_000

    cfg, decoder, params, _ = training.load(SortingConfig, run)
    tokens, memory = sorting.run_batch(cfg, "test", np.arange(3)).tokens, state.init(cfg.model, 3)
    step, ops = jax.jit(decoder.apply), operators(cfg.model)
    for w in range(4):
        memory = step({"params": params}, tokens[:, w], memory, operators=ops).memory
    given = cfg.model.long_term
    again = long_term.init(given, 3, 8)
    signals = signal.written(cfg.model, params, tokens)
    assert list(signals) == [0] and signals[0].shape == (3, 2, 24, 8)
    for k in range(2):
        again = signal._write(given, again, signals[0][:, k], long_term.operators(given, 24))
    carried = memory.layers[0].long_term
    np.testing.assert_allclose(again.coeffs, carried.coeffs, rtol=1e-5, atol=1e-6)
    assert np.abs(carried.coeffs).max() > 0.01
    told = found["memories"][0]["layers"][0]
    for name, value in signal.measure(given, signals[0]).items():
        assert told[name] == pytest.approx(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, told",
    [("infinity-former-sticky", "with a sticky memory"), ("vanilla", "without a long-term memory")],
)
def test_runs_without_such_a_signal_are_refused(preset, told, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    sorting_main.main([preset, "--out", str(run)])
    with pytest.raises(SystemExit, match="2"):
        main(["signal", "--run", str(run)])
    error = capsys.readouterr().err
    assert error.startswith("error: run: found ") and told in error and error.count("\n") == 1


def given(out, *more):
    options = "--num-basis 8 16 --length 76 --lengths 52 76 --at 16 --updates 2"
    return ["precision", *options.split(), "--out", str(out), *more]


@pytest.mark.slow
def test_precision_fills_the_table(tiny, tmp_path, capsys):
    """Each N at one length, each length at one N; signals join the results, and are kept."""
    main(given(tmp_path, "--widths", "narrow"))
    files = sorted(path.name for path in tmp_path.glob("*.json"))
    assert files == ["52-narrow-16-0.json", "76-narrow-16-0.json", "76-narrow-8-0.json"]
    results = [json.loads((tmp_path / name).read_text()) for name in files]
    assert all(len(run["signal"]["memories"]) == 1 for run in results)
    assert [run["signal"]["writes"] for run in results] == [1, 2, 2]
    assert results[0]["command"].startswith("python -m experiments.analysis precision --num-basis")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2].startswith("| 8 | narrow | 76 | 1 | 0.") and len(lines) == 5
    layers = results[2]["signal"]["memories"][0]["layers"]
    assert f" | {layers[0]['in_turn']:.3f} | " in lines[2]
    rows = functions_table(results).splitlines()
    assert [row.split(" | ")[:3] for row in rows[2:]] == [
        ["| 52", "16", "narrow"],
        ["| 76", "8", "narrow"],
        ["| 76", "16", "narrow"],
    ]
    assert (tmp_path / "precision.png").stat().st_size > 10_000
    measured = [path.stat().st_mtime_ns for path in tmp_path.glob("*/*/own_signal.json")]
    main(given(tmp_path, "--widths", "narrow"))
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*/*/own_signal.json")] == measured


@pytest.mark.slow
def test_both_commands_look_at_one_run(tiny, tmp_path, capsys):
    """What `signal` has left in a cell's folder is not taken for what `precision` measures."""
    sizes = "--widths narrow --num-basis 8 --lengths 76 --at 8"
    options = given(tmp_path, *sizes.split())
    main(options)
    (run,) = tmp_path.glob("76/*")
    before = (tmp_path / "76-narrow-8-0.json").read_bytes()
    main(["signal", "--run", str(run), "--num-basis", "8", "--sequences", "2"])
    main(options)
    assert (tmp_path / "76-narrow-8-0.json").read_bytes() == before
    (run / "own_signal.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert "delete it" in capsys.readouterr().err


def test_lengths_without_a_write_are_refused(tiny, tmp_path, capsys):
    """28 tokens and 20 answers stay in the window of 24 and the segment that leaves it."""
    with pytest.raises(SystemExit, match="2"):
        main(given(tmp_path / "none", "--length", "28"))
    told = "error: length: found 28, all in the short-term memory, accepted: 29 or more\n"
    assert capsys.readouterr().err == told and not (tmp_path / "none").exists()


def test_cells_of_precision(tmp_path):
    """Hand-written: the paper's widths or one of 1/N, M = N, the length at which N differs once."""
    cfg = precision.PrecisionConfig(num_basis=(64, 128), lengths=(300,), seeds=2, out=str(tmp_path))
    made = precision.cells(cfg)
    assert [cell.row for cell in made[:6]] == [
        ("64", "published", "1,068"),
        ("64", "narrow", "1,068"),
        ("128", "published", "1,068"),
        ("128", "narrow", "1,068"),
        ("64", "published", "300"),
        ("64", "narrow", "300"),
    ]
    assert len(made) == 12 and made[6].config.seed == 1
    memories = [cell.config.model.long_term for cell in made[:4]]
    assert [m.widths for m in memories] == [(0.01, 0.05), (0.016,), (0.01, 0.05), (0.0078,)]
    assert [m.num_samples for m in memories] == [64, 64, 128, 128]
    assert made[0].config.optim.steps == 800
