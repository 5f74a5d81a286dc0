"""The command line of the sorting experiment: a whole tiny run, and every way to get it wrong."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.run import folders
from experiments.sorting import data
from experiments.sorting.__main__ import main
from inf_former_jax.data.text import SPLITS

ROOT = Path(__file__).parents[3]

# 50 tokens, separator and answers: 3 segments of 24, of which the third reads a memory.
TINY = shlex.split("""
    infinity-former --length 50 --batch-size 8 --test-sequences 12 --valid-sequences 8
    --model.segment-len 24 --model.mem-len 24 --model.num-layers 1 --model.num-heads 2
    --model.head-dim 4 --model.d-model 8 --model.d-inner 8 --model.long-term.num-basis 8
    --model.long-term.num-samples 8 --model.long-term.bins 8 --optim.steps 4
    --optim.warmup-steps 1 --optim.skip-nonfinite 2 --loop.log-every 2 --loop.eval-every 3
""")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name → bytes and time of the last change, of every file below."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, result) of one tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    main([*TINY, "--out", str(folder)])
    return folder, folders.read_result(folder)


def test_a_run_leaves_its_files(finished):
    folder, result = finished
    files = {name for name in contents(folder) if not name.startswith("checkpoints/")}
    assert files == {"config.json", "lock", "metrics.jsonl", "result.json", "accuracy.png"}
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert result["steps"] == 4 and [row[0] for row in result["curve"]] == [3, 4]
    until = result["seconds_until"]
    assert 0 <= until["operators"] < until["state"] < until["first update"] < until["end"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["long_term"]["num_basis"] == 8 and config["length"] == 50
    assert result["settings"] == config
    assert {"command", "commit", "device", "versions", "date"} <= result.keys()


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_left_out_and_counted(tmp_path, monkeypatch):
    """The second of four updates has an infinity; the run ends with parameters that are whole."""
    whole = data.run_batch

    def spoilt(cfg, split, numbers):
        batch = whole(cfg, split, numbers)
        second = split == "train" and 8 in numbers
        large = np.where(batch.weights > 0, np.float32("inf"), batch.weights)
        return batch._replace(weights=large) if second else batch

    monkeypatch.setattr(data, "run_batch", spoilt)
    main([*TINY, "--out", str(tmp_path / "run")])
    result = folders.read_result(tmp_path / "run")
    assert result["updates_left_out"] == 1 and result["steps"] == 4
    assert np.isfinite(result["test"]["as trained"]["loss"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows if row["split"] == "train"] == [1, 0, 0]


def test_figures_of_a_run_are_finite_and_in_range(finished):
    folder, result = finished
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [f"{row['split']} {row['step']}" for row in rows] == [
        "train 2",
        "train 3",
        "valid 3",
        "train 4",
        "valid 4",
    ]
    figures = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert np.isfinite(figures).all()
    assert set(result["test"]) == {"as trained", "memory emptied before every segment"}
    for row in result["test"].values():
        assert 0 <= row["accuracy"] <= 1 and 0 < row["loss"] < 10 and row["kl"] > 0
    assert [row.get("skipped") for row in rows] == [0, 0, None, 0, None]
    assert result["updates_left_out"] == 0 and rows[0]["memory_norm"] > 0
    # Chance on 22 words is log 22 = 3.1; nothing is learnt in 4 steps.
    assert 2.5 < rows[0]["loss"] < 4.5


def test_baselines_come_in_increasing_order(finished):
    values = list(finished[1]["baselines"].values())
    assert len(values) == 4 and values == sorted(values) and len(set(values)) > 2
    assert values[0] == data.elimination_accuracy() and values[-1] == 1


def test_a_finished_folder_is_recognised_and_left_alone(finished, capsys):
    """The table is printed again; only the picture may be drawn anew, the same."""
    folder, result = finished
    before = contents(folder)
    main([*TINY, "--out", str(folder)])
    out = capsys.readouterr().out
    assert f"{folder} holds the finished run" in out
    assert f"{result['test']['as trained']['accuracy']:.3f}" in out
    assert all(label in out for label in result["baselines"])
    after = contents(folder)
    assert after.keys() == before.keys()
    for name in ("config.json", "metrics.jsonl", "result.json"):
        assert after[name] == before[name], name


def refused(capsys, *argv: str) -> str:
    """The one line of standard error with which the options are refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and captured.out == "", captured
    return lines[0]


