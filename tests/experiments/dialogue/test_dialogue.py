"""The dialogue experiment: a whole tiny run, its figures and replies, the rows, its refusals."""

import dataclasses
import json
import math
import re
import shlex

import jax
import numpy as np
import pytest

from experiments.dialogue import __main__ as command
from experiments.dialogue import corpus, replies, task
from experiments.dialogue.compare import CompareConfig, cells
from experiments.dialogue.config import PRESETS, DialogueConfig, small
from experiments.dialogue.replies import Answering
from experiments.dialogue.stream import Layout, in_documents
from experiments.language_modeling import __main__ as language_modeling
from experiments.language_modeling.sample import pieces, writer
from experiments.run import training
from inf_former_jax import generate
from inf_former_jax.data.tokens import Bytes
from inf_former_jax.memory import state
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators

TINY = shlex.split("""
    --tokenizer bytes --batch-size 8 --replies 3 --reply-tokens 6 --model.vocab-size 260
    --model.segment-len 16 --model.num-layers 1 --model.num-heads 2 --model.head-dim 4
    --model.d-model 8 --model.d-inner 8 --model.max-position 16 --model.query-chunk 16
    --optim.steps 4 --optim.warmup-steps 1 --loop.log-every 2 --loop.eval-every 2
""")
MEMORY = shlex.split("""
    --model.long-term.num-basis 8 --model.long-term.num-samples 8 --model.long-term.bins 8
""")
CONTROL = "memory emptied before every segment"


def write_corpus(folder):
    """Three splits of two conversations about two documents, of some 100 letters."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = []
        for number, word in enumerate(("ship", "tower")):
            turns = [
                ("user1", f"what is the {word}?"),
                ("user2", f"a {word} of {split}, I read."),
                ("user1", "how old?"),
                ("user2", "ten " + "years " * number),
            ]
            lines.append(
                json.dumps(
                    {
                        "document": [f"The {word} is old.", f"It is in {split} city."],
                        "title": word,
                        "turns": [
                            {"speaker": who, "text": text, "section": i // 2}
                            for i, (who, text) in enumerate(turns)
                        ],
                        "saw": [False, True],
                        "rating": number + 1,
                    }
                )
            )
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """(folder, result) of one tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    command.main(["infinity-lasting", *TINY, *MEMORY, "--data", str(data), "--out", str(folder)])
    return folder, json.loads((folder / "result.json").read_text())


def corpus_of(data, window=0, **options):
    cfg = small("infinity")
    model = dataclasses.replace(cfg.model, vocab_size=260, segment_len=16)
    given = {"data": str(data), "tokenizer": "bytes", "layout": Layout(window=window)}
    return corpus.corpus_of(dataclasses.replace(cfg, model=model, **given, **options))


@pytest.mark.slow
def test_the_result_is_counted_by_hand(finished, data):
    """Perplexities of untrained bytes; scored tokens; three replies, scored."""
    folder, result = finished
    assert set(result["test"]) == {"as trained", CONTROL, task.ANOTHER}
    for split in ("valid", "test"):
        assert set(result[split]) >= {"as trained", CONTROL}
        for row in result[split].values():
            assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
            assert 150 < row["perplexity"] < 300  # 260 ids; hardly anything is learnt in 4 steps
    scored = sum(
        len(turn.text.encode()) + 1
        for talk in corpus_of(data).test.conversations
        for turn in talk.turns[1:]
    )
    assert result["splits"]["test"]["scored_tokens"] == scored
    assert result["splits"]["test"]["turns"] == 8 and result["steps"] == 4
    listed = json.loads((folder / "replies.json").read_text())
    assert len(listed) == result["replies"]["count"] == 3
    assert {one["title"] for one in listed} <= {"ship", "tower"}
    assert all(len(one["reply"].encode()) <= 6 * 4 for one in listed)
    assert 0 <= result["replies"]["f1"] <= 100


