"""Conversations in tokens and segments: written out by hand, and rebuilt one token at a time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.dialogue import corpus
from experiments.dialogue.records import Conversation, Turn
from experiments.dialogue.stream import (
    Encoder,
    Layout,
    Marks,
    control_marks,
    in_documents,
    prompt,
    segments,
    window_before,
)
from inf_former_jax.data import tokens
from inf_former_jax.data.text import SPLITS
from inf_former_jax.models import presets
from tests.data.test_tokens import write_small

END, DOC, FIRST, SECOND = 256, 257, 258, 259
LETTERS = {"E": END, "D": DOC, "A": FIRST, "B": SECOND}

GIVEN = Conversation(
    "line 1",
    "",
    ("ab", "c"),
    (Turn(0, "x", 0), Turn(1, "yy", 1), Turn(0, "z", 1), Turn(1, "w", 0)),
    (True, False),
    None,
)


def ids(text: str) -> list[int]:
    """D, E, A, B are <doc>, <eos>, <speaker1>, <speaker2>; all else is its byte, and _ padding."""
    return [0 if letter == "_" else LETTERS.get(letter, ord(letter)) for letter in text]


def alone(segment_len):
    """A model without any memory."""
    return presets.gpt2(segment_len=segment_len)


def encode(conversation, **layout):
    return Encoder(tokens.Bytes(), Layout(**layout))(conversation)


# By hand

TABLE = {
    "whole, both": (
        {},
        "Dab\ncE AxE ByyE AzE BwE",
        "DDDDDD AAA BBBB AAA BBB",
        "000000 000 0111 011 011",
    ),
    "whole, readers": (
        {"scored": "readers"},
        "Dab\ncE AxE ByyE AzE BwE",
        "DDDDDD AAA BBBB AAA BBB",
        "000000 000 0000 011 000",
    ),
    "section, both": (
        {"document": "section"},
        "DabE AxE DcE ByyE AzE DabE BwE",
        "DDDD AAA DDD BBBB AAA DDDD BBB",
        "0000 000 000 0111 011 0000 011",
    ),
    "section, readers": (
        {"document": "section", "scored": "readers"},
        "DabE AxE DcE ByyE AzE DabE BwE",
        "DDDD AAA DDD BBBB AAA DDDD BBB",
        "0000 000 000 0000 011 0000 000",
    ),
    "none, both": (
        {"document": "none"},
        "AxE ByyE AzE BwE",
        "AAA BBBB AAA BBB",
        "000 0111 011 011",
    ),
    "none, readers": (
        {"document": "none", "scored": "readers"},
        "AxE ByyE AzE BwE",
        "AAA BBBB AAA BBB",
        "000 0000 011 000",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_encoded_by_hand(name):
    layout, expected, types, scored = TABLE[name]
    got = encode(GIVEN, **layout)
    np.testing.assert_array_equal(got.tokens, ids(expected.replace(" ", "")))
    np.testing.assert_array_equal(got.types, ids(types.replace(" ", "")))
    np.testing.assert_array_equal(got.scored, [one == "1" for one in scored.replace(" ", "")])
    assert (got.tokens.dtype, got.types.dtype) == (np.int32, np.int32)
    # Each word of the table is a document or a turn.
    ends = np.cumsum([len(word) for word in expected.split(" ")]).tolist()
    words = list(zip(expected.split(" "), [0, *ends], ends, strict=False))
    assert got.documents == tuple((start, end) for word, start, end in words if word[0] == "D")
    turns = [(start, end) for word, start, end in words if word[0] != "D"]
    assert got.turns == tuple((i, start, start + 1, end) for i, (start, end) in enumerate(turns))


SEGMENTS = {  # layout, T, inputs, types, targets, weights
    "whole": (
        {}, 8,
        ["Dab\ncEAx", "EByyEAzE", "Bw______"],
        ["DDDDDDAA", "ABBBBAAA", "BB______"],
        ["ab\ncEAxE", "ByyEAzEB", "wE______"],
        ["00000000", "01110110", "11000000"],
    ),
    "none": (
        {"document": "none"}, 6,
        ["AxEByy", "EAzEBw"],
        ["AAABBB", "BAAABB"],
        ["xEByyE", "AzEBwE"],
        ["000111", "011011"],
    ),
    "window of the whole, cut": (
        {"window": 4}, 7,
        ["DabEAxE", "DabEByy", "DabEEAz", "DabEEBw"],
        ["DDDDAAA", "DDDDBBB", "DDDDBAA", "DDDDABB"],
        ["____xEB", "____yyE", "____AzE", "____BwE"],
        ["0000000", "0000111", "0000011", "0000011"],
    ),
    "window wider than the document": (
        {"window": 7}, 12,
        ["Dab\ncEAxEByy", "Dab\ncEEAzEBw"],
        ["DDDDDDAAABBB", "DDDDDDBAAABB"],
        ["______xEByyE", "______AzEBwE"],
        ["000000000111", "000000011011"],
    ),
    "window of sections, readers": (
        {"document": "section", "window": 3, "scored": "readers"}, 5,
        ["DaEAx", "DaEEB", "DcEyy", "DcEEA", "DcEzE", "DaEBw"],
        ["DDDAA", "DDDAB", "DDDBB", "DDDBA", "DDDAA", "DDDBB"],
        ["___xE", "___By", "___yE", "___Az", "___EB", "___wE"],
        ["00000", "00000", "00000", "00001", "00010", "00000"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_by_hand(name):
    layout, length, inputs, types, targets, weights = SEGMENTS[name]
    got = segments(encode(GIVEN, **layout), length, layout.get("window", 0))
    for leaf, rows in ((got.tokens, inputs), (got.types, types), (got.targets, targets)):
        np.testing.assert_array_equal(leaf, [ids(row) for row in rows])
    np.testing.assert_array_equal(got.weights, [[float(w) for w in row] for row in weights])
    np.testing.assert_array_equal(got.valid, [[letter != "_" for letter in row] for row in inputs])
    assert [leaf.dtype for leaf in got] == [np.int32, np.int32, np.float32, bool, np.int32]


def test_the_marks_follow_the_tokenisers_ids():
    assert control_marks(tokens.Bytes()) == Marks(END, (DOC,), ((FIRST,), (SECOND,)))
    assert Layout().new_ids == 3


# One token at a time


def rebuilt(conversation, layout):
    """(id, type, counts, of a document) of every token, by a loop over them."""
    made, read = [], None
    for number, turn in enumerate(conversation.turns):
        now = {"whole": "\n".join(conversation.sections), "none": None}.get(
            layout.document, conversation.sections and conversation.sections[turn.section]
        )
        if now and now != read:
            made += [(one, DOC, False, True) for one in (DOC, *now.encode(), END)]
            read = now
        who = (FIRST, SECOND)[turn.speaker]
        counts = number > 0 and not (
            layout.scored == "readers" and not conversation.saw[turn.speaker]
        )
        made.append((who, who, False, False))
        made += [(one, who, counts, False) for one in (*turn.text.encode(), END)]
    return made


texts = st.text("ab<é", min_size=1, max_size=5)


@st.composite
def conversations(draw):
    sections = tuple(draw(st.lists(texts, max_size=3)))
    turn = st.builds(Turn, st.integers(0, 1), texts, st.integers(0, max(0, len(sections) - 1)))
    turns = tuple(draw(st.lists(turn, min_size=1, max_size=5)))
    saw = draw(st.tuples(st.booleans(), st.booleans()))
    return Conversation("line 1", "", sections, turns, saw, None)


documents = st.sampled_from(["whole", "section"])
windows, scored = st.sampled_from([0, 0, 3, 4, 6]), st.sampled_from(["both", "readers"])
layouts = st.builds(Layout, documents, windows, scored)
layouts |= st.builds(Layout, st.just("none"), scored=scored)


@given(conversations(), layouts)
def test_encoded_is_what_a_loop_makes(conversation, layout):
    expected = rebuilt(conversation, layout)
    got = Encoder(tokens.Bytes(), layout)(conversation)
    leaves = got.tokens, got.types, got.scored, in_documents(got)
    for leaf, column in zip(leaves, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(leaf, column)
    assert not got.scored[in_documents(got)].any() and not got.scored[: got.turns[0].end].any()
    for span, turn in zip(got.turns, conversation.turns, strict=True):
        counts = span.turn > 0 and (layout.scored == "both" or conversation.saw[turn.speaker])
        assert not got.scored[span.start]
        assert (got.scored[span.start + 1 : span.end] == counts).all()
        assert got.tokens[span.start] == got.types[span.start] == (FIRST, SECOND)[turn.speaker]
        assert got.tokens[span.end - 1] == END
        assert bytes(got.tokens[span.start + 1 : span.end - 1].tolist()).decode() == turn.text


@given(conversations(), layouts, st.integers(2, 9))
def test_every_token_is_predicted_once_from_the_one_before_it(conversation, layout, more):
    """The segments put together are the stream; what is scored is the same for every layout."""
    length = layout.window + more
    stream = [one for one in rebuilt(conversation, layout) if not (layout.window and one[3])]
    got = segments(Encoder(tokens.Bytes(), layout)(conversation), length, layout.window)
    inputs, targets = [], []
    for w in range(len(got.tokens)):
        read = int(got.valid[w].sum())
        assert got.valid[w, :read].all(), "padding is behind all else"
        first = 0
        if layout.window and got.tokens[w, 0] == DOC:
            first = got.tokens[w].tolist().index(END) + 1
            assert first <= layout.window and (got.types[w, :first] == DOC).all()
        assert not got.weights[w, :first].any() and not got.weights[w, read:].any()
        assert read == length or w == len(got.tokens) - 1, "full but for the last"
        here = slice(first, read)
        inputs += zip(got.tokens[w, here].tolist(), got.types[w, here].tolist(), strict=True)
        targets += zip(got.targets[w, here].tolist(), got.weights[w, here].tolist(), strict=True)
    assert inputs == [(one, who) for one, who, _, _ in stream[:-1]]
    assert targets == [(one, float(counts)) for one, _, counts, _ in stream[1:]]
    expected = sum(
        len(turn.text.encode()) + 1
        for turn in conversation.turns[1:]
        if layout.scored == "both" or conversation.saw[turn.speaker]
    )
    assert got.weights.sum() == expected


@pytest.mark.parametrize("document", ["whole", "none"])
def test_a_conversation_of_one_turn_is_read_and_not_scored(document):
    """Two tokens at least, which are one input and one target."""
    for text, count in (("", 2), ("x", 3)):
        alone = GIVEN._replace(sections=(), turns=(Turn(1, text, 0),))
        encoded = encode(alone, document=document)
        np.testing.assert_array_equal(encoded.tokens, [SECOND, *text.encode(), END])
        got = segments(encoded, 4)
        assert got.tokens.shape == (1, 4) and got.valid.sum() == count - 1
        assert got.weights.sum() == 0 and got.targets[0, count - 2] == END


# Text that spells a control token

SPELLED = ["<speaker1>", "<speaker2> hi", "<doc>", "a <|endoftext|>", "<eos>"]


@pytest.fixture(scope="module")
def spelling_bpe(tmp_path_factory):
    """A BPE that has merged all of what is spelled."""
    return tokens.train_bpe(SPELLED * 9, 320, tmp_path_factory.mktemp("bpe") / "tokenizer.json")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_no_text_becomes_a_control_token(kind, request):
    tokenizer = tokens.Bytes() if kind == "bytes" else request.getfixturevalue("spelling_bpe")
    turns = tuple(Turn(i % 2, text, i) for i, text in enumerate(SPELLED))
    spelled = Conversation("line 1", "", tuple(SPELLED), turns, (True, True), None)
    encoder = Encoder(tokenizer, Layout("section"))
    marks, got = encoder.marks, encoder(spelled)
    new = sorted({*marks.doc, *marks.speakers[0], *marks.speakers[1]})
    assert new == [tokenizer.vocab_size + i for i in range(3)]
    starts = [one[0] for one in got.documents] + [one.start for one in got.turns]
    ends = [one[1] - 1 for one in got.documents] + [one.end - 1 for one in got.turns]
    at = np.isin(got.tokens, new)
    np.testing.assert_array_equal(np.flatnonzero(at), sorted(starts))
    np.testing.assert_array_equal(np.flatnonzero(got.tokens == marks.end), sorted(ends))
    said = [tokenizer.decode(got.tokens[one.start + 1 : one.end]) for one in got.turns]
    read = [tokenizer.decode(got.tokens[start + 1 : end]) for start, end in got.documents]
    assert said == read == SPELLED


def test_a_document_is_encoded_once():
    seen = []

    class Counting(tokens.Bytes):
        def encode(self, text):
            seen.append(text)
            return super().encode(text)

    encoder = Encoder(Counting(), Layout())
    first, second = encoder(GIVEN), encoder(GIVEN._replace(turns=GIVEN.turns[:1]))
    assert seen == ["ab\nc", "x", "yy", "z", "w", "x"]
    np.testing.assert_array_equal(first.tokens[:9], second.tokens)


def test_what_no_token_can_express_is_left_out_of_conversations(tmp_path, caplog):
    """Of documents and turns, all of a corpus in one line; the corpus keeps the number."""
    write_small(tmp_path)
    tokenizer = tokens.load_bpe(tmp_path)
    odd = GIVEN._replace(
        sections=tuple(f"{section}\x04" for section in GIVEN.sections),
        turns=tuple(turn._replace(text=f"\x1d{turn.text}") for turn in GIVEN.turns),
    )
    cfg = presets.gpt2(segment_len=8, vocab_size=244)

    def read(one):
        given = {split: [one] for split in SPLITS}
        return corpus.encoded("name", given, tokenizer, Layout(), cfg)

    whole, found = read(GIVEN), read(odd)
    np.testing.assert_array_equal(found.test.encoded[0].tokens, whole.test.encoded[0].tokens)
    turns, sections = 3 * len(GIVEN.turns), len(GIVEN.sections)  # three splits share a document
    assert (whole.dropped, found.dropped) == (0, turns + sections)
    kinds = f"U+001D {turns} times, U+0004 {sections} times"
    told = f"name: left out {turns + sections} characters without a token: {kinds}"
    assert [one.getMessage() for one in caplog.records] == [told]


# Windows and prompts


@pytest.mark.parametrize(
    "window, place, expected",
    [
        (3, 6, "DaE"),
        (4, 6, "DabE"),
        (9, 6, "DabE"),
        (3, 10, "DcE"),
        (4, 16, "DcE"),
        (3, 21, "DaE"),
        (5, 21, "DabE"),
        (5, 0, ""),
    ],
)
def test_windows_by_hand(window, place, expected):
    """Of the document read last: DabE AxE DcE ByyE AzE DabE BwE."""
    encoded = encode(GIVEN, document="section")
    got = window_before(encoded, place, window)
    assert got.size <= window
    np.testing.assert_array_equal(encoded.tokens[got], ids(expected))


PROMPTS = [  # layout, T, room, turn, expected, types
    ({}, 4, 2, 2, "Dab\ncEAxEByyEA", "DDDDDDAAABBBBA"),
    ({"document": "section"}, 4, 1, 1, "DabEAxEDcEB", "DDDDAAADDDB"),
    ({"document": "none"}, 8, 3, 3, "EAzEB", "BAAAB"),
    ({"document": "none"}, 20, 3, 1, "AxEB", "AAAB"),
    ({"document": "none"}, 4, 4, 1, "B", "B"),
    ({"window": 3}, 10, 3, 3, "DaEAzEB", "DDDAAAB"),
    ({"window": 3, "document": "section"}, 10, 2, 2, "DcEByyEA", "DDDBBBBA"),
    ({"window": 3, "document": "section"}, 30, 2, 3, "DaEAxEByyEAzEB", "DDDAAABBBBAAAB"),
]


@pytest.mark.parametrize("layout, length, room, turn, expected, types", PROMPTS)
def test_prompts_by_hand(layout, length, room, turn, expected, types):
    encoded = encode(GIVEN, **layout)
    got, of_types = prompt(encoded, encoded.turns[turn], alone(length), Layout(**layout), room)
    np.testing.assert_array_equal(got, ids(expected))
    np.testing.assert_array_equal(of_types, ids(types))


@given(conversations(), layouts, st.integers(2, 9), st.data())
def test_a_prompt_and_its_reply_are_the_stream(conversation, layout, more, data):
    """Of the turns all that fits, and nothing else; through a memory, everything."""
    length = layout.window + more
    room = data.draw(st.integers(1, more - 1))
    encoded = Encoder(tokens.Bytes(), layout)(conversation)
    stream = [one[:2] for one in rebuilt(conversation, layout)]
    said = [one[:2] for one in rebuilt(conversation, layout) if not one[3]]
    behind = 0  # tokens of turns so far
    for span in encoded.turns:
        got, types = prompt(encoded, span, alone(length), layout, room)
        got = list(zip(got.tolist(), types.tolist(), strict=True))
        if layout.window or layout.document == "none":
            before = window_before(encoded, span.start, layout.window).size if layout.window else 0
            assert len(got) == min(length - room, before + behind + 1)
            first = behind + 1 - (len(got) - before)
            assert got[before:] == said[first : behind + 1]
        else:
            assert got == stream[: span.start + 1]
        assert got[-1] == (encoded.tokens[span.start],) * 2
        behind += span.end - span.start


@settings(max_examples=30)
@given(conversations(), st.integers(2, 9))
def test_a_prompt_through_the_memory_is_what_the_segments_read(conversation, length):
    """What the model has read where it predicts the first token of a turn."""
    encoded = Encoder(tokens.Bytes(), Layout())(conversation)
    got = segments(encoded, length)
    read = got.tokens[got.valid]
    for span in encoded.turns:
        before, _ = prompt(encoded, span, alone(length), Layout(), 1)
        np.testing.assert_array_equal(before, read[: len(before)])
        assert got.targets[got.valid][len(before) - 1] == encoded.tokens[span.start + 1]


# Refusals


@pytest.mark.parametrize(
    "options, message",
    [
        ({"document": "half"}, "^document: found half, accepted: whole or section or none$"),
        ({"scored": "all"}, "^scored: found all, accepted: both or readers$"),
        (
            {"window": 2},
            "^window: found 2 with document whole, accepted: 0, or 3 or more with a doc",
        ),
        ({"window": -3}, "^window: found -3, accepted: a whole number ≥ 0$"),
        ({"window": 8, "document": "none"}, "^window: found 8 with document none, accepted: 0"),
    ],
)
def test_impossible_layouts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Layout(**options)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Layout(), **options)


def test_segments_that_leave_no_turns_are_refused():
    encoded = encode(GIVEN)
    with pytest.raises(ValueError, match=r"^segment_len: found 1, accepted: 2 or more$"):
        segments(encoded, 1)
    with pytest.raises(ValueError, match=r"^window: found 7, accepted: at most 6, which leaves"):
        segments(encoded, 8, 7)
    assert segments(encoded, 8, 6).tokens.shape == (6, 8)