# Options → all that the line has to say: which option, what was found, what is accepted.
BAD = {
    "N and widths": (["--model.long-term.num-basis", "9"], ["num_basis", "9", "multiple"]),
    "mem_len": (["--model.mem-len", "30"], ["mem_len", "30", "multiple of segment_len 24"]),
    "tau 0": (["--model.long-term.tau", "0"], ["tau", "found 0", "(0, 1)"]),
    "tau 1": (["--model.long-term.tau", "1.0"], ["tau", "found 1.0", "(0, 1)"]),
    "ridge": (["--model.long-term.ridge", "-1"], ["ridge", "found -1", "> 0"]),
    "short segment": (
        ["--model.segment-len", "16", "--model.mem-len", "16"],
        ["segment_len", "20 or more", "found 16"],
    ),
    "straddling answer": (["--length", "60"], ["length", "found 60", "accepted is 52"]),
    "small vocabulary": (["--model.vocab-size", "21"], ["model.vocab-size", "21", "22"]),
    "batch and mesh": (["--batch-size", "12"], ["batch", "found 12", "multiple", "8"]),
    "mesh": (["--mesh-model", "3"], ["mesh", "found 3", "divisor of 8"]),
    "no batch": (["--batch-size", "0"], ["batch", "0"]),
    "no test": (["--test-sequences", "0"], ["test", "found 0", "number in [1, 1000000]"]),
    "rate": (["--optim.learning-rate", "-1"], ["learning_rate", "found -1", "> 0"]),
    "warm-up": (["--optim.warmup-steps", "4"], ["warmup_steps", "found 4", "< steps"]),
    "seed": (["--seed", "-1"], ["seed", "found -1", "number in [0, "]),
    "no data": (["--data", "/nowhere"], ["/nowhere/train.txt"]),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(options, said, tmp_path, capsys):
    out = tmp_path / "run"
    line = refused(capsys, *TINY, "--out", str(out), *options)
    assert all(part in line.replace("_", "-") or part in line for part in said), line
    assert not out.exists()


def test_a_larger_vocabulary_is_accepted_as_an_option(tmp_path, capsys):
    """Words that never come cost a little; the run itself is refused for another reason here."""
    line = refused(capsys, *TINY, "--model.vocab-size", "30", "--out", str(ROOT / "tests"))
    assert "vocab" not in line and str(ROOT / "tests") in line


# What is wrong in the third line of a data file → what is said of it.
LINES = {
    "id outside": (lambda ids: ["21", *ids[1:]], ["0..20", "'21'"]),
    "negative id": (lambda ids: ["-1", *ids[1:]], ["0..20", "'-1'"]),
    "no separator": (lambda ids: [*ids[:50], *ids[51:]], ["one separator", "found 0"]),
    "two separators": (lambda ids: ["20", *ids[1:]], ["one separator", "found 2"]),
    "shorter": (lambda ids: ids[1:], ["50 tokens", "found 49"]),
    "longer": (lambda ids: ["3", *ids], ["50 tokens", "found 51"]),
    "short answer": (lambda ids: ids[:-1], ["found 19 tokens"]),
    "answer twice": (lambda ids: [*ids[:-1], ids[-2]], ["19 of them different"]),
    "empty": (lambda ids: [], ["separator", "found 0"]),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("change", "said"), LINES.values(), ids=LINES)
def test_bad_data_files_are_refused_with_their_line(change, said, split, tmp_path, capsys):
    for name in SPLITS:
        data.write(tmp_path / f"{name}.txt", *data.generate(0, name, np.arange(4), 50))
    path = tmp_path / f"{split}.txt"
    lines = path.read_text().splitlines()
    lines[2] = " ".join(change(lines[2].split()))
    path.write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    line = refused(capsys, *TINY, "--data", str(tmp_path), "--out", str(out))
    assert f"{path}:3: " in line and all(part in line for part in said), line
    assert not out.exists()


def test_a_folder_with_another_run_is_refused(finished, capsys):
    folder, _ = finished
    before = contents(folder)
    line = refused(capsys, *TINY, "--out", str(folder), "--optim.learning-rate", "0.5")
    assert str(folder) in line and "optim.learning_rate: 0.002 → 0.5" in line
    assert contents(folder) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    line = refused(capsys, *TINY, "--out", str(tmp_path))
    assert str(tmp_path) in line and "accepted" in line
    assert set(contents(tmp_path)) == {"thesis.tex"}


def test_a_config_that_is_no_json_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    line = refused(capsys, *TINY, "--out", str(tmp_path))
    assert str(tmp_path / "config.json") in line or str(tmp_path) in line
    assert (tmp_path / "config.json").read_text() == "{"


def test_tensorboard_without_its_package_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    out = tmp_path / "run"
    line = refused(capsys, *TINY, "--tensorboard", "--out", str(out))
    assert "tensorboard" in line and "pip install" in line and not out.exists()


def test_unknown_options_suggest_the_near_one(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(tmp_path / "run"), "--optim.learnin-rate", "0.1"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert "--optim.learnin-rate" in captured.err and "--optim.learning-rate" in captured.err


def test_unknown_presets_list_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["infinity-formr"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "infinity-former-sticky" in captured.err


def test_help_in_a_process_of_its_own():
    """It lists the options with the preset's values, and needs neither a device nor matplotlib."""
    program = (
        "import sys; sys.modules['matplotlib'] = None; "
        "from experiments.sorting.__main__ import main; main(['transformer-xl', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "--model.mem-len 128" in done.stdout


def test_refusal_in_a_process_of_its_own(tmp_path):
    """As a user meets it: one line, no traceback, status 2."""
    options = [*TINY, "--model.long-term.tau", "2", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "experiments.sorting", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "tau" in line and "(0, 1)" in line
