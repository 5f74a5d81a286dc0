"""Readers of conversations about documents: by hand, both layouts alike, and what is refused."""

import json
import logging
import os
from pathlib import Path

import pytest

from experiments.dialogue import sample as sample_dialogues
from experiments.dialogue.corpus import PUBLISHED, RELEASED, Statistics, read, statistics
from experiments.dialogue.records import Conversation, Reading, Turn
from inf_former_jax.data.text import num_words

FACTS = {  # not in the order in which they are written
    "year": "1999",
    "cast": ["Ann as\n Bo", "Cy as Di"],
    "critical_response": ["Good. ", " Bad."],
    "director": "Eve",
    "genre": "Drama",
    "introduction": " It is\na film.",
    "movieName": "The  Film",
    "rating": ["9/10"],
}
WRITTEN = (
    "Movie: The Film\nYear: 1999\nGenre: Drama\nDirector: Eve\nCast: Ann as Bo; Cy as Di\n"
    "Rating: 9/10\nIntroduction: It is a film.\nCritical response: Good.; Bad."
)
WIKI = {"0": FACTS, "1": "One. ", "2": "Two\n two.", "3": "Three.", "wikiDocumentIdx": 7}
SECTIONS = (WRITTEN, "One.", "Two\n two.", "Three.")
HISTORY = [
    {"docIdx": 0, "text": "Hello \n there", "uid": "user2", "utcTimestamp": "x"},
    {"docIdx": 1, "text": "you.", "uid": "user2"},
    {"docIdx": 1, "text": " \n", "uid": "user1"},
    {"docIdx": 2, "text": "Seen it?", "uid": "user2"},
    {"docIdx": 3, "text": "No.", "uid": "user1"},
]
TALK = {"history": HISTORY, "rating": 2, "whoSawDoc": ["user2"], "wikiDocumentIdx": 7, "status": 1}
MERGED = (Turn(1, "Hello there you. Seen it?", 0), Turn(0, "No.", 3))
SAID = (Turn(1, "Hello there", 0), Turn(1, "you.", 1), Turn(1, "Seen it?", 2), Turn(0, "No.", 3))
LINE = {
    "document": list(SECTIONS),
    "turns": [
        {"speaker": "user2", "text": "Hello \n there", "section": 0},
        {"speaker": 1, "text": "you.", "section": 1},
        {"speaker": 0, "text": "", "section": 1},
        {"speaker": 1, "text": "Seen it?", "section": 2},
        {"speaker": "user1", "text": "No.", "section": 3},
    ],
    "title": "The Film",
    "saw": [False, True],
    "rating": 2,
}


