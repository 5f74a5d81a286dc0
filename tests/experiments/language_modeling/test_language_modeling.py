"""The language-modelling experiment: whole tiny runs, what they begin with, their refusals."""

import dataclasses
import json
import math
import shlex
import shutil

import jax
import numpy as np
import pytest

from experiments.analysis import memory as analysis_memory
from experiments.language_modeling import __main__ as command
from experiments.language_modeling import corpora, start, task
from experiments.language_modeling.compare import CompareConfig, cells
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.run import training
from inf_former_jax.data.tokens import Bytes
from inf_former_jax.memory import state
from inf_former_jax.models.convert import gpt2

pytestmark = pytest.mark.slow  # whole runs

TINY = shlex.split("""
    --tokenizer bytes --model.vocab-size 258 --model.segment-len 8 --model.num-layers 2
    --model.num-heads 2 --model.head-dim 4 --model.d-model 8 --model.d-inner 16 --batch-size 8
    --segments 2 --optim.steps 4 --optim.warmup-steps 1 --loop.log-every 2 --loop.eval-every 2
    --valid-characters 30 --sample 0
""")
MEMORY = shlex.split("""
    --model.long-term.num-basis 8 --model.long-term.num-samples 8 --model.long-term.bins 8
""")
FROZEN = shlex.split("--optim.learning-rate 1e-12 --optim.memory-learning-rate 1e-12")
EMPTIED = "memory emptied before every segment"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten books to train on, one to validate, two to test, of words that repeat."""
    folder, rng = tmp_path_factory.mktemp("books"), np.random.default_rng(0)
    words = ["sea", "whale", "ship", "the", "of", "and", "a", "sail"]
    for split, sizes in {
        "train": tuple(range(40, 60, 2)),
        "valid": (40,),
        "test": (30, 20),
    }.items():
        (folder / split).mkdir()
        for i, size in enumerate(sizes):
            text = " ".join(rng.choice(words, size))
            (folder / split / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """(preset, options) → (folder, result) of a run."""
    root = tmp_path_factory.mktemp("runs")

    def made(name, preset, *options):
        folder = root / name
        common = ["--data", str(data), "--cache", str(root / "cache"), "--out", str(folder)]
        command.main([preset, *common, *options])
        return folder, json.loads((folder / "result.json").read_text())

    return made


@pytest.fixture(scope="module")
def plain(run):
    return run("plain", "gpt2", *TINY)


@pytest.fixture(scope="module")
def remembering(run, plain):
    """Begins with the plain run's parameters and a rate at which nothing is learnt."""
    options = [*TINY, *MEMORY, *FROZEN, "--init-from", str(plain[0])]
    return run("remembering", "gpt2-infinity-lasting", *options)


def test_figures_are_those_of_every_byte(plain, data):
    """The sums behind the figures, by hand from the text: bytes, ends, words."""
    _, result = plain
    texts = [(data / "test" / f"{i}.txt").read_text() for i in range(2)]
    num_bytes, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
    assert set(result["test"]) == {"as trained", "sliding window"}
    for row in result["test"].values():
        by = row["by_segment"]
        # A document of n bytes and its end: n predictions.
        assert sum(by["tokens"]) == num_bytes
        assert by["first"][:4] == [0, 1, 2, 4]
        assert row["loss"] == pytest.approx(np.dot(by["loss"], by["tokens"]) / num_bytes)
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        nats = row["loss"] * num_bytes
        assert row["word_perplexity"] == pytest.approx(math.exp(nats / words))
        assert row["bits_per_byte"] == pytest.approx(row["loss"] / math.log(2))
    # 30 characters of the one validation document, down to a whole word.
    kept = (data / "valid" / "0.txt").read_text()[:30].rsplit(maxsplit=1)[0]
    assert sum(result["valid"]["as trained"]["by_segment"]["tokens"]) == len(kept)
    assert result["splits"]["test"] == {
        "documents": 2,
        "tokens": num_bytes + 2,
        "words": words,
        "bytes": num_bytes,
        "skipped": [],
        "dropped": 0,
    }
    # log 258 = 5.55 before anything is learnt; four updates learn a little.
    assert 4.0 < result["test"]["as trained"]["loss"] < 5.55


