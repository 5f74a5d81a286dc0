"""The questions experiment: ages and matches by hand, a whole tiny run, its refusals."""

import dataclasses
import json
import math
import re
import shlex

import jax
import numpy as np
import pytest

from experiments.dialogue.corpus import tokenizer_of
from experiments.dialogue.records import Conversation, Turn
from experiments.dialogue.replies import Answering, replies
from experiments.dialogue.stream import Encoder, Layout
from experiments.language_modeling.sample import writer
from experiments.questions import __main__ as command
from experiments.questions.config import PRESETS, QuestionsConfig
from experiments.questions.data import Questions, Sizes, generate
from experiments.questions.task import Probe, ages, by_age, check, documents, token_of
from experiments.run import folders, training
from experiments.run.experiment import Site
from inf_former_jax.data.tokens import Bytes
from inf_former_jax.generate import Sampling
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import sharding


class Pieces:
    """A tokeniser whose tokens are words with the blank before them, and single marks."""

    vocab_size, end = 9, 8

    def __init__(self):
        self._known = []

    def encode(self, text):
        pieces = re.findall(r" ?\w+|\W", text)
        self._known += [one for one in pieces if one not in self._known]
        return np.array([self._known.index(one) for one in pieces])

    def decode(self, ids):
        return "".join(self._known[i] for i in ids)


def test_the_token_of_a_character():
    """Of ["It", " rained", ".", " Ada", " sang", "."] the fourth holds the A, with a blank."""
    text = "It rained. Ada sang."
    assert [token_of(Pieces(), text, i) for i in (0, 1, 2, 8, 9, 10, 11, 19)] == [
        0,
        0,
        1,
        1,
        2,
        3,
        3,
        5,
    ]
    # Bytes are characters, but an é is two: it begins with the first.
    assert [token_of(Bytes(), "é. A", i) for i in range(4)] == [0, 2, 3, 4]


def document(facts, turns):
    """A hand-made document of 11 characters."""
    said = tuple(Turn(number % 2, text, 0) for number, text in enumerate(turns))
    conversation = Conversation("by hand", "", ("Aa. Bb. Cc.",), said, (False, True), None)
    return Questions(conversation, facts, turns[1::2])


def test_ages_by_hand():
    """<doc> 0, text 1–11, <eos>; <speaker1> 13, q, <eos>; <speaker2> 16, xy, <eos>; … 20, … 23."""
    one = document((0, 3, 4, 8)[:2], ("q", "xy", "r", "z"))
    encoder = Encoder(Bytes(), Layout(scored="readers"))
    encoded = encoder(one.conversation)
    assert [turn.start for turn in encoded.turns] == [13, 16, 20, 23]
    # Facts at 1 and 4; segments of 4: 0 and 1, asked from 16 and 23, in 4 and 5.
    assert ages(one, encoded, Bytes(), 4) == [4, 4]
    # Segments of 5: 0 and 0, 3 and 4.
    assert ages(one, encoded, Bytes(), 5) == [3, 4]
    later = document((8, 4), ("q", "xy", "r", "z"))
    # At 9 and 5: segments 2 and 1 of 4; 1 and 1 of 5; all in one of 24, two of 23.
    assert ages(later, encoded, Bytes(), 4) == [2, 4]
    assert ages(later, encoded, Bytes(), 5) == [2, 3]
    assert ages(later, encoded, Bytes(), 24) == [0, 0]
    assert ages(later, encoded, Bytes(), 23) == [0, 1]


