"""The analysis commands, on memories of a few numbers."""

import json
import math

import numpy as np
import pytest

from experiments.analysis import __main__ as analysis
from experiments.analysis import choose
from experiments.analysis.choose import ChooseConfig
from experiments.analysis.search import climb
from inf_former_jax.memory.fit import ridge as regression
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.regression import degrees_of_freedom
from inf_former_jax.memory.retained import retention

SMALL = ["--num-basis", "12", "--num-samples", "16", "--widths", "0.05", "0.2"]
SMALL += ["--length", "8", "--writes", "5"]


def test_retention_writes_what_the_function_finds(tmp_path, capsys):
    """Arrays to the bit, the table's and the result's figures their means, and a picture."""
    options = ["--taus", "0.5", "--powers", "1", "2", "--detail", "1", "--ages", "0", "4", "7"]
    analysis.main(["retention", *SMALL, *options, "--out", str(tmp_path / "new" / "folder")])
    folder, said = tmp_path / "new" / "folder", capsys.readouterr().out
    base = {"num_basis": 12, "num_samples": 16, "widths": (0.05, 0.2)}
    made = {"τ = 0.5": LongTermConfig(**base, tau=0.5)}
    for power in (1.0, 2.0):
        made[f"p = {power:g}"] = LongTermConfig(**base, contraction="power", power=power)
    result = json.loads((folder / "result.json").read_text())
    arrays = np.load(folder / "retention.npz")
    assert list(arrays["contractions"]) == list(made) == list(result["retention"])
    for i, (label, cfg) in enumerate(made.items()):
        found = retention(cfg, 5, length=8, detail=1)
        for name in found._fields:
            np.testing.assert_array_equal(arrays[name][i], getattr(found, name))
        for read in ("linear", "density"):
            by_age = getattr(found, read).mean(1)
            assert result["retention"][label][read] == by_age.tolist()
            cells = [label, read, f"{by_age[0]:.2f}", f"{by_age[4]:.2f}", f"{by_age.mean():.3f}"]
            line = [cell.strip() for row in said.splitlines() for cell in row.split("│")]
            at = [i for i, cell in enumerate(line) if cell == label]
            assert any(line[i : i + 5] == cells for i in at)
    assert result["settings"]["detail"] == 1
    assert result["command"].startswith("python -m experiments.analysis retention --num-basis 12")
    assert (folder / "retention.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "retention.png").stat().st_size > 10_000


def test_retention_of_sticky_memories_is_at_flat_salience(tmp_path):
    """Each way to place the samples beside the uniform grid, named."""
    options = ["--taus", "0.5", "--powers", "--locations", "uniform", "quantile", "draw"]
    analysis.main(["retention", *SMALL, *options, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "result.json").read_text())["retention"]
    base = {"num_basis": 12, "num_samples": 16, "widths": (0.05, 0.2), "tau": 0.5}
    assert list(found) == ["τ = 0.5", "τ = 0.5, quantile", "τ = 0.5, draw"]
    for label, locations in zip(list(found)[1:], ("quantile", "draw"), strict=True):
        cfg = LongTermConfig(**base, sticky=True, locations=locations)
        expected = retention(cfg, 5, length=8, salience=np.ones(128)).density[:, 0]
        assert found[label]["density"] == expected.tolist() != found["τ = 0.5"]["density"]


@pytest.fixture
def coarse_grid(monkeypatch):
    """Two or three values of each coordinate."""
    for name, values in {
        "NARROW": (0.5, 1.0, 2.0),
        "RATIOS": (1.0, 5.0),
        "RIDGES": (0.1, 1.0),
        "TAUS": (0.75, 0.95),
        "POWERS": (1.2, 1.0),
        "SAMPLES": (1.0, 2.0),
    }.items():
        monkeypatch.setattr(choose, name, values)


CHOOSE = ["choose", "--tokens", "30", "--segment", "8", "--num-basis", "6", "--restarts", "0"]


def test_choose_finds_more_than_the_published_constants_keep(coarse_grid, tmp_path, capsys):
    """The code to paste gives the figures of its row; the best row comes first."""
    analysis.main([*CHOOSE, "--rows", "2", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    first, second = result["best"]
    assert first["density"] >= second["density"] > result["published"]["density"]
    cfg = eval(first["config"], {"LongTermConfig": LongTermConfig})
    found = retention(cfg, 4, length=8, points=choose.POINTS)
    assert first["density"] == found.density.mean() and first["linear"] == found.linear.mean()
    assert first["worst"] == found.density.min()
    times = np.concatenate(regression.write_times(cfg.tau_of(4), cfg.num_samples, 8))
    zeros = regression.write_padding(cfg.num_samples, 8)
    assert first["degrees"] == degrees_of_freedom(cfg.basis, times, cfg.ridge, zeros)
    said = capsys.readouterr().out
    assert f"1: {first['config']}\n" in said and f"{result['tried']} memories tried" in said
    assert f"{first['density']:.3f}" in said


@pytest.mark.slow
def test_choose_repeats_itself_for_a_seed(coarse_grid):
    """Without a cut by time the same memories are tried, to the bit."""
    cfg = ChooseConfig(tokens=16, segment=8, num_basis=4, restarts=1)
    (rows, tried), again = choose.search(cfg), choose.search(cfg)
    assert again == (rows, tried) and tried > len(rows) == 5
    published = choose.measure(cfg, LongTermConfig(num_basis=4, num_samples=4))
    assert rows[0]["density"] > published["density"]


def test_choose_ends_after_its_minutes():
    """With no time at all the first start alone is tried."""
    rows, tried = choose.search(ChooseConfig(tokens=16, num_basis=4, minutes=1e-9))
    assert tried == len(rows) == 1
    assert "contraction='power', power=1.0, horizon=1" in rows[0]["config"]


def test_choose_takes_no_memory_above_the_bound_of_its_operators():
    """N = 2,048 and 64 contractions take a GiB: none of those is tried, fixed ones are."""
    cfg = ChooseConfig(tokens=8192, num_basis=2048)
    point = {"narrow": 1.0, "ratio": 1.0, "ridge": 1.0, "samples": 0.5}
    with pytest.raises(ValueError, match=r"^max_operator_mib: "):
        choose.memory_of(cfg, {**point, "contraction": ("power", 1.0)})
    made = choose.memory_of(cfg, {**point, "contraction": ("fixed", 0.95)})
    assert (made.tau, made.num_samples, made.widths) == (0.95, 1024, (0.016,))


def test_climb_finds_the_top_of_a_hill_and_tries_nothing_twice():
    """From both corners; the rows come with their scores, the best first."""
    axes, asked = {"a": tuple(range(9)), "b": "uvwxyz"}, []

    def score(point):
        asked.append((point["a"], point["b"]))
        if point["a"] == 8:
            return -math.inf
        return -((point["a"] - 5) ** 2) - 3 * abs("uvwxyz".index(point["b"]) - 2)

    starts = [{"a": 0, "b": "z"}, {"a": 8, "b": "u"}]
    found = climb(axes, score, starts, restarts=1, seed=0)
    assert found[0] == (0, {"a": 5, "b": "w"})
    assert [value for value, _ in found] == sorted((value for value, _ in found), reverse=True)
    assert len(asked) == len(set(asked)) and math.inf not in [abs(value) for value, _ in found]
    begin = list(asked)
    asked.clear()
    climb(axes, score, starts, restarts=1, seed=0)
    assert asked == begin
    cut = climb(axes, score, starts, restarts=1, seed=0, stop=lambda: len(asked) >= 3 + len(begin))
    assert len(cut) == 3 and found[0] not in cut


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["retention", "--powers", "0"], "power"),
        (["retention", "--horizon", "0"], "horizon"),
        (["retention", "--taus", "1"], "tau"),
        (["retention", "--ages", "-1"], "ages"),
        (["retention", "--taus", "--powers"], "taus, powers"),
        (["retention", "--length", "6", "--detail", "2"], "detail"),
        (["retention", "--detail", "-1"], "detail"),
        (["retention", "--writes", "0"], "writes"),
        (["retention", "--widths", "0.1", "0.2", "--num-basis", "5"], "num_basis"),
        (["retention", "--ridge", "x"], "ridge"),
        (["retain"], "command"),
        ([], "command"),
        (["choose", "--tokens", "0"], "tokens"),
        (["choose", "--minutes", "0"], "minutes"),
        (["choose", "--min-var", "0"], "min_var"),
        (["choose", "--restarts", "-1"], "restarts"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(argv, name, tmp_path, capsys):
    """Option, found, accepted; and nothing is written."""
    out = ["--out", str(tmp_path / "out")] if argv and argv[0] != "retain" else []
    with pytest.raises(SystemExit) as stop:
        analysis.main([*argv, *out])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert name in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["retention", *SMALL], CHOOSE], ids=lambda argv: argv[0])
def test_an_out_that_cannot_be_written_is_refused(argv, tmp_path, capsys):
    """A file in the folder's place, before anything is computed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        analysis.main([*argv, "--out", str(tmp_path / "file" / "folder")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
