"""The command line of the recall experiment: a whole tiny run, its figures, its refusals."""

import dataclasses
import json
import shlex
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.recall import data
from experiments.recall.__main__ import main
from experiments.recall.config import PRESETS, RecallConfig
from experiments.recall.task import Recall, check
from experiments.run import batches, folders, training
from inf_former_jax.training import evaluation

pytestmark = pytest.mark.slow  # whole runs

# 4 segments of 8: ages 1 (in the window), 2 and 3 (in the long-term memory).
TINY = shlex.split("""
    infinity-former --task.num-keys 6 --task.num-values 3 --task.num-noise 1
    --task.pairs-per-segment 2 --task.questions 3 --task.segments 4 --batch-size 8
    --test-documents 12 --valid-documents 8 --model.segment-len 8 --model.mem-len 8
    --model.num-layers 2 --model.num-heads 2 --model.head-dim 4 --model.d-model 8
    --model.d-inner 8 --model.long-term.num-basis 8 --model.long-term.num-samples 8
    --model.long-term.bins 8 --model.memory-gradient 0 --optim.steps 4 --optim.warmup-steps 1
    --loop.log-every 2 --loop.eval-every 2
""")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, result) of one tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    main([*TINY, "--out", str(folder)])
    return folder, json.loads((folder / "result.json").read_text())


def test_questions_are_counted_by_age(finished):
    """By age they sum to 3 a document, as many as were generated, and their accuracies to one."""
    _, result = finished
    cfg = folders.from_json(RecallConfig, result["settings"])
    ages = data.generate(0, "test", range(12), cfg.task, 8).ages
    expected = np.bincount(ages[ages > 0], minlength=4)[1:].tolist()
    assert sum(expected) == 3 * 12 and min(expected) > 0
    # A device has one row of the batch, so there is none whose memory it could read.
    assert set(result["test"]) == {"as trained", "memory emptied before every segment"}
    for row in result["test"].values():
        assert row["ages"] == [1, 2, 3] and row["questions_by_age"] == expected
        right = np.dot(row["accuracy_by_age"], expected)
        assert row["accuracy"] == pytest.approx(right / 36) and right == pytest.approx(round(right))
        # Chance on 32 words is log 32 = 3.5; nothing is learnt in 4 steps.
        assert 2.5 < row["loss"] < 4.5 and row["kl"] > 0


def test_a_run_leaves_its_files_and_provenance(finished):
    folder, result = finished
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert result["steps"] == 4 and [row[0] for row in result["curve"]] == [2, 4]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    assert [row["accuracy"] for row in valid] == [row[1] for row in result["curve"]]
    assert all(0 <= row[f"accuracy_age_{age}"] <= 1 for row in valid for age in (1, 2, 3))
    assert result["experiment"] == "recall" and result["preset"] == "infinity-former"
    assert {"command", "commit", "device", "versions", "date", "parameters"} <= result.keys()


def test_baselines_of_the_tiny_task(finished):
    """One segment of three within the window of a layer, two within that of two."""
    result = finished[1]
    whole, by_age = result["baselines"], result["baselines_by_age"]
    assert whole["chance"] == pytest.approx(1 / 3)
    assert whole["exact look-up, short-term window"] == pytest.approx(5 / 9)
    assert whole["exact look-up, 2 layers × window"] == pytest.approx(7 / 9)
    assert by_age["exact look-up, 2 layers × window"] == [1, 1, pytest.approx(1 / 3)]
    assert 1 / 3 < whole["values counted, none bound to its key"] < 1


