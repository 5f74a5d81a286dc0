"""Scores of replies against values worked out by hand, METEOR through nltk's reader of WordNet."""

import dataclasses
import gc
import importlib.util

import pytest

from experiments.dialogue import scores as module
from experiments.dialogue.scores import Scores, distinct, f1, missing, scores, words

#: Part of speech → synsets; oxen is an irregular plural.
SYNSETS = {
    "adj": [["big", "great"], ["large", "roomy"]],
    "adv": [["quick", "fast"]],
    "noun": [["ox", "wild_ox"], ["wren", "bird"]],
    "verb": [["sit"]],
}
LETTER = {"adj": "a", "adv": "r", "noun": "n", "verb": "v"}


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    """The folder of a dictionary of these synsets, in the format of wndb(5WN)."""
    folder = tmp_path_factory.mktemp("wordnet")
    for part, synsets in SYNSETS.items():
        data, index = "  1 WordNet 3.0 Copyright 2006 by Princeton University.\n", "  1 \n"
        for lemmas in synsets:
            offset, fields = len(data), " ".join(f"{lemma} 0" for lemma in lemmas)
            verb = " 01 + 02 00" if part == "verb" else ""
            kind = LETTER[part]
            data += f"{offset:08} 05 {kind} {len(lemmas):02x} {fields} 000{verb} | a gloss\n"
            index += "".join(f"{lemma} {kind} 1 0 1 0 {offset:08}\n" for lemma in lemmas)
        (folder / f"data.{part}").write_text(data, encoding="utf-8")
        (folder / f"index.{part}").write_text(index, encoding="utf-8")
        exceptions = "oxen ox\n" if part == "noun" else ""
        (folder / f"{part}.exc").write_text(exceptions, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The cat sat.", "a cat sat", 1),
        ("the cat", "a dog", 0),
        ("cat cat dog", "cat cat cat bird", 4 / 7),
        ("It's an old-fashioned theatre!", "it s old fashioned", 8 / 9),
        ("Panther", "p n ther", 0),
        ("", "cat", 0),
        ("cat", "...", 0),
        ("the", "the", 0),
    ],
)
def test_f1_by_hand(prediction, reference, expected):
    """Counts are those of both; articles are words, not letters within one."""
    assert f1(prediction, reference) == pytest.approx(expected)
    assert f1(reference, prediction) == pytest.approx(expected)


def test_words_and_distinct_by_hand():
    text = "Don't -- it’s 2 'old' cafés_bar."
    assert words(text) == ["don't", "it’s", "2", "old", "cafés", "bar"]
    replies = [["a", "b", "a", "b"], ["a", "b"], [], ["c"]]
    assert distinct(replies, 1) == 3 / 7
    assert distinct(replies, 2) == 2 / 4
    assert distinct(replies, 5) == distinct([], 1) == 0


def test_scores_by_hand(wordnet):
    """Two replies: stems and a synonym count where they should, and means are over both."""
    predictions = ["the great cats sat", "birds sing"]
    references = ["the big cat sat", "no bird ever sings here"]
    found = scores(predictions, references, wordnet)
    assert isinstance(found, Scores)
    # f1: "sat" of three words each without articles; nothing of the second.
    assert found.f1 == pytest.approx(100 * (1 / 3 + 0) / 2)
    # ROUGE with stems: three of four, two of two and of five; both in order.
    assert found.rouge_1 == pytest.approx(100 * (3 / 4 + 4 / 7) / 2)
    assert found.rouge_1_recall == pytest.approx(100 * (3 / 4 + 2 / 5) / 2)
    both = found.rouge_1, found.rouge_1_recall
    assert (found.rouge_l, found.rouge_l_recall) == pytest.approx(both)
    # METEOR: all four words in one piece; two of two and of five in two pieces.
    mean = 1 * 0.4 / (0.9 * 1 + 0.1 * 0.4)
    assert found.meteor == pytest.approx(100 * (1 - 0.5 / 4**3 + (1 - 0.5) * mean) / 2)
    assert dataclasses.astuple(found)[6:10] == (100, 100, 3, 2)
    # Of two values a and b the standard error of the mean is |a - b| / 2.
    assert found.errors["f1"] == pytest.approx(100 * (1 / 3 - 0) / 2)
    assert found.errors["rouge_1_recall"] == pytest.approx(100 * (3 / 4 - 2 / 5) / 2)
    assert found.errors["meteor"] == pytest.approx(100 * abs(1 - 0.5 / 4**3 - (1 - 0.5) * mean) / 2)
    assert set(found.errors) == {"f1", "meteor"} | {
        f"rouge_{kind}" for kind in ("1", "1_recall", "l", "l_recall")
    }