def test_the_decoder_agrees(plain, data):
    """Perplexity of a test book by the loaded model, segment by segment, without any stream."""
    folder, result = plain
    cfg, decoder, params, _ = training.load(LanguageModelingConfig, folder, ("params",))
    step = jax.jit(decoder.apply)
    nats = count = 0
    for i in range(2):
        text = (data / "test" / f"{i}.txt").read_text()
        tokens = np.array([*text.encode(), 256], np.int32)
        for begin in range(0, len(tokens) - 1, 8):
            piece = tokens[begin : begin + 9]
            logits = step({"params": params}, piece[None, :-1], state.init(cfg.model, 1)).logits
            losses = -jax.nn.log_softmax(logits[0])[np.arange(len(piece) - 1), piece[1:]]
            nats, count = nats + float(losses.sum()), count + len(losses)
    assert result["test"]["as trained"]["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_a_graft_begins_where_the_plain_model_ended(plain, remembering):
    """W_O = 0: the same figures, with the memory and without."""
    for row in remembering[1]["test"].values():
        assert row["loss"] == pytest.approx(plain[1]["test"]["as trained"]["loss"], rel=1e-5)
    assert set(remembering[1]["test"]) == {"as trained", EMPTIED}
    assert remembering[1]["parameters"] > plain[1]["parameters"]
    assert remembering[1]["memory_bytes_per_row"] > 0


def test_a_memory_is_taken_over(run, remembering):
    """From a run with a memory: its parameters, not fresh ones."""
    options = [*TINY, *MEMORY, *FROZEN, "--init-from", str(remembering[0])]
    _, result = run("again", "gpt2-infinity-lasting", *options)
    expected = remembering[1]["test"]["as trained"]["loss"]
    assert result["test"]["as trained"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_gpt2s_files_decide_on_the_sizes(run, plain, tmp_path):
    """The folder of a GPT-2 with a trained tokeniser: layers, width and vocabulary are its own."""
    cfg, _, params, _ = training.load(LanguageModelingConfig, plain[0], ("params",))
    gpt2.save(cfg.model, params, tmp_path / "gpt2")
    options = [
        *f"""
        --init-from {tmp_path / "gpt2"} --tokenizer bytes --sample 0 --model.segment-len 8
        --optim.steps 2 --optim.warmup-steps 0 --optim.learning-rate 1e-12
        --optim.memory-learning-rate 1e-12 --batch-size 8
    """.split(),
        *MEMORY,
    ]
    _, result = run("paper", "paper-gpt2-infinity", *options)
    model = result["settings"]["model"]
    sizes = model["num_layers"], model["d_model"], model["vocab_size"], model["max_position"]
    assert sizes == (2, 8, 258, 128)
    expected = plain[1]["test"]["as trained"]["loss"]
    assert result["test"]["as trained"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_windows_are_counted_where_their_tokens_are(plain):
    """The sliding window's tokens by segment are those of the segments themselves."""
    test = plain[1]["test"]
    assert (
        test["sliding window"]["by_segment"]["tokens"]
        == (test["as trained"]["by_segment"]["tokens"])
    )


def test_a_trained_tokeniser_stays_with_the_run(run, plain, data, tmp_path, capsys):
    """If its text has changed, and the tokeniser trained on it, the run is refused and kept."""
    books = tmp_path / "books"
    shutil.copytree(data, books)
    sizes = ["--model.vocab-size", "270", "--optim.steps", "2", "--data", str(books)]
    options = [*TINY, "--tokenizer", "", *sizes]
    folder, result = run("bpe", "gpt2", *options)
    tokenizer = start.tokenizer_of_run(folder)
    text = (data / "test" / "0.txt").read_text()
    assert tokenizer.decode(tokenizer.encode(text)) == text and 257 < tokenizer.vocab_size <= 270
    split = result["splits"]["test"]
    assert split["tokens"] < split["bytes"]
    assert isinstance(start.tokenizer_of_run(plain[0]), Bytes)

    kept = (folder / "tokenizer.json").read_bytes()
    (books / "train" / "0.txt").write_text("quite other words " * 20)
    (folder / "result.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        run("bpe", "gpt2", *options)
    assert stopped.value.code == 2 and (folder / "tokenizer.json").read_bytes() == kept
    assert "was begun with another tokeniser" in capsys.readouterr().err
    (folder / "tokenizer.json").write_bytes(kept[:100])
    with pytest.raises(SystemExit) as stopped:
        run("bpe", "gpt2", *options)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "tokenizer.json: found damaged JSON" in said
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"accepted: tokenizer\.json"):  # never bytes instead
        start.tokenizer_of_run(folder)


def test_another_text_is_read_by_the_runs_tokeniser(remembering, data, tmp_path, capsys):
    """The test split again gives the run's own figures; a part of it gives others."""
    evaluate = shlex.split(f"""
        evaluate --run {remembering[0]} --data {data} --cache {tmp_path / "cache"}
    """)
    command.main([*evaluate, "--splits", "test", "--out", str(tmp_path)])
    found = json.loads((tmp_path / f"evaluation-{data.name}.json").read_text())
    assert set(found["test"]) == {"as trained", EMPTIED} and "valid" not in found
    assert found["preset"] == remembering[1]["preset"] != remembering[0].name
    for label, row in found["test"].items():
        assert row["loss"] == pytest.approx(remembering[1]["test"][label]["loss"], rel=1e-6)
    command.main([*evaluate, "--characters", "30", "--out", str(tmp_path / "part")])
    part = json.loads((tmp_path / "part" / f"evaluation-{data.name}.json").read_text())
    assert sum(part["test"]["as trained"]["by_segment"]["tokens"]) <= 2 * 30
    whole = remembering[1]["valid"]["as trained"]  # a run's own limit is 30, too
    assert part["valid"]["as trained"]["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for options, message in (
        (["evaluate"], "run: found none"),
        ([*evaluate, "--splits", "train"], "splits: found train, accepted: valid or test"),
        ([*evaluate, "--characters", "-1"], "characters: found -1"),
        ([*evaluate, "--out", str(tmp_path)], f"evaluation-{data.name}.json of other settings"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.main(options)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_memory_of_a_text_can_be_looked_into(remembering, tmp_path, capsys):
    """The last of 6 segments of both test documents, after 5 writes of equal width."""
    analysis_memory.main(
        ["--run", str(remembering[0]), "--segments", "6", "--out", str(tmp_path / "look")]
    )
    found = json.loads((tmp_path / "look" / "memory.json").read_text())
    assert (found["writes"], found["sequences"]) == (5, 2)
    for layer in found["layers"]:
        assert layer["context_to_local"] == pytest.approx(0, abs=1e-6)  # W_O = 0 still
        assert all(len(head["mass_by_age"]) == 5 for head in layer["heads"])
    with pytest.raises(SystemExit):
        analysis_memory.main(["--run", str(remembering[0]), "--segments", "999"])
    assert "segments: found 999, accepted: at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "/nowhere"], "data: found /nowhere, accepted: a folder with train, valid"),
        (["--model.vocab-size", "100"], "tokenizer: found one of 257 tokens, accepted: at most"),
        (["--tokenizer", "/nowhere"], "/nowhere: found no tokeniser, accepted: tokenizer.json"),
        (
            ["--init-from", "/nowhere"],
            "/nowhere: found nothing, accepted: a whole safetensors file",
        ),
        (["--model.segment-len", "256"], "model.segment_len: found 256"),
        (["--segments", "0"], "segments: found 0, accepted: a whole number ≥ 1"),
        (["--test-characters", "-1"], "test_characters: found -1, accepted: a whole number ≥ 0"),
    ],
)
def test_refusals(data, tmp_path, capsys, options, message):
    given = dict(zip(TINY[::2], TINY[1::2], strict=True))
    given |= {"--data": str(data), "--cache": str(tmp_path), "--out": str(tmp_path / "run")}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    with pytest.raises(SystemExit) as stopped:
        command.main(["gpt2", *(part for pair in given.items() for part in pair)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and not (tmp_path / "run").exists()
    assert message.removeprefix("model: Value error, ") in said


def test_foreign_parameters_are_refused(data, remembering, tmp_path, capsys):
    """A run with a memory does not begin one without."""
    options = ["--data", str(data), "--cache", str(tmp_path), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        command.main(["gpt2", *TINY, *options, "--init-from", str(remembering[0])])
    assert "['block_0']['long_term']" in capsys.readouterr().err


def test_shakespeare_is_found(tmp_path):
    """37 plays: every eighth is tested, the one after it validates; marks of markdown are gone."""
    name, folder = corpora.folder_of("", tmp_path)
    counts = {
        split: len(list((folder / split).glob("*.txt"))) for split in ("train", "valid", "test")
    }
    assert "Shakespeare" in name and counts == {"train": 28, "valid": 5, "test": 5}
    hamlet = (folder / "test" / "hamlet.txt").read_text(encoding="utf-8")
    assert hamlet.startswith("Hamlet\n\nACT I\n") and "\nBERNARDO\nWho's there?\n" in hamlet
    assert not set("*_#") & set(hamlet)


def test_rows_of_the_comparison():
    """All rows go on from the base; GPT-2's files take its place and bring the paper's rates."""
    asked = CompareConfig(seeds=2, piece=3, vocab_size=300, out="there")
    base, *rows = cells(asked)
    assert (base.row, base.config.optim.steps, base.config.init_from) == (("base",), 3000, "")
    assert base.config.piece == 0 and len(rows) == 22 and len({cell.row for cell in rows}) == 11
    for cell in rows:
        config, emptied = cell.config, cell.preset.endswith("-emptied")
        assert config.objective.empty_memory == emptied and config.model.vocab_size == 300
        assert (config.init_from, config.piece, config.optim.steps) == ("there/base", 3, 1000)
        rates = config.optim.learning_rate, config.optim.memory_learning_rate
        assert rates == (1e-3, 2e-3) and config.optim.schedule == "linear"
        assert cell.folder.name == f"{cell.preset}-{config.seed}"
    asked = dataclasses.replace(asked, models=("gpt2-infinity",), seeds=1, init_from="gpt2")
    (cell,) = cells(asked)
    rates = cell.config.optim.learning_rate, cell.config.optim.memory_learning_rate
    assert rates == (5e-5, 2.5e-4) and cell.config.model.vocab_size == 50257
    for changed in ({"models": ("gpt2-emptied",)}, {"updates": 1}):
        with pytest.raises(ValueError, match=rf"^{next(iter(changed))}: found "):
            cells(dataclasses.replace(asked, **changed))


@pytest.mark.parametrize("given", ["--models", "--seeds 0"])
def test_a_comparison_without_runs_is_refused(given, tmp_path, capsys):
    """The grid refuses it for every comparison, before anything is written."""
    with pytest.raises(SystemExit) as stopped:
        command.main(["compare", *given.split(), "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert f"{given.split()[0].lstrip('-')}: found " in capsys.readouterr().err


def test_buckets_begin_at_powers_of_two():
    segments = np.array([0, 1, 2, 3, 4, 7, 8, 1000])
    expected = [0, 1, 2, 2, 4, 4, 8, 512]
    assert task._bucket(segments).tolist() == expected


def test_figures_have_four_digits(capsys):
    row = {"perplexity": 1234.567, "word_perplexity": 917978146.468}
    task.show("text", {"as trained": {**row, "bits_per_byte": 2.34567, "accuracy": 0.0123456}})
    shown = capsys.readouterr().out
    assert all(figure in shown for figure in ("1235", "9.18e+08", "2.346", "0.01235"))
