"""Tokenisers: no text is changed by them, and what would change one is refused."""

import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_former_jax.data import byte_symbols, tokens
from inf_former_jax.data.tokens import END, Bytes, Tokenizer, load_bpe, train_bpe

TEXTS = ["the cat sat on the mat . the end", "a café , the café ; \n\n the mat", "mat mat mat"]

# By hand. GPT-2's: printable bytes stand for themselves, the others for characters from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = {byte: 256 + i for i, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}
ALPHABET = [chr(_OTHERS.get(byte, byte)) for byte in [*_PRINTABLE, *_OTHERS]]


def write_pair(folder, merges=("t h", "Ġ th", "Ġth e"), more=()):
    """GPT-2's two files with few merges: 256 bytes, what the merges make, the end, more tokens."""
    made = ["".join(merge.split()) for merge in merges]
    vocab = {token: i for i, token in enumerate([*ALPHABET, *made, END, *more])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocab


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_bpe(TEXTS, 280, tmp_path_factory.mktemp("bpe") / "tokenizer.json")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    write_pair(folder)
    return load_bpe(folder)


text_of_any_kind = st.one_of(
    st.text(),
    st.text(alphabet="the caf\u00e9\u2028\x00\r\n\t \ufeff'<|>"),
    st.lists(st.sampled_from(["the", " ", END, "\u0301", "😀", "'s", "  \n"])).map("".join),
)


@settings(deadline=None)
@given(text_of_any_kind)
def test_round_trip(trained, pair, text):
    for tokenizer in (Bytes(), trained, pair):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert tokenizer.end not in ids
        assert ids.min(initial=0) >= 0 and ids.max(initial=0) < tokenizer.vocab_size
        assert tokenizer.decode(np.append(ids, tokenizer.end)) == text


def test_bytes_by_hand():
    assert Bytes().encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert Bytes().decode(np.array([97, 256, 0xC3])) == "a\ufffd"
    assert isinstance(Bytes(), Tokenizer)


def test_gpt2_files_by_hand(tmp_path):
    vocab = write_pair(tmp_path)
    tokenizer = load_bpe(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end) == (260, 259)
    pieces = ["th", "e", "Ġthe", "Ġ", "t", "n", "Ċ"]
    found = tokenizer.encode("the the tn\n")
    assert found.tolist() == [vocab[piece] for piece in [*pieces[:3], *pieces[3:6], pieces[6]]]


def test_the_two_forms_are_one_tokeniser(tmp_path):
    write_pair(tmp_path)
    first = load_bpe(tmp_path)
    definition = tokens._from_pair(tmp_path / "vocab.json", tmp_path / "merges.txt")
    # As GPT-2's own tokenizer.json: the end is special, merges are strings, a post-processor.
    spec = json.loads(definition)
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    spec["added_tokens"] = [ADDED | {"id": 259, "content": END, "lstrip": False, "special": True}]
    spec["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst"}
    spec["truncation"]["stride"] = 0
    other = tmp_path / "json"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    second = load_bpe(other)
    assert (second.fingerprint, second.end) == (first.fingerprint, first.end)
    text = f"the then {END} theth"
    assert second.encode(text).tolist() == first.encode(text).tolist()
    write_pair(tmp_path, merges=("t h", "h e", "Ġ th"))
    assert load_bpe(tmp_path).fingerprint != first.fingerprint
    spec["model"]["vocab"] |= {"</s>": 260}
    (other / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    ends = [load_bpe(other, end=end).fingerprint for end in (END, "</s>")]
    assert len({first.fingerprint, *ends}) == 3
    with pytest.raises(ValueError, match="found 'Ġthe', to which the text ' the' is encoded, acc"):
        load_bpe(other, end="Ġthe")


def write_end(folder, **files):
    """eos_token or eos_token_id in the named files; null and absent say nothing."""
    for name, value in files.items():
        field = "eos_token" if name == "tokenizer_config" else "eos_token_id"
        (folder / f"{name}.json").write_text(json.dumps({field: value}))


@pytest.mark.parametrize(
    "files, end",
    [
        ({}, END),
        ({"config": 260}, "<x>"),
        ({"config": 261, "generation_config": [260]}, "<x>"),
        ({"config": 261, "generation_config": None}, "<y>"),
        ({"config": 261, "generation_config": 262, "tokenizer_config": "<x>"}, "<x>"),
        ({"config": 261, "tokenizer_config": {"content": "<x>", "lstrip": False}}, "<x>"),
        ({"config": None, "generation_config": None, "tokenizer_config": None}, END),
    ],
)
def test_the_end_is_what_the_files_say(tmp_path, files, end):
    """In the documented order; a tokeniser that is kept elsewhere keeps it."""
    vocab = write_pair(tmp_path, more=("<x>", "<y>", "<z>"))
    write_end(tmp_path, **files)
    found = load_bpe(tmp_path)
    assert (found.end_token, found.end) == (end, vocab[end])
    (tmp_path / "run").mkdir()
    found.save(tmp_path / "run" / "tokenizer.json")
    for path in (tmp_path / "run", tmp_path / "run" / "tokenizer.json"):
        again = load_bpe(path)
        assert (again.end, again.fingerprint) == (found.end, found.fingerprint)
    assert load_bpe(tmp_path, end="<z>").end == vocab["<z>"]


@pytest.mark.parametrize(
    "files, match",
    [
        ({"config": 50256}, "found 260 tokens, accepted: a vocabulary with 50256"),
        ({"config": -1}, "found 260 tokens, accepted: a vocabulary with -1"),
        (
            {"config": "th"},
            r"config\.json: eos_token_id: found 'th', accepted: the id of one token",
        ),
        (
            {"config": [1, 2]},
            r"config\.json: eos_token_id: found \[1, 2\], accepted: the id of one",
        ),
        ({"config": True}, r"config\.json: eos_token_id: found True"),
        (
            {"tokenizer_config": 5},
            r"tokenizer_config\.json: eos_token: found 5, accepted: one token",
        ),
        ({"tokenizer_config": {}}, r"eos_token: found \{\}, accepted: one token"),
        ({"tokenizer_config": "</s>"}, "found 260 tokens, accepted: a vocabulary with '</s>'"),
    ],
)
def test_an_end_that_is_no_token_is_refused(tmp_path, files, match):
    write_pair(tmp_path)
    write_end(tmp_path, **files)
    with pytest.raises(ValueError, match=match):
        load_bpe(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: found \[\], accepted: a JSON"):
        load_bpe(tmp_path)


def test_training(tmp_path, trained):
    """Merges shorten the text; the same texts give the same tokeniser; the file is complete."""
    assert trained.vocab_size == 280
    text = TEXTS[0]
    assert len(trained.encode(text)) < len(text) / 2
    again = train_bpe(iter(TEXTS), 280, tmp_path / "new" / "tokenizer.json")
    assert again.fingerprint == trained.fingerprint
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
    assert load_bpe(tmp_path / "new").encode(text).tolist() == trained.encode(text).tolist()
    assert train_bpe(TEXTS, 270, tmp_path / "small.json").fingerprint != trained.fingerprint
    with pytest.raises(ValueError, match="vocab_size: found 256, accepted: 257 or more"):
        train_bpe(TEXTS, 256, tmp_path / "x.json")


@pytest.mark.parametrize("bad", [-1, 280])
def test_decode_refuses_other_ids(trained, bad):
    with pytest.raises(ValueError, match=rf"ids\[1\]: found {bad}, accepted: .* 0\.\.279"):
        trained.decode(np.array([1, bad]))
    with pytest.raises(ValueError, match=r"ids\[0\]: found 257, accepted: .* 0\.\.256"):
        Bytes().decode(np.array([257]))


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
ADDED = {
    "id": 300,
    "content": "[X]",
    "single_word": False,
    "lstrip": True,
    "rstrip": False,
    "normalized": False,
    "special": False,
}


def sequence(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


CHANGES = "a pre-tokeniser that changes the text"
SPELLED = ADDED | {"id": 259, "content": END, "lstrip": False}
LOSSES = [
    ("a normaliser", {"normalizer": {"type": "Lowercase"}}),
    ("no byte-level decoder", {"decoder": None}),
    ("no byte-level pre-tokeniser", {"pre_tokenizer": SPLIT}),
    (CHANGES, {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}),
    (CHANGES, sequence(SPLIT | {"behavior": "Removed"}, BYTE_LEVEL)),
    (CHANGES, sequence({"type": "Whitespace"}, BYTE_LEVEL)),
    (CHANGES, sequence({"type": "CharDelimiterSplit", "delimiter": "a"}, BYTE_LEVEL)),
    (CHANGES, sequence(sequence({"type": "Whitespace"})["pre_tokenizer"], BYTE_LEVEL)),
    (CHANGES, sequence(BYTE_LEVEL, BYTE_LEVEL)),
    ("added tokens that swallow", {"added_tokens": [ADDED]}),
    (
        f"{END!r}, to which the text {END!r} is encoded".replace("|", r"\|"),
        {"added_tokens": [SPELLED]},
    ),
]


@pytest.mark.parametrize(("found", "change"), LOSSES)
def test_a_definition_that_loses_text_is_refused(tmp_path, found, change):
    write_pair(tmp_path)
    spec = json.loads(tokens._from_pair(tmp_path / "vocab.json", tmp_path / "merges.txt"))
    tokens.ByteLevelBpe(json.dumps(spec | sequence(SPLIT, BYTE_LEVEL)), "lossless")
    accepted = "an end that is no text's" if "encoded" in found else "a byte-level BPE without loss"
    with pytest.raises(ValueError, match=f"^here: found {found}.*, accepted: {accepted}$"):
        tokens.ByteLevelBpe(json.dumps(spec | change), "here")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"end_of_word_suffix": "</w>"}, "a mark of word ends or beginnings"),
        ({"vocab": {"a": 0, END: 1}, "merges": []}, "210 bytes of common characters without a"),
        ({"type": "WordLevel", "unk_token": "a"}, "a model other than BPE"),
        ({"continuing_subword_prefix": "##"}, "a mark of word ends or beginnings"),
        ({"merges": [["a", "b"]]}, r"the merge \['a', 'b'\], accepted: pairs whose union"),
        ({"merges": ["a b c"]}, "the merge 'a b c'"),
        ({"vocab": {"a": 2**24}}, "'a' with the id 16777216, accepted: integers 0..16777215"),
        ({"vocab": {"a": -1}}, "'a' with the id -1"),
        ({"vocab": {"a": "7"}}, "'a' with the id '7'"),
        ({"vocab": {"zz": 256}}, "tokens that share an id"),
    ],
)
def test_a_model_that_loses_text_is_refused(tmp_path, change, found):
    write_pair(tmp_path, merges=())
    spec = json.loads(tokens._from_pair(tmp_path / "vocab.json", tmp_path / "merges.txt"))
    if len(change.get("vocab", ())) == 1:
        change = {"vocab": spec["model"]["vocab"] | change["vocab"]}
    spec["model"] |= change
    with pytest.raises(ValueError, match=f"^here: found {found}"):
        tokens.ByteLevelBpe(json.dumps(spec), "here")