def test_ages_are_those_of_the_sentences_that_answer(tmp_path):
    """With a real BPE: from the fact's token on, the text is that of the sentence."""
    cfg = Sizes(2, 6, 9)
    made = generate(0, "train", range(20), cfg)
    read = [one.conversation for one in made]
    tokenizer = tokenizer_of("", read, 400, tmp_path)
    encoder = Encoder(tokenizer, Layout(scored="readers"))
    merged = 0
    for one in made:
        (text,), encoded = one.conversation.sections, encoder(one.conversation)
        found = ages(one, encoded, tokenizer, 7)
        starts = [turn.start // 7 for turn in encoded.turns[1::2]]
        for offset, age, start in zip(one.facts, found, starts, strict=True):
            place = 1 + token_of(tokenizer, text, offset)
            behind = tokenizer.decode(encoded.tokens[place : encoded.documents[0][1] - 1])
            assert behind.removeprefix(" ") == text[offset:]
            merged += behind != text[offset:]
            assert place // 7 == start - age
    assert merged > 0


def test_shares_by_age_by_hand():
    found = by_age([True, False, True, True], [3, 3, 0, 2])
    assert found == {
        "accuracy": 0.75,
        "ages": [0, 1, 2, 3],
        "accuracy_by_age": [1.0, None, 1.0, 0.5],
        "questions_by_age": [1, 0, 1, 2],
    }


# 9 or so segments of 32 bytes; the first questions' facts are out of the window.
TINY = shlex.split("""
    infinity-lasting --task.people 2 --task.questions 2 --task.sentences 4 --task.relations
    instrument --tokenizer bytes --batch-size 8 --train-documents 24 --valid-documents 8
    --test-documents 10 --model.segment-len 32 --model.vocab-size 260 --model.num-layers 1
    --model.num-heads 2 --model.head-dim 4 --model.d-model 8 --model.d-inner 8
    --model.long-term.num-basis 16 --model.long-term.num-samples 16 --model.long-term.bins 8
    --model.long-term.widths 0.05 --optim.steps 4 --optim.warmup-steps 1 --loop.log-every 2
    --loop.eval-every 2
""")
SIZES = Sizes(2, 2, 4, ("instrument",))


def scored_turns(split):
    """Numbers of the turns of which loss is taken, of each conversation, if they are so whole."""
    found = []
    for one in split.encoded:
        shares = [one.scored[turn.said : turn.end].mean() for turn in one.turns]
        assert set(shares) <= {0, 1} and one.scored.sum() == sum(
            turn.end - turn.said for turn, share in zip(one.turns, shares, strict=True) if share
        )
        found.append([turn.turn for turn, share in zip(one.turns, shares, strict=True) if share])
    return found


@pytest.mark.parametrize(("taught", "turns"), [("answers", [1, 3]), ("conversation", [1, 2, 3])])
def test_what_is_taught(taught, turns):
    """Training has loss of answers, or of what is said after the first turn; tests of answers."""
    cfg = dataclasses.replace(
        PRESETS["no-memory"][1],
        task=SIZES,
        tokenizer="bytes",
        taught=taught,
        train_documents=3,
        valid_documents=2,
        test_documents=2,
    )
    corpus = documents(cfg).corpus
    assert scored_turns(corpus.train) == [turns] * 3
    assert scored_turns(corpus.valid) == scored_turns(corpus.test) == [[1, 3]] * 2
    assert all(len(split.segments) == len(split.encoded) for split in corpus.splits.values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, result) of one tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    command.main([*TINY, "--out", str(folder)])
    return folder, json.loads((folder / "result.json").read_text())


def ages_of_test_documents():
    """Of every question, with nothing but the lengths of texts: bytes, segments of 32."""
    made = []
    for one in generate(0, "test", range(10), SIZES):
        at = len(one.conversation.sections[0]) + 2
        for turn in one.conversation.turns:
            if turn.speaker:
                fact = 1 + one.facts[one.answers.index(turn.text)]
                made.append(at // 32 - fact // 32)
            at += len(turn.text) + 2
    return made


@pytest.mark.slow
def test_questions_are_counted_by_age(finished):
    """They are those of the documents; shares by age sum to the share of all."""
    _, result = finished
    expected = np.bincount(ages_of_test_documents()).tolist()
    assert sum(expected) == 20 and len(expected) > 4
    controls = ["memory emptied before every segment", "another document's memory"]
    assert list(result["test"]) == ["as trained", *controls]
    for row in result["test"].values():
        assert row["ages"] == list(range(len(expected))) and row["questions_by_age"] == expected
        asked = [(a, n) for a, n in zip(row["accuracy_by_age"], expected, strict=True) if n]
        assert all(
            a is None for a, n in zip(row["accuracy_by_age"], expected, strict=True) if not n
        )
        assert row["accuracy"] == pytest.approx(sum(a * n for a, n in asked) / 20)
        # Chance on 260 tokens is log 260 = 5.6; little is learnt in 4 steps.
        assert 4.5 < row["loss"] < 6 and row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert 0 <= row["token_accuracy"] < 1
        assert np.mean(row["accuracy_by_question"]) == pytest.approx(row["accuracy"])
    losses = [row["loss"] for row in result["test"].values()]
    assert len({*losses, result["curve"][-1][1]}) == 4
    assert result["baselines"] == {
        "chance": pytest.approx(1 / 30),
        "a value of the document, none bound to its name": 0.5,
        "one that was not given before": 0.75,
    }


@pytest.mark.slow
def test_a_single_document_has_no_other(tmp_path):
    """Then there is no foreign memory, and the run ends as others do."""
    folder = tmp_path / "run"
    command.main([*TINY, "--test-documents", "1", "--out", str(folder)])
    result = json.loads((folder / "result.json").read_text())
    assert list(result["test"]) == ["as trained", "memory emptied before every segment"]


@pytest.mark.slow
def test_a_run_leaves_its_files_and_provenance(finished, capsys):
    folder, result = finished
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert result["steps"] == 4 and [row[0] for row in result["curve"]] == [2, 4]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    assert [row["loss"] for row in valid] == [row[1] for row in result["curve"]]
    assert result["experiment"] == "questions" and result["preset"] == "infinity-lasting"
    command.main([*TINY, "--out", str(folder)])
    out = capsys.readouterr().out
    assert f"{folder} holds the finished run" in out
    table = out[out.index("answers right") :]
    assert all(label in table for label in (*result["test"], *result["baselines"]))
    assert f"{result['test']['as trained']['perplexity']:.2f}" in table and "0.033" in table


@pytest.mark.slow
def test_answers_alone_are_scored(finished):
    """Each with its end; and a gradient reaches the whole document."""
    folder, _ = finished
    cfg = folders.from_json(QuestionsConfig, folders.read_config(folder))
    made = documents(cfg)
    read = generate(0, "train", range(24), SIZES)
    for one, encoded in zip(read, made.corpus.train.encoded, strict=True):
        scored = Bytes().decode(np.where(encoded.tokens == 256, 10, encoded.tokens)[encoded.scored])
        assert scored == "".join(f"{answer}\n" for answer in one.answers)
    assert made.corpus.test.conversations == [
        one.conversation for one in generate(0, "test", range(10), SIZES)
    ]
    assert len(made.corpus.valid.conversations) == 8


@pytest.mark.slow
def test_matches_are_those_of_the_true_words(finished):
    """Where the truth is what the model says, and nowhere else; the control's is what it says."""
    folder, _ = finished
    cfg, _, params, _ = training.load(QuestionsConfig, folder)
    # What a model says that has learnt nothing depends on its memory if its weights are large.
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (leaf + 3 * random.normal(size=leaf.shape)).astype(np.float32),
        jax.device_get(params),
    )
    made = documents(cfg)
    ops = jax.device_put(operators(cfg.model))
    test = made.corpus.test
    longest = 1 + max(len(turn.text) for one in test.conversations for turn in one.turns[1::2])
    words = {
        empty: [
            one.reply
            for one in replies(
                writer(Decoder(cfg.model), params, Bytes()),
                made.corpus,
                test,
                Answering(0, longest, Sampling(temperature=0.0), emptied=empty),
            )
        ]
        for empty in (False, True)
    }
    assert words[False] != words[True]
    # Every third answer of the truth is replaced by what the model says there, others by less.
    flags = [number % 3 == 0 for number in range(20)]
    every = ages_of_test_documents()
    controls = {False: "none", True: "emptied"}
    for empty, said in words.items():
        told = []
        for number, one in enumerate(test.conversations):
            turns = list(one.turns)
            for j in range(2):
                text = said[2 * number + j]
                text = text if flags[2 * number + j] else text[:-1]
                turns[2 * j + 1] = turns[1]._replace(text=text)
            told.append(one._replace(turns=tuple(turns)))
        corpus = made.corpus._replace(test=test._replace(conversations=told))
        mesh = sharding.make_mesh()
        probe = Probe(cfg, made._replace(corpus=corpus), Site(folder, mesh, ops))
        found = probe.answered(params, controls[empty])
        # Each third of 20 answers: 0, 3, 6, … of which the even ones are first questions.
        assert found.pop("accuracy_by_question") == [4 / 10, 3 / 10]
        assert found == by_age(flags, every)
        assert probe.answered(params, controls[not empty])["accuracy"] < 7 / 20


# Options → all that the line has to say: which option, what was found, what is accepted.
BAD = {
    "people": (["--task.people", "31"], ["people", "at most the 30", "found 31"]),
    "many questions": (["--task.questions", "3"], ["questions", "at most the 2 facts", "found 3"]),
    "few sentences": (["--task.sentences", "1"], ["sentences", "2 or more", "found 1"]),
    "small vocabulary": (["--model.vocab-size", "259"], ["tokenizer", "found one of 257", "256"]),
    "no documents": (
        ["--test-documents", "0"],
        ["test_documents", "found 0", "number in [1, 1000000]"],
    ),
    "no training": (["--train-documents", "0"], ["train_documents", "found 0", "number ≥ 1"]),
    "no batch": (["--batch-size", "0"], ["batch_size", "found 0", "number ≥ 1"]),
    "batch and mesh": (["--batch-size", "12"], ["batch_size", "found 12", "multiple"]),
    "tokenizer": (["--tokenizer", "/nowhere"], ["/nowhere", "accepted: tokenizer.json"]),
    "seed": (["--seed", "-1"], ["seed", "found -1", "number in [0, "]),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(options, said, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        command.main([*TINY, "--out", str(out), *options])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and captured.out == ""
    assert all(part in lines[0] or part in lines[0].replace("-", "_") for part in said), lines
    assert not out.exists()


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_can_be_run(name):
    """They pass the check at the door, survive JSON, and their gradient reaches every fact."""
    cfg = PRESETS[name][1]
    few = dataclasses.replace(
        cfg,
        batch_size=jax.device_count(),
        train_documents=20,
        valid_documents=9,
        test_documents=20,
        tokenizer="bytes",
    )
    check(few)
    assert folders.from_json(QuestionsConfig, folders.to_json(cfg)) == cfg
    made = documents(few)
    longest = max(max(ages) for ages in made.test_ages)
    assert 3 < longest <= (cfg.model.memory_gradient or longest)
    assert (name == "no-memory") == (cfg.model.memory_gradient == 0)