def test_rouge_l_is_of_the_longest_common_subsequence(wordnet):
    found = scores(["sat the cat on"], ["The cat sat on a mat"], wordnet)
    assert found.rouge_1 == pytest.approx(100 * 8 / 10)
    assert found.rouge_1_recall == pytest.approx(100 * 4 / 6)
    assert found.rouge_l == pytest.approx(100 * 6 / 10)
    assert found.rouge_l_recall == pytest.approx(100 * 3 / 6)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Great cat!", "big cat", 1 - 0.5 / 2**3),  # a synonym
        ("great cat", "small cat", 0.5 * (1 - 0.5)),  # none
        ("roomy cat", "large cat", 0.5 * (1 - 0.5)),  # nltk asks for synonyms of "roomi"
        ("oxen", "ox", 0.5),  # by the exception, no stem
        ("he sat fast", "he sat quick", 1 - 0.5 / 3**3),
        ("he quick sat", "he sat fast", 0.5),  # three pieces
        ("bird dog", "wren", 0.5 * 0.5 / (0.9 * 0.5 + 0.1)),  # of the hypothesis's synonyms
        ("", "ox", 0),
        ("ox", "?!", 0),
    ],
)
def test_meteor_by_hand(wordnet, prediction, reference, expected):
    """(1 - γ (pieces / matches)³) P R / (α P + (1 - α) R) with γ = .5 and α = .9."""
    found = scores([prediction], [reference], wordnet)
    assert found.meteor == pytest.approx(100 * expected)


def test_the_dictionary_is_read_once_and_closed(wordnet, monkeypatch):
    """Relative or absolute, a folder is the same; nothing is left open."""
    first = module._reader(wordnet)
    monkeypatch.chdir(wordnet)
    before = module._reader.cache_info().misses
    assert scores(["great"], ["big"], ".").meteor == pytest.approx(50)
    assert module._reader.cache_info().misses == before and module._reader(wordnet) is first
    module._reader.cache_clear()
    del first
    gc.collect()  # an open file would warn


def test_blank_predictions_score_0(wordnet):
    found = scores(["", " \n"], ["a cat", "?"], wordnet)
    assert dataclasses.replace(found, errors={}) == Scores(*(0,) * 9, 2)
    assert set(found.errors.values()) == {0}


def test_without_wordnet_the_others_are_given(wordnet, tmp_path, monkeypatch, capsys):
    """One line says what is missing; "" is Debian's folder."""
    assert missing(wordnet) == ""
    for name in ("data.adj", "index.adj"):
        (tmp_path / name).write_text("")
    found = scores(["large cat"], ["big cat"], str(tmp_path))
    line = f"wordnet: found no adj.exc in {tmp_path}, so METEOR is left out, accepted: a folder "
    line += "with WordNet 3.0's dictionary files, or none after apt-get install wordnet-base"
    assert missing(str(tmp_path)) == line and capsys.readouterr().out == f"{line}\n"
    assert found.meteor is None
    assert dataclasses.replace(found, meteor=50) == Scores(*(50,) * 6, 100, 100, 2, 1)
    monkeypatch.setattr(module, "WORDNET", wordnet)
    assert missing() == ""
    assert scores(["great cat"], ["big cat"]).meteor == pytest.approx(93.75)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_meteor_with_debians_wordnet():
    found = scores(["an auto", "oxen", "big"], ["a car", "ox", "small"])
    assert found.meteor == pytest.approx(100 * (0.25 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], ["a", "b"], r"^references: found 2, accepted: one for each of the 1 predictions$"),
        ([], [], r"^predictions: found none, accepted: one or more$"),
        (["a", "b"], ["a", " \t"], r"^references\[1\]: found ' \\t', accepted: a text$"),
    ],
)
def test_bad_input_is_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        scores(predictions, references)


@pytest.mark.parametrize("package", ["nltk", "rouge_score"])
def test_missing_packages_are_named(package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ValueError, match=rf"^scores: {package} is not .*'inf_former_jax\[dialog"):
        scores(["a"], ["a"])
