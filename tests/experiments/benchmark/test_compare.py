"""A stored result beside a new one, and two commits in turns: ratios by hand, and refusals."""

import contextlib
import json
from pathlib import Path

import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import compare
from experiments.benchmark.timing import BenchmarkConfig
from experiments.results.benchmark import benchmark_table

ROOT = Path(__file__).parents[3]


def steps(seconds, rate, **more):
    """A result of the measure steps with one row."""
    row = {"preset": "small", "schedule": "sequential", "dtype": "float32", "batch": 8, **more}
    row |= dict.fromkeys(("floor", "share", "bytes_floor", "bytes_share", "least"), 0.0)
    row |= dict.fromkeys(("temporaries_mib", "trace", "compile", "program_bytes"), 0)
    row |= {"seconds": seconds, "tokens_per_second": 1.0}
    return {"steps": {"rates": {"float32": rate, "bytes": 5e9}, "rows": [row]}}


def test_ratios_beside_a_stored_result():
    """Twice as fast on a machine that is 1.25 × as fast: 1.6 × at one rate."""
    then, now = steps(0.5, 2e11), steps(0.25, 2.5e11, devices=2)
    assert compare.beside(then, now, "steps") == [
        ["a training step of `small`, B 8, sequential, float32", "0.5 s", "0.25 s", "2.00", "1.60"],
        ["probe: float32, G/s", "200", "250", "1.25", ""],
        ["probe: bytes, G/s", "5", "5", "1.00", ""],
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "benchmark").glob("*.json")), ids=str)
def test_every_stored_result_is_read(path):
    """Beside itself each row is as fast."""
    then = compare.stored(str(path))
    for measure in then:
        rows = compare.beside(then, then, measure)
        assert rows and all(row[3] == "1.00" and row[4] in ("1.00", "") for row in rows)


def test_the_command_shows_a_stored_result(tmp_path, monkeypatch, capsys):
    """Of the measures of a file the one that is asked for is measured anew."""
    (tmp_path / "old.json").write_text(json.dumps({"found": steps(0.5, 2e11)}))
    monkeypatch.setitem(benchmark.MEASURES, "steps", lambda cfg: steps(0.25, 2e11)["steps"])
    benchmark.main(["--compare", str(tmp_path / "old.json"), "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "then / now" in shown and shown.count("2.00") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"old.json", "steps.json", "steps.png"}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "none.json: found nothing, accepted: a commit, or a file"),
        ("[]", [], "accepted: a commit, or a file"),
        ('{"found": 3}', [], "(without rows), accepted: a commit, or a file"),
        ('{"found": {"steps": {}}}', [], "('rows'), accepted: a commit, or a file"),
        (json.dumps({"found": steps(1, 1)}), ["--measure", "memory"], "of steps, accepted: of"),
    ],
)
def test_refused_files(content, options, message, tmp_path, capsys):
    path = tmp_path / "none.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--compare", str(path), "--out", str(tmp_path / "out"), *options])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_refused_commit(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--compare", "no-such-commit", "--out", str(tmp_path / "out")])
    message = "compare: found no-such-commit, accepted: a commit of this checkout, or a file"
    assert stopped.value.code == 2 and message in capsys.readouterr().err


class Stub:
    """A worker whose updates take what a list says; it is asked for one update first."""

    turns: tuple[str, ...] = ()

    def __init__(self, name, seconds):
        self.tokens, self.devices, self._name, self._seconds = 640, len(name) - 2, name, seconds

    def run(self, updates):
        Stub.turns += (self._name,)
        assert updates == (1 if len(Stub.turns) <= 2 else 5)
        return next(self._seconds)


def test_commits_take_turns(monkeypatch, tmp_path):
    """Ratios of pairs 2, 4, 3 and of the least .2 / .1; a preset of today only says why."""
    Stub.turns = ()
    refusal = "recall sequential: found KeyError, accepted: a training step"

    @contextlib.contextmanager
    def working(root, preset, *_):
        name, seconds = ("then", [0.1, 0.2, 0.8, 0.6]) if root == tmp_path else ("now", [0.1] * 2)
        if preset == "recall":
            raise ValueError(
                f"{root}: recall sequential: found KeyError, accepted: a training step"
            )
        yield Stub(name, iter(seconds + [0.2] * 2 if name == "now" else seconds))

    monkeypatch.setattr(compare, "working", working)
    monkeypatch.setattr(compare, "checkout", lambda commit: contextlib.nullcontext(tmp_path))
    cfg = BenchmarkConfig(presets=("small", "recall"), repeats=3)
    found = compare.pairs(cfg, "c0ffee")
    assert Stub.turns == ("then", "now", "now", "then", "then", "now", "now", "then")
    row, refused = found["rows"]
    assert refused["refused"] == refusal
    assert (row["ratio"], row["least_ratio"]) == (pytest.approx(3), pytest.approx(2))
    assert (row["then"], row["seconds"]) == (0.6, 0.2)
    result = {"found": {"compare": found}, "device": "cpu", "commit": "c", "date": "d"}
    assert benchmark_table([result]).splitlines()[2] == (
        "| a training step of `small`, sequential, beside c0ffee | 200 ms | 3.00 × as fast in "
        "pairs, 2.00 by the least; then 600 ms on 2 devices, now on 1; 3,200 tokens/s | cpu, c, d |"
    )
    with pytest.raises(ValueError, match=f"^compare: c0ffee: found {refusal}, acc"):
        compare.pairs(BenchmarkConfig(presets=("recall",)), "c0ffee")


def test_the_code_of_a_commit():
    """What was committed, without the history."""
    with compare.checkout(compare.commit_of("HEAD")) as folder:
        assert (folder / "inf_former_jax" / "require.py").is_file()
        assert {path.name for path in folder.iterdir()} == {"inf_former_jax", "experiments"}
    assert not folder.exists()
