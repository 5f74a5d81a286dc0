"""A published Llama wherever a run folder is taken: it trains, writes, is evaluated and talks."""

import dataclasses
import io
import json
import shlex
import sys
from typing import Any

import jax
import numpy as np
import pytest

from experiments import generate
from experiments.dialogue import __main__ as dialogue
from experiments.language_modeling import __main__ as language_modeling
from experiments.language_modeling import start
from experiments.passkey import __main__ as passkey
from experiments.run.tables import CONTROL
from experiments.weights import __main__ as weights
from inf_former_jax.data.tokens import load_bpe
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.models.convert import llama
from inf_former_jax.models.decoder import Decoder
from tests.data.test_tokens import write_small
from tests.experiments.passkey.test_passkey import write_texts

pytestmark = pytest.mark.slow  # whole runs

VOCAB, T = 241, 8
T_PASSKEY = 64  # has room for the statement
#: Fewer positions than the segments of the tests have: a rotary model is not bound by them.
LLAMA = presets.smollm2(
    vocab_size=VOCAB,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    d_model=16,
    d_inner=24,
    segment_len=4,
    mem_len=0,
    sinks=0,
    norm_epsilon=1e-3,
    max_position=4,
    rope_theta=50.0,
)
WORDS = ["sea", "whale", "ship", "the", "of", "12"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny random Llama as it is saved, with a tokeniser that lacks some bytes."""
    root = tmp_path_factory.mktemp("published")
    write_small(root / "tokenizer")
    tokens, memory = np.zeros((1, 4), np.int32), state.init(LLAMA, 1)
    params = jax.jit(Decoder(LLAMA).init)(jax.random.key(0), tokens, memory)["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # far from uniform
    llama.save(LLAMA, params, root / "llama", tokenizer=root / "tokenizer", eos=2)
    return root / "llama"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Books of words that repeat. One of a train book's characters has no token."""
    folder, rng = tmp_path_factory.mktemp("books"), np.random.default_rng(0)
    for split, count in {"train": 8, "valid": 1, "test": 2}.items():
        (folder / split).mkdir()
        for i in range(count):
            text = " ".join(rng.choice(WORDS, 12 + i))
            odd = "\x04" if (split, i) == ("train", 0) else ""
            (folder / split / f"{i}.txt").write_text(text + odd)
    return folder


def loaded(published, segment_len):
    """The model by its own loader."""
    cfg, params = llama.load(published)
    return dataclasses.replace(cfg, segment_len=segment_len), jax.device_put(params)


def train(preset, published, data, out, *options):
    """The result of two updates."""
    given = shlex.split(f"""
        {preset} --init-from {published} --data {data} --cache {out.parent / "cache"} --out {out}
        --model.segment-len {T} --batch-size 8 --optim.steps 2 --optim.warmup-steps 0
        --model.long-term.num-basis 8 --sample 4
    """)
    language_modeling.main([*given, *options])
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize(
    "preset, options",
    [
        ("gpt2-infinity-content", []),
        ("gpt2-infinity", ["--model.long-term.num-samples", "8"]),
    ],
)
def test_a_memory_is_grafted_and_trained(preset, options, published, data, tmp_path):
    """Cells that are read by content, and the paper's Gaussian densities.

    At a rate of almost nothing both are the Llama itself, whose figures `evaluate` has.
    """
    frozen = ["--optim.learning-rate", "1e-12", "--optim.memory-learning-rate", "1e-12"]
    result = train(preset, published, data, tmp_path / "run", *options, *frozen)
    model = result["settings"]["model"]
    assert (model["position"], model["num_kv_heads"], model["rope_theta"]) == ("rotary", 2, 50.0)
    assert (model["segment_len"], model["max_position"], model["vocab_size"]) == (T, 4, VOCAB)
    assert result["steps"] == 2 and len(result["test"]) == 2
    assert {name: split["dropped"] for name, split in result["splits"].items()} == {
        "train": 1, "valid": 0, "test": 0
    }  # fmt: skip
    plain = evaluated(published, data, tmp_path)["test"]["as trained"]["loss"]
    for row in result["test"].values():
        assert row["loss"] == pytest.approx(plain, rel=1e-5)
    learnt = train(preset, published, data, tmp_path / "again", *options)
    assert learnt["test"]["as trained"]["loss"] < plain - 1e-3
    assert load_bpe(tmp_path / "again").end == 2  # the run keeps the tokeniser and its end
    generate.main(["--model", str(tmp_path / "again"), "--prompt", "the sea", "--tokens", "4"])


def test_a_trained_memory_is_a_folder_of_its_own(published, data, tmp_path, capsys):
    """Beside the published model it gives the run's figures, but for the rounding of bfloat16."""
    run, mine, window = tmp_path / "run", tmp_path / "mine", f"--window {T} --sinks 2"
    options = f"""
        --optim.trained memory --optim.learning-rate 0.1 --model.long-term-layers 1 --model.sinks 2
        --model.cell-distance 9 --model.mem-len {T}
    """
    train("smollm2-infinity", published, data, run, *shlex.split(options))
    weights.main(["memory", "--run", str(run), "--out", str(mine)])
    assert "0.0 MB of parameters in bfloat16, of 2 updates" in capsys.readouterr().out
    old = evaluated(run, data, tmp_path / "old", segments="")
    new = evaluated(published, data, tmp_path / "new", "--memory", str(mine), segments="")
    plain = evaluated(published, data, tmp_path / "plain", *window.split())
    losses = [found["test"]["as trained"]["loss"] for found in (old, new, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert abs(losses[2] - losses[0]) > 1e-4
    prompt = ["--memory", str(mine), "--prompt", "the sea of 12 whale", "--tokens", "4"]
    generate.main(["--model", str(published), *prompt])


def test_lower_layers_are_run_once_for_several_runs(published, data, tmp_path):
    """A run, its control and an evaluation find what the first one computed: the same figures."""
    kept = tmp_path / "kept"
    options = f"""
        --optim.trained memory --optim.learning-rate 0.1 --model.long-term-layers 1 --model.sinks 2
        --model.cell-distance 9 --model.mem-len {T}
    """.split()
    plain = train("smollm2-infinity", published, data, tmp_path / "plain", *options)
    options += ["--keep-lower", str(kept)]
    first = train("smollm2-infinity", published, data, tmp_path / "first", *options)
    files = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    emptied = [*options, "--objective.empty-memory"]
    train("smollm2-infinity", published, data, tmp_path / "emptied", *emptied)
    assert {file: file.stat().st_mtime_ns for file in kept.iterdir()} == files
    for label, row in plain["test"].items():
        assert first["test"][label]["loss"] == pytest.approx(row["loss"], abs=1e-5), label
    read = shlex.split(f"--splits test --segment-len {T} --window {T} --sinks 2 --cells 4")
    whole = ["--run", str(published), "--data", str(data), "--cell-layers", "1", *read]
    found = []
    for name, more in (("alone", []), ("kept", ["--keep-lower", str(kept)])):
        language_modeling.main(["evaluate", *whole, *more, "--out", str(tmp_path / name)])
        file = tmp_path / name / f"evaluation-{data.name}-4.json"
        found.append(json.loads(file.read_text())["test"])
    assert len(list(kept.iterdir())) > 0 and found[0].keys() == found[1].keys()
    for label, row in found[0].items():
        assert found[1][label]["loss"] == pytest.approx(row["loss"], abs=1e-5), label


def evaluated(model, data, folder, *options, name="", segments=f"--segment-len {T}"):
    """What `evaluate` writes."""
    language_modeling.main(
        shlex.split(f"""
            evaluate --run {model} --data {data} --cache {folder / "cache"} --splits test
            {segments} --out {folder}
        """)
        + list(options)
    )
    return json.loads((folder / f"evaluation-{data.name}{name}.json").read_text())


def test_it_is_asked_for_a_passkey(published, tmp_path, capsys):
    """As it is and with cells; a memory that is trained by a rate of almost nothing is the same."""
    texts, size = write_texts(tmp_path / "texts", 2000), 2 * T_PASSKEY
    given = f"--data {texts} --task.distances 2 1 --task.digits 2 --test-documents 8 --batch-size 8"
    model = f"--run {published} --segment-len {T_PASSKEY} --window {T_PASSKEY}"
    of_cells = f"--cells {size} --cells-by-age --cell-tau 0.5 --cells-kept attended"
    results = {}
    for name, more in {
        "plain": "",
        "half": "--dtype bfloat16",
        "cells": of_cells,
        "upper": f"{of_cells} --cell-layers 1",
        "kept": f"{of_cells} --cell-layers 1 --keep-lower {tmp_path / 'lower'}",
    }.items():
        out = tmp_path / name
        command = f"evaluate {model} {given} {more} --cache {tmp_path / 'c'} --out {out}"
        passkey.main(shlex.split(command))
        results[name] = json.loads((out / "evaluation.json").read_text())["test"]
    assert set(results["plain"]) == {"as trained"}
    plain, cells = (results[name]["as trained"] for name in ("plain", "cells"))
    assert plain["distances"] == [1, 2] and plain["documents"] == 8
    assert len(list((tmp_path / "lower").iterdir())) == 4  # context and last at each distance
    for label, row in results["upper"].items():
        assert results["kept"][label]["loss"] == pytest.approx(row["loss"], abs=1e-5), label
    assert abs(results["upper"]["as trained"]["loss"] - cells["loss"]) > 1e-5
    assert abs(plain["loss"] - cells["loss"]) > 1e-5
    rounded = abs(results["half"]["as trained"]["loss"] - plain["loss"])
    assert 0 < rounded < 0.01 * plain["loss"]
    with pytest.raises(SystemExit):
        passkey.main(shlex.split(f"{command} --seed 1"))  # over another result
    out = tmp_path / "run"
    passkey.main(
        shlex.split(f"""
            smollm2-infinity --init-from {published} {given} --out {out} --valid-documents 8
            --model.segment-len {T_PASSKEY} --model.mem-len {T_PASSKEY} --model.sinks 0
            --model.long-term-layers --model.long-term.num-basis {size}
            --model.cell-distance 0 --model.long-term.tau 0.5 --model.long-term.no-learn-worth
            --optim.steps 1 --optim.warmup-steps 0 --optim.learning-rate 1e-12
        """)
    )
    trained = json.loads((out / "result.json").read_text())["test"]["as trained"]
    assert trained["loss"] == pytest.approx(cells["loss"], rel=1e-5)
    # The run is asked again, at one of its distances.
    given = f"--data {texts} --task.distances 2 --task.digits 2 --test-documents 8"
    again = f"evaluate --run {out} {given} --batch-size 8 --out {tmp_path / 'again'}"
    passkey.main(shlex.split(again))
    found = json.loads((tmp_path / "again" / "evaluation.json").read_text())["test"]["as trained"]
    assert found["distances"] == [2]
    told = "asked otherwise than it was trained: task.distances: [2, 1] → [2]\n"
    assert told in capsys.readouterr().out
    assert found["accuracy_by_distance"] == [trained["accuracy_by_distance"][1]]
    # So is its memory, beside the model it belongs to.
    mine, beside = tmp_path / "mine", tmp_path / "beside"
    weights.main(["memory", "--run", str(out), "--out", str(mine)])
    shared = f"{given} --batch-size 8 --out {beside}"
    passkey.main(shlex.split(f"evaluate --run {published} --memory {mine} {shared}"))
    again = json.loads((beside / "evaluation.json").read_text())["test"]["as trained"]
    assert again["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_it_is_evaluated_as_it_is(published, data, tmp_path):
    """By the decoder, segment by segment, without any stream."""
    found = evaluated(published, data, tmp_path)
    assert set(found["test"]) == {"as trained", "sliding window"}
    cfg, params = loaded(published, T)
    tokenizer, step, nats, count = load_bpe(published), jax.jit(Decoder(cfg).apply), 0.0, 0
    for file in sorted((data / "test").glob("*.txt")):
        ids = np.append(tokenizer.encode(file.read_text()), 2)
        for begin in range(0, len(ids) - 1, T):
            piece = ids[begin : begin + T + 1]
            logits = step({"params": params}, piece[None, :-1], state.init(cfg, 1)).logits
            losses = -jax.nn.log_softmax(logits[0])[np.arange(len(piece) - 1), piece[1:]]
            nats, count = nats + float(losses.sum()), count + len(losses)
    assert found["test"]["as trained"]["loss"] == pytest.approx(nats / count, rel=1e-5)
    read = shlex.split(f"--data {data} --cache {tmp_path / 'cache'} --out {tmp_path}")
    language_modeling.main(
        ["evaluate", "--run", str(published), *read, "--splits", "test", "--cells", "4"]
    )
    assert (tmp_path / f"evaluation-{data.name}-4.json").is_file()


def test_losses_by_distance_are_compared(published, data, tmp_path, capsys):
    """A window with sinks beside it and a memory: sums agree, and the table has every row."""
    window = shlex.split(f"--window {T} --sinks 2 --by-distance {T}")
    cells = shlex.split(
        "--cells 8 --cell-layers 1 --cell-distance 16 --cells-by-age --cell-tau 0.5"
    )
    plain = evaluated(published, data, tmp_path / "plain", *window)["test"]
    assert set(plain) == {"as trained"}
    found = evaluated(published, data, tmp_path / "cells", *window, *cells, name="-8")["test"]
    assert set(found) == {"as trained", CONTROL}  # a device has one row, and no other's memory
    for row in (*plain.values(), *found.values()):
        sums = row["by_distance"]["all words"]
        tokens, nats = np.sum(sums["tokens"], axis=0), np.sum(sums["nats"], axis=0)
        assert tokens[0] > 5 and tokens[-1] > 5
        every = sum(row["by_segment"]["tokens"])
        assert 0.4 * every < tokens.sum() < every
        assert 0 < nats.sum() < row["loss"] * every
    files = [f"{tmp_path}/{name}" for name in (f"plain/evaluation-{data.name}.json",)]
    files.append(f"{tmp_path}/cells/evaluation-{data.name}-8.json")
    out = ["--out", str(tmp_path / "found")]
    language_modeling.main(["distances", "--files", *files, *out])
    shown = capsys.readouterr().out
    lines = "perplexity of plain", "gain of cells", f"gain of cells, {CONTROL}"
    for line in (*lines, f"own memory over: cells, {CONTROL}"):
        assert f"| {line} |" in shown
    result = json.loads((tmp_path / "found" / "distances.json").read_text())
    whole = result["gains"]["all words"]["cells"][0]
    of = [row["as trained"]["by_distance"]["all words"] for row in (plain, found)]
    nats, tokens = (np.sum([one[unit] for one in of], axis=(1, 2)) for unit in ("nats", "tokens"))
    assert whole["nats"] == pytest.approx((nats[0] - nats[1]) / tokens[0])
    over = result["own"]["all words"][f"cells, {CONTROL}"][0]
    both = [
        result["gains"]["all words"][name][0]["nats"] for name in ("cells", f"cells, {CONTROL}")
    ]
    assert over["nats"] == pytest.approx(both[0] - both[1], abs=1e-9)
    assert (tmp_path / "found" / "distances.png").stat().st_size > 1000
    evaluated(published, data, tmp_path / "other", "--window", str(T), "--by-distance", "4")
    files[1] = f"{tmp_path}/other/evaluation-{data.name}.json"
    with pytest.raises(SystemExit, match="2"):
        language_modeling.main(["distances", "--files", *files, *out])
    assert f"{files[1]}: window: found another one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--cell-layers 1", "cell_layers"),
        ("--cells 6", "cells"),
        ("--sinks 2", "sinks"),
        (f"--window {T + 1} --cells 4", "window"),
    ],
)
def test_memories_that_cannot_be_are_refused(published, data, tmp_path, capsys, options, name):
    with pytest.raises(SystemExit, match="2"):
        evaluated(published, data, tmp_path, *shlex.split(options))
    assert f"{name}: found" in capsys.readouterr().err


def test_it_goes_on_from_a_prompt(published, capsys):
    """As the decoder does, greedily, with the whole text as one segment."""
    text = "the sea of 12"
    options = ["--model", published, "--prompt", text, "--tokens", 6, "--temperature", 0]
    generate.main([*map(str, options), "--segment-len", "32"])
    shown = capsys.readouterr().out
    cfg, params = loaded(published, 32)
    tokenizer = load_bpe(published)
    ids = tokenizer.encode(text).tolist()
    for _ in range(6):
        out: Any = Decoder(cfg).apply({"params": params}, np.array([ids]), state.init(cfg, 1))
        ids.append(int(out.logits[0, -1].argmax()))
        if ids[-1] == tokenizer.end:
            break
    written = tokenizer.decode(np.array(ids[len(tokenizer.encode(text)) :]))
    assert shown == f"{generate.printable(written)}\n"


def test_long_positions_are_no_long_segments(published, tmp_path):
    """By default a model of more than 1,024 positions has segments of 1,024, others all of them."""
    assert start.load(published)[0].model.segment_len == 4
    config = json.loads((published / "config.json").read_text())
    config["inf_former"].pop("segment_len")
    for file in published.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    assert start.load(tmp_path)[0].model.segment_len == 1024
    assert start.load(tmp_path, 4096)[0].model.segment_len == 4096


def test_it_learns_to_talk_and_talks(published, tmp_path, capsys, monkeypatch):
    """A run of dialogue from its parameters: three more ids, the end is its own."""
    out = tmp_path / "run"
    dialogue.main(
        shlex.split(f"""
            infinity-lasting --init-from {published} --out {out} --cache {tmp_path / "cache"}
            --model.segment-len 16 --batch-size 8 --replies 1 --reply-tokens 4 --optim.steps 2
            --optim.warmup-steps 0 --model.long-term.num-basis 8 --model.long-term.num-samples 8
            --valid-conversations 1 --test-conversations 1
        """)
    )
    result = json.loads((out / "result.json").read_text())
    model = result["settings"]["model"]
    assert (model["vocab_size"], model["position"]) == (VOCAB + 3, "rotary")
    assert result["dropped"] == 0
    (tmp_path / "film.txt").write_text("A film about the sea.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("who?\n"))
    capsys.readouterr()
    dialogue.main(
        ["chat", "--run", str(out), "--document", str(tmp_path / "film.txt"), "--reply-tokens", "3"]
    )
    assert capsys.readouterr().out.startswith("speaker1: who?\nspeaker2: ")


def test_refusals(published, data, tmp_path, capsys):
    """Another model, a tokeniser that is too large, a prompt without tokens, segments of a run."""
    other, large, run = (tmp_path / name for name in ("other", "large", "run"))
    for folder in (other, large):
        folder.mkdir()
        for file in published.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((published / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    spec = json.loads((large / "tokenizer.json").read_text())
    spec["model"]["vocab"]["more"] = VOCAB
    (large / "tokenizer.json").write_text(json.dumps(spec))
    run.mkdir()
    (run / "metrics.jsonl").touch()
    (run / "config.json").write_text("{}")
    texts = ["--data", data, "--cache", tmp_path / "cache"]
    train = ["gpt2", "--out", tmp_path / "new", *texts]
    read = ["evaluate", "--out", tmp_path / "new", *texts]
    kinds = "model_type: found 'qwen2', accepted: gpt2, llama or mistral"
    sizes = "found a tokeniser of 242 tokens in"
    for main, options, message in (
        (language_modeling.main, [*train, "--init-from", other], kinds),
        (language_modeling.main, [*read, "--run", other], kinds),
        (generate.main, ["--prompt", "a", "--model", other], kinds),
        (
            language_modeling.main,
            [*train, "--init-from", large],
            "tokenizer: found one of 242 tokens, accepted: at most model.vocab_size 241",
        ),
        (language_modeling.main, [*read, "--run", large], sizes),
        (generate.main, ["--prompt", "a", "--model", large], sizes),
        (
            generate.main,
            ["--prompt", "a\x04", "--model", published],
            "text: character 1: found U+0004, for which there is no token, accepted: any but",
        ),
        (
            language_modeling.main,
            [*read, "--run", run, "--segment-len", 8],
            "segment_len: found 8 for a run, accepted: 0",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, options)))
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and message in said and said.count("\n") == 1, options
