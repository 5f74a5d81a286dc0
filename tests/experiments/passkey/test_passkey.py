"""The command line of the passkey probe: a whole tiny run, its figures, its refusals."""

import dataclasses
import json
import shlex
import shutil
from itertools import islice
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.passkey import data
from experiments.passkey.__main__ import main
from experiments.passkey.config import PRESETS, PasskeyConfig
from experiments.passkey.task import Passkey, check, documents
from experiments.run import batches, folders, training
from experiments.run.experiment import Site
from inf_former_jax.data.text import SPLITS
from inf_former_jax.models.decoder import operators
from inf_former_jax.training import evaluation, sharding

pytestmark = pytest.mark.slow  # whole runs

# 4 segments of 42: distances 1 (in the window) and 3 (in the long-term memory).
TINY = shlex.split("""
    infinity-former --task.distances 3 1 --task.digits 2 --batch-size 8 --test-documents 12
    --valid-documents 8 --model.segment-len 42 --model.mem-len 42 --model.num-layers 2
    --model.num-heads 2 --model.head-dim 4 --model.d-model 8 --model.d-inner 8
    --model.long-term.num-basis 8 --model.long-term.num-samples 8 --model.long-term.bins 8
    --optim.steps 4 --optim.warmup-steps 1 --loop.log-every 2 --loop.eval-every 2
""")
CONTROL = "memory emptied before every segment"