#: The bytes for which SmolLM2's vocabulary has no token.
UNKNOWN = bytes.fromhex("04 06 13 14 16 1d c0 c1 f1 f2 f5 f6 f7 f8 f9 fa fb fc fd fe ff")
NAMES = "U+0004, U+0006, U+0013 to U+0014, U+0016, U+001D, U+40000 to U+BFFFF"
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_small(folder, without=UNKNOWN):
    """As SmolLM2's files: no token for some bytes, single digits, special tokens that come first.

    Returns the vocabulary.
    """
    symbol = dict(zip([*_PRINTABLE, *_OTHERS], ALPHABET, strict=True))
    known = [symbol[byte] for byte in range(256) if byte not in without]
    vocab = {token: i for i, token in enumerate([*ENDS, *known, "th", "the", "Ġthe"])}
    special = {"lstrip": False, "special": True}
    spec = {
        "version": "1.0",
        "added_tokens": [ADDED | special | {"id": i, "content": end} for i, end in enumerate(ENDS)],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
        },
        "decoder": BYTE_LEVEL | {"add_prefix_space": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["t h", "th e", "Ġ the"]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    write_end(folder, tokenizer_config="<|im_end|>", generation_config=2, config=2)
    return vocab


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_small(folder)
    return load_bpe(folder)


def test_a_vocabulary_without_some_bytes(tmp_path):
    """By hand: digits are single, what spells a special token is text, the end is the files'."""
    vocab = write_small(tmp_path)
    tokenizer = load_bpe(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end, tokenizer.end_token) == (241, 2, "<|im_end|>")
    found = tokenizer.encode("the 12<|im_start|>")
    spelled = ["the", "Ġ", "1", "2", *"<|im_start|>"]
    assert found.tolist() == [vocab[token] for token in spelled]
    assert tokenizer.decode(np.append(found, tokenizer.end)) == "the 12<|im_start|>"
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    again = load_bpe(tmp_path / "run")
    assert (again.end, again.fingerprint) == (2, tokenizer.fingerprint)
    assert load_bpe(tmp_path, end=END).end == 0


@settings(deadline=None)
@given(
    text_of_any_kind | st.text(alphabet="a\x04\x05\x1d\x1e\U0003ffff\U00040000\U000bffff\U000c0000")
)
def test_what_a_vocabulary_cannot_write_is_never_lost_unseen(small, text):
    """A text comes back whole or is refused, exactly where one of its bytes has no token."""
    expected = [one for one in text if set(one.encode()) & set(UNKNOWN)]
    assert small.lost(text) == expected and Bytes().lost(text) == []
    dropped: Counter[str] = Counter()
    kept = tokens.kept(small, text, dropped)
    assert kept == "".join(one for one in text if one not in expected)
    assert dropped == Counter(expected)
    assert small.decode(small.encode(kept)) == kept
    if not expected:
        return
    place = min(map(text.index, expected))
    message = f"text: character {place}: found {byte_symbols.code(text[place])}, for which there "
    with pytest.raises(ValueError) as refused:
        small.encode(text)
    assert str(refused.value) == f"{message}is no token, accepted: any but {NAMES}"


def test_what_was_left_out_is_told():
    found = tokens.told(Counter("\x04\x06\x06"))
    assert found == "left out 3 characters without a token: U+0006 2 times, U+0004 1 times"


def test_a_vocabulary_has_to_write_all_common_characters(tmp_path):
    """Each byte alone: it may lack where no character but odd ones is made of it."""

    def is_odd(character):
        control = unicodedata.category(character) == "Cc" and character not in "\t\n\r"
        return control or unicodedata.category(character) == "Cn"

    planes = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    used = {byte for one in planes if not is_odd(one) for byte in one.encode()}
    symbol = dict(zip([*_PRINTABLE, *_OTHERS], ALPHABET, strict=True))
    for byte in range(256):
        needed = byte_symbols.missing(set(ALPHABET) - {symbol[byte]}).needed
        assert needed == ((byte,) if byte in used else ()), byte
    write_small(tmp_path, without=b"\x04\n\xe2")
    accepted = "accepted: a byte-level BPE without loss"
    with pytest.raises(ValueError, match=f"found 2 bytes of common .* without a token, {accepted}"):
        load_bpe(tmp_path)


def test_files_that_are_no_tokeniser(tmp_path):
    with pytest.raises(ValueError, match=r"accepted: tokenizer\.json, or a folder with it or with"):
        load_bpe(tmp_path)
    vocab = write_pair(tmp_path)
    with pytest.raises(ValueError, match=r"found 260 tokens, accepted: a vocabulary with '</s>'"):
        load_bpe(tmp_path, end="</s>")
    (tmp_path / "merges.txt").write_text("q z\n", encoding="utf-8")
    assert "qz" not in vocab
    with pytest.raises(ValueError, match=r"merges\.txt: found the merge .*, accepted: pairs whose"):
        load_bpe(tmp_path)
    write_pair(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": -1}')
    with pytest.raises(ValueError, match=r"found 'a' with the id -1, accepted: integers 0\.\."):
        load_bpe(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: found .*, accepted: a tokenizer\.json$"
    ):
        load_bpe(tmp_path)