def dump(file, *objects):
    """One JSON object a line; text and bytes stay as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [one if isinstance(one, (str, bytes)) else json.dumps(one) for one in objects]
    raw = [one if isinstance(one, bytes) else one.encode() for one in texts]
    file.write_bytes(b"\n".join(raw))


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    dump(folder / "WikiData" / "film.json", WIKI)
    dump(folder / "Conversations" / "train" / "b.json", TALK)
    return folder


def changed(record, *path, **values):
    """A copy with other values at the end of `path`; REMOVED takes a key away."""
    record = json.loads(json.dumps(record))
    place = record
    for step in path:
        place = place[step]
    place.update(values)
    for key in [key for key, value in values.items() if value is REMOVED]:
        del place[key]
    return record


REMOVED = object()


def test_release_by_hand(release):
    whole = Conversation("b.json", "The Film", SECTIONS, MERGED, (False, True), 2, 4)
    assert read(release, "train") == [whole]
    assert read(str(release), "train", Reading(merge=False)) == [whole._replace(turns=SAID)]


def test_release_in_the_order_of_names(release):
    """And each with its own document, which conversations of one document share."""
    other = changed(WIKI, wikiDocumentIdx=0) | {"1": "Other."}
    dump(release / "WikiData" / "a.json", other)
    for name, index in (("c.json", 7), ("a.json", 0), ("B.json", 7)):
        talk = changed(TALK, wikiDocumentIdx=index, whoSawDoc=["user2", "user1"])
        dump(release / "Conversations" / "train" / name, talk)
    found = read(release, "train")
    assert [one.name for one in found] == ["B.json", "a.json", "b.json", "c.json"]
    assert [one.sections[1] for one in found] == ["One.", "Other.", "One.", "One."]
    assert [one.saw for one in found] == [(True, True)] * 2 + [(False, True), (True, True)]
    assert statistics(found).documents == 2


def test_lines_are_the_release(release, tmp_path):
    dump(tmp_path / "lines" / "train.jsonl", LINE)
    for merge in (True, False):
        expected = read(release, "train", Reading(merge=merge))
        found = read(tmp_path / "lines", "train", Reading(merge=merge))
        assert [one._replace(name="b.json") for one in found] == expected


@pytest.mark.parametrize("name", ["valid.jsonl", "validation.jsonl"])
def test_lines_by_hand(tmp_path, name):
    """What need not be there, and blank lines, which count."""
    bare = {"document": "A\n\ntext", "turns": [{"speaker": 0, "text": "é\u2028hi"}]}
    dump(tmp_path / name, "", json.dumps(bare, ensure_ascii=False), " ", bare | {"rating": None})
    first = Conversation("line 2", "", ("A\n\ntext",), (Turn(0, "é hi", 0),), (True, True), None, 1)
    assert read(tmp_path, "valid") == [first, first._replace(name="line 4")]


def test_ratings(tmp_path):
    lines = [changed(LINE, rating=rating) for rating in (2, 1, None, 3, 0)]
    dump(tmp_path / "test.jsonl", *lines)

    def ratings(least):
        return [one.rating for one in read(tmp_path, "test", Reading(min_rating=least))]

    assert ratings(0) == [2, 1, None, 3, 0]
    assert ratings(1) == [2, 1, 3] and ratings(2) == [2, 3]
    message = r"test': found 5 conversations rated 0, 1, 2, 3, accepted: at least one rated 4 or m"
    with pytest.raises(ValueError, match=message):
        ratings(4)
    with pytest.raises(ValueError, match="min_rating: found -1, accepted: a whole number ≥ 0"):
        ratings(-1)


ODD_TALKS = [
    ({"wikiDocumentIdx": 8}, (), r"wikiDocumentIdx: found 8, accepted: an index .*\(7\.\.7\)"),
    ({"wikiDocumentIdx": True}, (), "wikiDocumentIdx: found True"),
    ({"wikiDocumentIdx": REMOVED}, (), "wikiDocumentIdx: found nothing"),
    ({"whoSawDoc": ["user3"]}, (), r"whoSawDoc: found \['user3'\], accepted: a list of user1, us"),
    ({"whoSawDoc": "user1"}, (), "whoSawDoc: found 'user1'"),
    ({"rating": "2"}, (), "rating: found '2', accepted: an integer from 0"),
    ({"rating": REMOVED}, (), "rating: found nothing"),
    ({"history": {}}, (), "history: found {}, accepted: a list"),
    ({"history": ["hi"]}, (), r"history\[0\]: found 'hi', accepted: an object"),
    ({"docIdx": 4}, ("history", 3), r"history\[3\]\.docIdx: found 4, accepted: 0\.\.3"),
    ({"docIdx": -1}, ("history", 3), r"docIdx: found -1"),
    ({"docIdx": 1.0}, ("history", 3), r"docIdx: found 1\.0"),
    ({"docIdx": REMOVED}, ("history", 3), r"docIdx: found nothing"),
    ({"docIdx": 9}, ("history", 2), r"history\[2\]\.docIdx: found 9"),  # of an empty utterance
    ({"uid": "user3"}, ("history", 1), r"uid: found 'user3', accepted: user1, user2"),
    ({"uid": ["user1"]}, ("history", 1), r"uid: found \['user1'\]"),
    ({"text": 3}, ("history", 1), r"history\[1\]\.text: found 3, accepted: a text"),
    ({"text": "\ud800"}, ("history", 1), r"text: found '\\ud800'"),
]


@pytest.mark.parametrize(("values", "path", "message"), ODD_TALKS)
def test_odd_conversation(release, values, path, message):
    dump(release / "Conversations" / "train" / "a.json", changed(TALK, *path, **values))
    with pytest.raises(
        ValueError, match=rf"1 odd .*: .*train/a\.json: (\w+\[\d\]\.)?{message}"
    ) as error:
        read(release, "train")
    refused_in_a_line(error)
    assert [one.name for one in read(release, "train", Reading(skip_odd=True))] == ["b.json"]


def refused_in_a_line(error):
    text = str(error.value)
    assert "found" in text and "accepted" in text and "\n" not in text


ODD_LINES = [
    ({"document": REMOVED}, (), "document: found nothing, accepted: a text, or a list of texts"),
    ({"document": []}, (), r"document: found \[\]"),
    ({"document": ["a", " "]}, (), "document: found"),
    ({"document": " "}, (), "document: found ' '"),
    ({"turns": REMOVED}, (), "turns: found nothing"),
    ({"title": 3}, (), "title: found 3, accepted: a text"),
    ({"saw": [True]}, (), r"saw: found \[True\], accepted: two of true, false"),
    ({"saw": [1, 0]}, (), r"saw: found \[1, 0\]"),
    ({"rating": -1}, (), "rating: found -1"),
    ({"speaker": True}, ("turns", 0), r"turns\[0\]\.speaker: found True, accepted: user1"),
    ({"speaker": 2}, ("turns", 0), "speaker: found 2"),
    ({"section": 4}, ("turns", 0), r"section: found 4, accepted: 0\.\.3"),
]


@pytest.mark.parametrize(("values", "path", "message"), ODD_LINES)
def test_odd_line(tmp_path, values, path, message):
    dump(tmp_path / "train.jsonl", LINE, changed(LINE, *path, **values))
    with pytest.raises(
        ValueError, match=rf"train\.jsonl: line 2: (\w+\[\d\]\.)?{message}"
    ) as error:
        read(tmp_path, "train")
    refused_in_a_line(error)
    assert [one.name for one in read(tmp_path, "train", Reading(skip_odd=True))] == ["line 1"]


ODD_DOCUMENTS = [
    ({"wikiDocumentIdx": 7}, "wikiDocumentIdx: found 7, .* that no other file has"),
    ({"wikiDocumentIdx": "8"}, "wikiDocumentIdx: found '8'"),
    ({"2": REMOVED}, "2: found nothing, accepted: a text"),
    ({"3": " "}, "3: found ' '"),
    ({"0": "text"}, "0: found 'text', accepted: an object of facts"),
    ({"0": {"movieName": "x"}}, "0: found movieName, accepted: cast, .*, year"),
    ({"0": FACTS | {"runtime": "9"}}, "0: found .*, runtime, year, accepted: cast"),
    ({"0": FACTS | {"year": 1999}}, r"0\.year: found 1999, accepted: a text or a list of texts"),
    ({"0": FACTS | {"cast": [1]}}, r"0\.cast: found \[1\]"),
]


@pytest.mark.parametrize(("values", "message"), ODD_DOCUMENTS)
def test_odd_document(release, values, message):
    dump(release / "WikiData" / "z.json", changed(WIKI, **{"wikiDocumentIdx": 8} | values))
    with pytest.raises(ValueError, match=rf"WikiData/z\.json: {message}") as error:
        read(release, "train")
    refused_in_a_line(error)
    assert len(read(release, "train", Reading(skip_odd=True))) == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": "\xc3\xa9\xff"}', "byte 9: found 0xff, accepted: UTF-8"),
        ('{"é": 1', r"found damaged JSON \(Expecting ',' delimiter .*\), accepted: a JSON object"),
        ("[" * 10_000, "found JSON nested too deeply"),
        ('{"rating": ' + "9" * 9_999 + "}", r"found damaged JSON \(Exceeds the limit"),
        ('{"rating": NaN}', r"found damaged JSON \(NaN is no number"),
        ("", "found no JSON"),
        ("[1]", r"found \[1\], accepted: a JSON object"),
    ],
)
def test_files_cut_short(release, tmp_path, raw, message):
    """The byte is one of the file, in whatever line it is."""
    for place in ("WikiData/a.json", "Conversations/train/a.json"):
        dump(release / place, raw)
        with pytest.raises(ValueError, match=rf"{place}: {message}") as error:
            read(release, "train")
        refused_in_a_line(error)
        (release / place).unlink()
    if not raw:  # a blank line, which is nothing
        return
    dump(tmp_path / "train.jsonl", "é", raw)
    byte = message.replace("byte 9", "byte 12")
    with pytest.raises(ValueError, match=rf"2 odd .*line 1: found .*; .*line 2: {byte}"):
        read(tmp_path, "train")


@pytest.mark.parametrize("said", [[], [HISTORY[2]]])
def test_a_conversation_without_words_is_left_out_with_a_warning(release, caplog, said):
    """Unless an option refuses it."""
    dump(release / "Conversations" / "train" / "a.json", TALK | {"history": said})
    skipped = []
    with caplog.at_level(logging.WARNING):
        found = read(release, "train", skipped=skipped)
    assert [one.name for one in found] == ["b.json"]
    reason = "history: found no utterance with words, accepted: at least one"
    assert skipped == [f"{release}/Conversations/train/a.json: {reason}"]
    assert [record.getMessage() for record in caplog.records] == [f"skipped {skipped[0]}"]
    with pytest.raises(ValueError, match=rf"1 odd .*: .*train/a\.json: {reason}"):
        read(release, "train", Reading(skip_empty=False, skip_odd=True))


def test_byte_order_marks_and_file_names_are_no_text(release, tmp_path):
    """A name that is no UTF-8 would fail when the result is written, after the training."""
    for file in release.rglob("*.json"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    file = release / "Conversations" / "train" / "b.json"
    file.rename(os.fsdecode(os.fsencode(file.parent / "\x1b") + b"\xff.json"))
    (one,) = read(release, "train")
    assert (one.name, one.turns) == ("␛\ufffd.json", MERGED)
    dump(tmp_path / "lines" / "train.jsonl", b"\xef\xbb\xbf" + json.dumps(LINE).encode())
    assert read(tmp_path / "lines", "train")[0].turns == MERGED


def test_odd_files_are_counted_named_and_skipped(release, caplog):
    """A document that is odd takes its conversations with it."""
    dump(release / "WikiData" / "odd.json", changed(WIKI, wikiDocumentIdx=8) | {"1": 1})
    for number in range(6):
        index = 8 if number % 2 else 9
        file = release / "Conversations" / "train" / f"{number}.json"
        dump(file, changed(TALK, wikiDocumentIdx=index))
    with pytest.raises(ValueError, match=r"'train': 7 odd \(skip_odd leaves out\): ") as error:
        read(release, "train")
    refused_in_a_line(error)
    names = ["odd.json", *(f"{number}.json" for number in range(6))]
    assert [name in str(error.value) for name in names] == [True] * 5 + [False] * 2
    assert str(error.value).endswith("; 2 more")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        kept = read(release, "train", Reading(skip_odd=True))
    assert [one.name for one in kept] == ["b.json"]
    skipped = [record.getMessage() for record in caplog.records]
    assert len(skipped) == 7
    assert all(name in message for name, message in zip(names, skipped, strict=True))


def test_nothing_left(release, tmp_path):
    dump(release / "Conversations" / "train" / "b.json", "")
    message = "'train': found 0 conversations rated none, accepted: at least one$"
    with pytest.raises(ValueError, match=message):
        read(release, "train", Reading(skip_odd=True))
    dump(tmp_path / "train.jsonl", "")
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "train")


def test_what_is_found_and_what_is_accepted(release, tmp_path):
    with pytest.raises(ValueError, match="split: found 'dev', accepted: train, valid, test"):
        read(release, "dev")
    accepted = r"accepted: a folder with Conversations and WikiData .* or with valid\.jsonl"
    folder = tmp_path / "folder"
    for found in ("no folder", "an empty folder", "a, train.jsonl"):
        if found == "an empty folder":
            folder.mkdir()
        elif found.startswith("a"):
            dump(folder / "train.jsonl", LINE)
            (folder / "a").mkdir()
        with pytest.raises(ValueError, match=rf"folder: found {found}, {accepted}"):
            read(folder, "valid")
    dump(release / "valid.jsonl", LINE)
    both = r"found Conversations, WikiData, valid\.jsonl, accepted"
    with pytest.raises(ValueError, match=both):
        read(release, "valid")
    dump(folder / "valid.jsonl", LINE)
    dump(folder / "validation.jsonl", LINE)
    with pytest.raises(ValueError, match=r"found valid\.jsonl, validation\.jsonl, accepted"):
        read(folder, "valid")


def test_a_release_without_files(release):
    wanted = r"accepted: a folder with \*\.json"
    with pytest.raises(ValueError, match=rf"Conversations/test: found no such folder, {wanted}"):
        read(release, "test")
    (release / "Conversations" / "test").mkdir()
    with pytest.raises(
        ValueError, match=rf"Conversations/test: found no such file in it, {wanted}"
    ):
        read(release, "test")
    (release / "WikiData" / "film.json").unlink()
    with pytest.raises(ValueError, match=rf"WikiData: found no such file in it, {wanted}"):
        read(release, "train")


def test_statistics_by_hand():
    one = Conversation(
        "a", "", ("d", "e"), (Turn(0, "a b c", 0), Turn(1, "d", 0)), (True,) * 2, 3, 4
    )
    more = [one, one._replace(turns=(Turn(0, "x y", 0),), rating=1), one._replace(sections=("d",))]
    expected = Statistics(3, 2, 12, 5, 5 / 3, 2.0, {1: 1, 3: 2})
    assert statistics(more) == expected
    assert list(statistics(more).ratings) == [1, 3]
    unknown = statistics([*more, one._replace(utterances=None, rating=None)])
    assert unknown.utterances is None and unknown.ratings == {None: 1, 1: 1, 3: 2}
    with pytest.raises(ValueError, match="conversations: found 0, accepted: 1 or more"):
        statistics([])


def test_published():
    """The paper's ratings add up to its conversations, and the release has 109 more."""
    assert sum(PUBLISHED.ratings.values()) == PUBLISHED.conversations == 4112
    assert sum(RELEASED.values()) - PUBLISHED.conversations == 109