def test_a_finished_folder_is_recognised_and_left_alone(finished, capsys):
    folder, result = finished
    files = [folder / name for name in ("config.json", "metrics.jsonl", "result.json")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    main([*TINY, "--out", str(folder)])
    out = capsys.readouterr().out
    assert f"{folder} holds the finished run" in out
    assert f"{result['test']['as trained']['accuracy']:.3f}" in out
    assert all(label in out for label in result["baselines"])
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


def test_figures_by_age_are_those_of_whole_documents(finished):
    """Context and questions apart give the loss and hits of one pass over the whole documents."""
    folder, _ = finished
    cfg, _, params, _ = training.load(RecallConfig, folder)
    site = training.site(cfg, folder)
    _, mesh, ops = site
    now = SimpleNamespace(params=params, key=jax.random.key(3))
    made = Recall(cfg, site)
    documents = data.generate(0, "test", range(8), cfg.task, 8)
    batch = data.batch(documents, 8)
    for control in ("none", "emptied"):
        found, empty = made.figures(now, "test", 8, control), control == "emptied"
        evaluate = evaluation.make_eval_step(cfg.model, empty)
        fresh = batches.fresh_memory(cfg.model, 8, mesh)
        sums, _ = evaluate(params, fresh, batch, ops, now.key)
        assert found["loss"] == pytest.approx(float(sums["loss"] / sums["weight"]), rel=1e-5)
        assert found["accuracy"] == pytest.approx(float(sums["correct"] / 24))
        for age, accuracy in zip(found["ages"], found["accuracy_by_age"], strict=True):
            weights = (documents.ages == age).astype(np.float32).reshape(8, 4, 8)
            of_age, _ = evaluate(params, fresh, batch._replace(weights=weights), ops, now.key)
            assert accuracy == pytest.approx(float(of_age["correct"] / of_age["weight"]))


# Options → all that the line has to say: which option, what was found, what is accepted.
BAD = {
    "few keys": (["--task.num-keys", "5"], ["num_keys", "at least 6", "found 5"]),
    "many questions": (["--task.questions", "7"], ["questions", "at most 6", "found 7"]),
    "short segment": (
        ["--model.segment-len", "4", "--model.mem-len", "4"],
        ["questions", "at most 2", "segments of 4", "found 3"],
    ),
    "small vocabulary": (
        ["--model.vocab-size", "9"],
        ["model.vocab_size", "found 9", "10 or more"],
    ),
    "no documents": (
        ["--test-documents", "0"],
        ["test_documents", "found 0", "number in [1, 1000000]"],
    ),
    "no batch": (["--batch-size", "0"], ["batch_size", "found 0", "number ≥ 1"]),
    "batch and mesh": (["--batch-size", "12"], ["batch_size", "found 12", "multiple"]),
    "seed": (["--seed", "-1"], ["seed", "found -1", "number in [0, "]),
    "temperature": (
        ["--model.long-term.density", "gibbs", "--model.long-term.temperature", "0"],
        ["model.long_term.temperature", "found 0.0", "number > 0"],
    ),
    "fewer cells than functions": (
        ["--model.long-term.density", "gibbs", "--model.long-term.cells", "7"],
        ["cells", "found 7 with num_basis 8", "0 or at least num_basis"],
    ),
    "a kernel for another density": (
        ["--model.long-term.density", "gibbs", "--model.long-term.read", "kernel"],
        ["read", "found kernel", "Gaussian densities"],
    ),
    "joined without content": (
        ["--model.long-term.joined"],
        ["joined", "found True", "default False"],
    ),
    "more heads by content than there are": (
        ["--model.long-term.content-heads", "2"],
        ["content_heads", "found 2", "fewer than num_heads 2"],
    ),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(options, said, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(out), *options])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and captured.out == ""
    assert all(part in lines[0] or part in lines[0].replace("-", "_") for part in said), lines
    assert not out.exists()


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_can_be_run(name):
    """They pass the check at the door, survive JSON, and ask beyond the short-term window."""
    cfg = PRESETS[name][1]
    check(dataclasses.replace(cfg, batch_size=jax.device_count()))
    assert folders.from_json(RecallConfig, folders.to_json(cfg)) == cfg
    assert cfg.model.mem_len * cfg.model.num_layers // cfg.model.segment_len < max(cfg.task.ages)
