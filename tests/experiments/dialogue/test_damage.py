"""Damaged conversations: refused in the dialect or read as what they say."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.dialogue.corpus import read, statistics
from experiments.dialogue.records import SPEAKERS, Reading
from experiments.dialogue.stream import Encoder, Layout, segments
from inf_former_jax.data.tokens import Bytes
from tests.data.damage import VALUES, damaged, mutated, put, refusals

TURNS = [{"speaker": "user1", "text": "What é?"}, {"speaker": 1, "text": "A b.", "section": 1}]
LINE = {
    "document": ["One.", "Two."],
    "turns": TURNS,
    "title": "A",
    "saw": [True, False],
    "rating": 2,
}
FACTS = ("movieName", "year", "genre", "director", "cast", "rating", "introduction")
WIKI = {"0": dict.fromkeys((*FACTS, "critical_response"), "x"), "1": "A.", "2": "B.", "3": "C."}
WIKI |= {"wikiDocumentIdx": 7}
SAID = [{"docIdx": i, "text": f"said {i}", "uid": f"user{i}"} for i in (1, 2)]
TALK = {"history": SAID, "rating": 2, "whoSawDoc": ["user2"], "wikiDocumentIdx": 7}
WHOLE = b"".join(
    b'{"document": "One.", "turns": [{"speaker": 0, "text": "a"}]}\n' for _ in range(2)
)


@pytest.fixture
def fresh(tmp_path_factory):
    """A new folder at each call."""
    return lambda: tmp_path_factory.mktemp("damaged")


@settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    place=st.sampled_from(["train.jsonl", "WikiData/a.json", "Conversations/train/a.json"]),
    data=st.data(),
    skip_odd=st.booleans(),
)
def test_conversations(fresh, place, data, skip_odd):
    """What is accepted has words, speakers and sections, and becomes tokens of the vocabulary."""
    folder = fresh()
    record = {"train.jsonl": LINE, "WikiData/a.json": WIKI}.get(place, TALK)
    values = VALUES | st.sampled_from(["0", "1", "2", "3"])
    content = data.draw(damaged(WHOLE) | mutated(record, values) | mutated(record, values))
    put(folder / place, content)
    if place != "train.jsonl":
        other = "Conversations/train/b.json" if "Wiki" in place else "WikiData/b.json"
        put(folder / other, json.dumps(TALK if "Wiki" in place else WIKI).encode())
    with refusals(folder) as refused:
        found = read(folder, "train", Reading(skip_odd=skip_odd))
    if refused:
        return
    statistics(found)
    encoder = Encoder(Bytes(), Layout())
    for one in found:
        assert one.turns and one.sections and all(one.sections)
        assert (one.title + "".join(one.sections)).encode()
        assert one.rating is None or one.rating >= 0
        assert [type(seen) for seen in one.saw] == [bool, bool] and one.name.isprintable()
        for turn, after in zip(one.turns, one.turns[1:], strict=False):
            assert turn.speaker != after.speaker
        for turn in one.turns:
            assert turn.speaker in SPEAKERS.values() and 0 <= turn.section < len(one.sections)
            assert turn.text == " ".join(turn.text.split()) != "" and turn.text.encode()
        cut = segments(encoder(one), 16)
        assert cut.tokens.min() >= 0 and cut.tokens.max() < encoder.marks.speakers[1][0] + 1