@pytest.mark.slow
def test_a_finished_run_is_kept(finished, data, capsys):
    folder, _ = finished
    before = (folder / "result.json").stat().st_mtime_ns
    command.main(["infinity-lasting", *TINY, *MEMORY, "--data", str(data), "--out", str(folder)])
    assert "holds the finished run" in capsys.readouterr().out
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_figures_are_those_of_each_conversation_alone(finished, data):
    """The loss of a batch with padding is that of plain calls of the decoder, one at a time."""
    folder, result = finished
    cfg, _, params, _ = training.load(DialogueConfig, folder)
    split, ops = corpus_of(data).test, operators(cfg.model)
    step = jax.jit(
        lambda *given: Decoder(cfg.model).apply(
            {"params": params}, *given[:2], operators=ops, types=given[2], where=given[3]
        )
    )
    other = corpus.swapped(split, corpus_of(data).encoder)

    def loss_of(split, emptied):
        nats = count = 0.0
        for one in split.segments:
            memory = state.init(cfg.model, 1)
            for w in range(len(one.tokens)):
                memory = state.empty_long_term(cfg.model, memory) if emptied else memory
                here = slice(w, w + 1)
                out = step(one.tokens[here], memory, one.types[here], one.valid[here])
                memory, logs = out.memory, jax.nn.log_softmax(out.logits[0])
                nats -= (np.asarray(logs)[np.arange(16), one.targets[w]] * one.weights[w]).sum()
                count += one.weights[w].sum()
        return nats / count

    expected = {
        "as trained": loss_of(split, False),
        CONTROL: loss_of(split, True),
        task.ANOTHER: loss_of(other, False),
    }
    for label, loss in expected.items():
        assert result["test"][label]["loss"] == pytest.approx(loss, rel=1e-6), label
    assert min(np.abs(np.diff(sorted(expected.values())))) > 1e-5  # else all would pass for each


@pytest.mark.slow
def test_page_shows_the_document(finished, tmp_path, data):
    """A card for each reply, with the text of its document."""
    folder, _ = finished
    out = tmp_path / "page.html"
    command.main(["page", "--run", str(folder), "--replies", "3", "--out", str(out)])
    page = out.read_text()
    titles = [one["title"] for one in json.loads((folder / "replies.json").read_text())]
    for title in set(titles):
        assert page.count(f"<h2>{title}, turn ") == titles.count(title)
        text = re.sub("<[^>]*>", "", page)
        assert text.count(f"The {title} is old.\nIt is in test city.") == titles.count(title)
    with pytest.raises(SystemExit):
        command.main(["page", "--run", str(tmp_path)])


def test_conversations_of_two_splits_are_counted_and_left_out_of_train(tmp_path, capsys):
    """Train loses one that is in valid and test; another document does not make it another one."""
    folder = write_corpus(tmp_path / "corpus")
    lines = {split: (folder / f"{split}.jsonl").read_text() for split in ("train", "valid", "test")}
    first = lines["train"].splitlines()[0] + "\n"
    moved = first.replace("The ship is old.", "Another document.")
    for split, more in (("valid", first), ("test", moved)):
        (folder / f"{split}.jsonl").write_text(lines[split] + more)
    corpus.corpus_of.cache_clear()
    found = corpus_of(folder)
    counts = {"valid in train": 1, "test in train": 1, "test in valid": 1, "left out of train": 1}
    assert task.facts(found)["shared"] == counts
    assert [one.title for one in found.train.conversations] == ["tower"]
    assert [len(found.valid.conversations), len(found.test.conversations)] == [3, 3]
    task.describe(found, False)
    said = "1 valid in train, 1 test in train, 1 test in valid, 1 left out of train (--keep-shared"
    assert said in capsys.readouterr().out
    kept = corpus_of(folder, keep_shared=True)
    assert kept.shared == counts | {"left out of train": 0} and len(kept.train.conversations) == 2
    (folder / "train.jsonl").write_text(first)
    with pytest.raises(ValueError, match=r"^data: found 1 training .*: .* --keep-shared$"):
        corpus_of(folder, valid_conversations=1)


def test_the_sample_shares_nothing(capsys):
    assert not any(corpus_of("").shared.values())


def test_pieces_are_the_text():
    """A piece for each token; characters of several bytes come with the last of them."""
    tokens = Bytes().encode("a–bé")
    assert list(pieces(Bytes(), tokens.tolist())) == ["a", "", "", "–", "b", "", "é", ""]


def test_every_conversation_has_another_document(data):
    """Of two, each other's; what is said and scored stays; one alone has no other."""
    read = corpus_of(data)
    split = read.test
    other = corpus.swapped(split, read.encoder)
    documents = [one.sections for one in split.conversations]
    assert [one.sections for one in other.conversations] == documents[::-1]
    for ours, theirs in zip(split.encoded, other.encoded, strict=True):
        for field in ("tokens", "types", "scored"):
            said = [getattr(e, field)[~in_documents(e)] for e in (ours, theirs)]
            np.testing.assert_array_equal(*said)
    first = type(split)(*(part[:1] for part in split))
    assert not corpus.swapped(first, read.encoder).segments


def test_places_are_the_same_for_all(data):
    """Drawn once, in order, without repetition, scored ones only; 0 = all of them."""
    split = corpus_of(data).test
    every = replies.places(split, 0)
    assert [(n, span.turn) for n, span in every] == [(n, t) for n in (0, 1) for t in (1, 2, 3)]
    some = replies.places(split, 4)
    assert some == replies.places(split, 4) and len(set(some)) == 4
    assert set(some) < set(every) and some == sorted(some)