def write_texts(folder, size=400):
    """Three splits of one book each, of `size` letters."""
    for number, split in enumerate(SPLITS):
        letters = np.random.default_rng(number).integers(97, 123, size=size)
        (folder / split).mkdir(parents=True)
        (folder / split / "book.txt").write_text("".join(map(chr, letters)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts):
    """(folder, result) of one tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    main([*TINY, "--data", str(texts), "--out", str(folder)])
    return folder, json.loads((folder / "result.json").read_text())


def test_the_result_counts_documents_at_every_distance(finished):
    """Digits and keys of 12 documents each at 1 and 3; untrained: loss near that of 257 tokens."""
    _, result = finished
    # A device has one row of the batch, so there is none whose memory it could read.
    assert set(result["test"]) == {"as trained", CONTROL}
    for row in result["test"].values():
        assert row["distances"] == [1, 3] and row["documents"] == 12
        digits = np.array(row["accuracy_by_distance"]) * 24
        keys = np.array(row["keys_by_distance"]) * 12
        assert digits == pytest.approx(digits.round()) and keys == pytest.approx(keys.round())
        assert row["accuracy"] == pytest.approx(digits.sum() / 48)
        assert row["keys"] == pytest.approx(keys.sum() / 24) and (2 * keys <= digits + 1e-6).all()
        assert 4.5 < row["loss"] < 6.5  # log 257 = 5.5; nothing is learnt in 4 steps
    assert result["steps"] == 4 and [row[0] for row in result["curve"]] == [2, 4]
    assert result["experiment"] == "passkey" and result["preset"] == "infinity-former"


def test_a_run_of_an_older_version_is_known(finished, texts, tmp_path, capsys):
    """Before runs could begin with a published model, configs had no such field."""
    folder = shutil.copytree(finished[0], tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("init_from") == "" and config["tokenizer"] == "bytes"
    (folder / "config.json").write_text(json.dumps(config))
    main([*TINY, "--data", str(texts), "--out", str(folder)])
    assert "digits, as trained" in capsys.readouterr().out


def test_baselines_of_the_tiny_task(finished):
    """Distance 1 is within the window of a layer, 3 beyond that of two."""
    assert finished[1]["baselines_by_distance"] == {
        "chance": [0.1, 0.1],
        "exact look-up, short-term window": [1, 0.1],
        "exact look-up, 2 layers × window": [1, 0.1],
    }


def test_a_run_leaves_its_files(finished):
    folder, result = finished
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    assert [row["accuracy"] for row in valid] == [row[1] for row in result["curve"]]
    for row in valid:
        by_distance = [row[f"accuracy_distance_{distance}"] for distance in (1, 3)]
        assert row["accuracy"] == pytest.approx(np.mean(by_distance))


def test_a_finished_folder_is_recognised_and_left_alone(finished, texts, capsys):
    folder, result = finished
    files = [folder / name for name in ("config.json", "metrics.jsonl", "result.json")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    main([*TINY, "--data", str(texts), "--out", str(folder)])
    out = capsys.readouterr().out
    assert f"{folder} holds the finished run" in out
    assert all(f"{what}, as trained" in out for what in ("digits", "whole keys"))
    assert all(label in out for label in result["baselines_by_distance"])
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


@pytest.fixture(scope="module")
def probe(finished):
    """(config, the task, a state) of the finished run."""
    cfg, _, params, _ = training.load(PasskeyConfig, finished[0])
    made = Passkey(cfg, training.site(cfg, finished[0]))
    return cfg, made, SimpleNamespace(params=params, key=jax.random.key(3))


def test_figures_are_those_of_whole_documents(probe):
    """Context and question apart give the loss and hits of one pass over the whole documents."""
    cfg, made, now = probe
    ops, fresh = operators(cfg.model), batches.fresh_memory(cfg.model, 8, sharding.make_mesh())
    losses = {}
    for control in ("none", "emptied"):
        found, empty = made.figures(now, "test", 8, control), control == "emptied"
        evaluate = evaluation.make_eval_step(cfg.model, empty)
        losses[empty] = []
        for number, distance in enumerate((1, 3)):
            asked = documents(cfg, "test", np.arange(8), distance)
            sums, _ = evaluate(now.params, fresh, data.batch(asked, 42), ops, now.key)
            assert float(sums["weight"]) == 16
            assert found["accuracy_by_distance"][number] == float(sums["correct"]) / 16
            losses[empty].append(float(sums["loss"]) / 16)
        assert found["loss"] == pytest.approx(np.mean(losses[empty]), rel=1e-5)
    assert losses[True] != pytest.approx(losses[False], rel=1e-6)


def test_digits_and_keys_by_hand(probe):
    """A model that says "7" whatever it reads: each digit 7 is right, and each key 7 7."""
    cfg, made, now = probe
    params = jax.tree.map(np.asarray, now.params)
    bias, kernel = np.zeros(8, np.float32), np.zeros((8, 257), np.float32)
    bias[0], kernel[0, ord("7")] = 1e3, 1.0  # pre-norm: the last layer's bias is in every logit
    params["block_1"]["outer"]["bias"], params["logits"]["kernel"] = bias, kernel
    sevens = SimpleNamespace(params=params, key=now.key)
    found = made.figures(sevens, "train", 150, "none")
    keys = documents(cfg, "train", np.arange(150)).tokens[:, [-3, -1]] == ord("7")
    assert 0 < keys.all(axis=1).sum() < keys.sum() / 2
    assert found["accuracy_by_distance"] == pytest.approx([keys.mean()] * 2)
    assert found["keys_by_distance"] == pytest.approx([keys.all(axis=1).mean()] * 2)


def test_the_text_has_its_weight_in_training_only(texts):
    """A batch weighs every token of the text; what is evaluated, the digits alone."""
    cfg = PRESETS["transformer-xl"][1]
    cfg = dataclasses.replace(
        cfg, data=str(texts), batch_size=8, task=data.Sizes((1, 3), 2, text_weight=0.5)
    )
    made = Passkey(cfg, Site(texts, sharding.make_mesh(), None))
    weights = made.batch(0, np.arange(8)).weights.reshape(8, -1)
    assert (weights.sum(axis=1) >= 2 + 0.5 * (4 * 64 - 34 - 42 - 1)).all()
    assert ((weights == 1).sum(axis=1) == 2).all()


def test_a_resumed_run_goes_on_with_the_next_batch(probe):
    """From update 1 on: what update 1 would have read, and not what update 0 did."""
    mesh, make = sharding.make_mesh(), probe[1].batch
    tokens = [np.asarray(batch.tokens) for batch in islice(batches.placed(make, 8, mesh), 2)]
    resumed = np.asarray(next(batches.placed(make, 8, mesh, begin=1)).tokens)
    assert (resumed == tokens[1]).all() and (resumed != tokens[0]).any()


# Options → all that the line has to say: which option, what was found, what is accepted.
BAD = {
    "no data": (["--data", ""], ["data: found none, accepted: a folder of text"]),
    "no such folder": (["--data", "/nowhere"], ["/nowhere: found nothing", "accepted: a folder"]),
    "tokenizer": (
        ["--tokenizer", "/none"],
        ["/none: found no tokeniser, accepted: tokenizer.json"],
    ),
    "short segment": (
        ["--model.segment-len", "40", "--model.mem-len", "40"],
        ["segment_len: found 40, accepted: 42 or more"],
    ),
    "short text": (["--task.distances", "12"], ["text: found ", "accepted: 470 or more"]),
    "distances": (
        ["--task.distances", "0"],
        ["distances: found 0, accepted: a whole number"],
    ),
    "small vocabulary": (
        ["--model.vocab-size", "256"],
        ["model.vocab_size", "found 256", "257 or more", "bytes"],
    ),
    "no documents": (
        ["--test-documents", "0"],
        ["test_documents", "found 0", "number in [1, 1000000]"],
    ),
    "batch and mesh": (["--batch-size", "12"], ["batch_size", "found 12", "multiple"]),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(options, said, texts, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--data", str(texts), "--out", str(out), *options])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and captured.out == ""
    assert all(part in lines[0] for part in said), lines
    assert not out.exists()


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_can_be_run(name, tmp_path):
    """They pass the check at the door, survive JSON, and ask beyond the layers' windows.

    A published model's 30 layers could hand on more than 8 segments. It is refused without weights.
    """
    folder = write_texts(tmp_path, 65 * 64)
    cfg = PRESETS[name][1]
    assert folders.from_json(PasskeyConfig, folders.to_json(cfg)) == cfg
    if cfg.optim.trained == "all":
        layers = cfg.model.mem_len * cfg.model.num_layers // cfg.model.segment_len
        assert layers < max(cfg.task.distances)
    run = dataclasses.replace(cfg, data=str(folder), batch_size=jax.device_count())
    if cfg.optim.trained == "memory":
        with pytest.raises(ValueError, match=r"optim.trained: found memory without --init-from"):
            check(run)
    else:
        check(run)