SAMPLE = Path(sample_dialogues.__file__).parent


@pytest.mark.parametrize(
    ("split", "conversations", "documents", "turns", "words", "ratings"),
    [
        ("train", 20, 10, 215, 2359, {1: 2, 2: 8, 3: 10}),
        ("valid", 4, 4, 38, 361, {2: 3, 3: 1}),
        ("test", 6, 6, 61, 585, {2: 2, 3: 4}),
    ],
)
def test_sample(split, conversations, documents, turns, words, ratings):
    found = statistics(read(SAMPLE, split))
    assert (found.conversations, found.documents, found.turns) == (conversations, documents, turns)
    assert round(found.words_per_turn * turns, 6) == words and found.ratings == ratings


def test_sample_is_of_a_kind():
    """Sections and utterances of the corpus's sizes; no document is new in valid or test."""
    known = {one.title: one.sections for one in read(SAMPLE, "train")}
    said = [one for split in RELEASED for one in read(SAMPLE, split, Reading(merge=False))]
    assert all(known[one.title] == one.sections for one in said)
    lengths = [[num_words(text) for text in sections] for sections in known.values()]
    assert all(len(one) == 3 and min(one) >= 60 and max(one) <= 100 for one in lengths)
    assert all(8 <= len(one.turns) <= 12 for one in said)
    assert all(5 <= num_words(turn.text) <= 25 for one in said for turn in one.turns)
    texts = [turn.text for one in said for turn in one.turns]
    assert len(set(texts)) == len(texts)