def test_what_is_read_before_a_reply(data):
    """All of it; with an emptied memory from the segment before the open one; window and room."""
    read, how, model = (
        corpus_of(data),
        Answering(reply_tokens=6),
        ModelConfig(segment_len=16, mem_len=0),
    )
    place = replies.places(read.test, 0)[-1]
    encoded = read.test.encoded[place[0]]
    tokens, types = replies.history(read.encoder, read.test, place, model, how)
    np.testing.assert_array_equal(tokens, encoded.tokens[: place[1].start + 1])
    assert tokens[-1] == types[-1] == read.encoder.marks.speakers[1][0]
    control = dataclasses.replace(how, emptied=True)
    emptied, _ = replies.history(read.encoder, read.test, place, model, control)
    cut = (place[1].start // 16 - 1) * 16
    np.testing.assert_array_equal(emptied, tokens[cut:])
    windowed = corpus_of(data, window=5)
    short, _ = replies.history(windowed.encoder, windowed.test, place, model, how)
    assert len(short) == 10 and short[0] == read.encoder.marks.doc[0]
    assert not in_documents(encoded)[place[1].start]


@pytest.mark.parametrize("case", ["memory", "emptied", "window"])
def test_replies_are_those_of_each_place_alone(case, data):
    """In any order, and beside others of other lengths (greedy)."""
    given = PRESETS["infinity-sticky" if case != "window" else "window"][1].model
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 4, "d_model": 8, "d_inner": 8}
    sizes |= {"vocab_size": 260, "segment_len": 16, "max_position": 16, "query_chunk": 16}
    if given.long_term:
        small = dataclasses.replace(given.long_term, num_basis=8, num_samples=8, bins=8)
        sizes["long_term"] = small
    cfg = dataclasses.replace(given, **sizes, dropout=0.0)
    decoder, ops = Decoder(cfg), operators(cfg)
    tokens = np.zeros((1, 16), np.int32)
    create = jax.jit(lambda key: decoder.init(key, tokens, state.init(cfg, 1), operators=ops))
    params = jax.tree.map(lambda leaf: 5 * leaf, create(jax.random.key(0))["params"])
    read = corpus_of(data, window=5 if case == "window" else 0)
    model = writer(decoder, params, read.encoder.tokenizer)
    sampling = generate.Sampling(temperature=0)
    how = Answering(reply_tokens=5, sampling=sampling, emptied=case == "emptied")
    found = replies.replies(model, read, read.test, how)
    places = replies.places(read.test, 0)
    assert [(one.conversation, one.turn) for one in found] == places and len(places) == 6
    for one, place in zip(found, places, strict=True):
        prompt, types = replies.history(read.encoder, read.test, place, cfg, how)
        said, _ = model.write(
            generate.start(decoder, 1),
            prompt[None],
            5,
            jax.random.key(1),
            sampling=sampling,
            types=types[None],
            reply_types=types[-1:],
        )
        assert one.reply == replies.decoded(read.encoder, said[0])
    assert len({one.reply for one in found}) > 1


def test_a_reply_ends_at_its_end(data):
    """What follows <eos> is not said; without one, all of it is."""
    encoder = corpus_of(data).encoder
    text = encoder.tokenizer.encode(" hello you")
    with_end = np.append(text, [encoder.marks.end, 65, 65])
    assert replies.decoded(encoder, with_end) == "hello you"
    assert replies.decoded(encoder, text) == "hello you"


@pytest.mark.slow
def test_compare_fills_the_table(data, tmp_path, monkeypatch, capsys):
    """A row and a control from one run of language_modeling; again: nothing is run anew."""
    texts = tmp_path / "texts"
    for split in ("train", "valid", "test"):
        (texts / split).mkdir(parents=True)
        (texts / split / "one.txt").write_text("a book about nothing much. " * 8)
    base, cache, sizes = tmp_path / "base", tmp_path / "cache", TINY.index("--model.segment-len")
    options = f"gpt2 --tokenizer bytes --model.vocab-size 257 --data {texts} --sample 0"
    places = ["--out", str(base), "--cache", str(cache)]
    language_modeling.main([*options.split(), *places, *TINY[sizes:]])
    for name in ("no-document", "infinity"):
        text, given = PRESETS[name]
        model = dataclasses.replace(given.model, segment_len=16, query_chunk=16)
        if model.long_term:
            small = dataclasses.replace(model.long_term, num_basis=8, num_samples=8, bins=8)
            model = dataclasses.replace(model, long_term=small)
        changed = dataclasses.replace(given, model=model)
        monkeypatch.setitem(PRESETS, name, (text, changed))
    out = tmp_path / "compare"
    argv = shlex.split(f"""
        compare --models no-document infinity-emptied --data {data} --init-from {base}
        --updates 2 --replies 2 --batch-size 8 --reply-tokens 4 --out {out}
    """)
    command.main(argv)
    printed = capsys.readouterr().out
    assert "[2/2] infinity-emptied-0" in printed and "no-document" in (out / "table.md").read_text()
    found = {file.parent.name: json.loads(file.read_text()) for file in out.glob("*/result.json")}
    assert set(found) == {"no-document-0", "infinity-emptied-0"}
    assert found["infinity-emptied-0"]["settings"]["objective"]["empty_memory"]
    assert CONTROL not in found["infinity-emptied-0"]["test"]  # it is what was trained
    assert all(row["settings"]["model"]["vocab_size"] == 260 for row in found.values())
    assert all(row["parameters"] > 0 and row["steps"] == 2 for row in found.values())
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/result.json")}
    command.main(argv)
    assert times == {file: file.stat().st_mtime_ns for file in out.glob("*/result.json")}


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--data", "/nowhere"], "data: found /nowhere, accepted: a folder"),
        (["--replies", "-1"], "replies: found -1, accepted: a whole number ≥ 0"),
        (["--reply-tokens", "0"], "reply_tokens: found 0, accepted: a whole number ≥ 1"),
        (["--top-p", "0"], "top_p: found 0.0"),
        (["--temperature", "-1"], "temperature: found -1.0"),
        (["--layout.document", "some"], "layout.document: found some, accepted: whole"),
        (["--reply-tokens", "16"], "reply_tokens: found 16, accepted: less than 16"),
        (
            ["--model.mem-len", "16", "--layout.document", "whole", "--layout.window", "5"],
            "layout: found window 5 for a model with a memory, accepted: window 0",
        ),
        (["--optim.trained", "memory"], "optim.trained: found memory"),
        (["--layout.window", "20", "--reply-tokens", "1"], "reply_tokens: found 1, accepted: less"),
        (["--wordnet", "/nowhere"], "wordnet: found no"),
        (
            ["--model.vocab-size", "259"],
            "tokenizer: found one of 257 tokens, accepted: at most 256",
        ),
        (["--batch-size", "0"], "batch_size: found 0"),
        (["--reading.min-rating", "3"], "accepted: at least one rated 3 or more"),
    ],
)
def test_refused_in_one_line(argv, message, data, tmp_path, capsys):
    """Before anything is written; exit status 2."""
    given = ["no-document" if "--layout.window" not in argv else "window", *TINY]
    if "--data" not in argv:
        given += ["--data", str(data)]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as refused:
        command.main([*given, *argv, "--out", str(out)])
    said = capsys.readouterr().err
    assert refused.value.code == 2 and message in said and said.count("\n") == 1
    assert not out.exists()


def test_the_default_row_reads_the_sample(tmp_path):
    """Of a clean clone: thirty conversations, which the model's vocabulary and segments fit."""
    cfg = PRESETS["infinity-lasting"][1]
    name, folder = corpus.folder_of(cfg.data)
    assert name == "made-up sample" and (folder / "train.jsonl").is_file()
    task.check(dataclasses.replace(cfg, batch_size=8, cache=str(tmp_path)))
    assert cfg.model.memory_gradient == 0 and cfg.layout == Layout()


def test_rows_of_the_comparison():
    """What is asked for reaches the rows that it concerns; usual rates by where they begin."""
    asked = CompareConfig(memory_gradient=4, document="section", scored="readers", top_p=0.5)
    rows = {cell.preset: cell.config for cell in cells(asked)}
    assert len(rows) == 10 and all(cfg.top_p == 0.5 for cfg in rows.values())
    assert {cfg.layout.scored for cfg in rows.values()} == {"readers"}
    assert rows["no-document"].layout.document == "none"
    assert rows["window"].layout.document == rows["infinity"].layout.document == "section"
    assert rows["infinity-sticky"].model.memory_gradient == 4
    assert rows["compressive"].model.memory_gradient == 0  # has no gradient to give
    assert rows["infinity-emptied"].objective.empty_memory
    rates = {(cfg.optim.learning_rate, cfg.optim.memory_learning_rate) for cfg in rows.values()}
    assert rates == {(1e-3, 1e-2)}
    given = dataclasses.replace(asked, models=("infinity",), init_from="/nowhere")
    (cell,) = cells(given)
    assert (cell.config.optim.learning_rate, cell.config.optim.memory_learning_rate) == (
        5e-5,
        2.5e-4,
    )
    (cell,) = cells(dataclasses.replace(given, learning_rate=0.5))
    assert cell.config.optim.learning_rate == 0.5
    for models in (("infinity", "infinity"), ("no-document-emptied",)):
        with pytest.raises(ValueError, match=r"^models: found"):
            cells(dataclasses.replace(asked, models=models))
