"""The tokeniser: what it splits, what it loses, what it refuses."""

import json

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies

from experiments.weights import gguf, llama, vocabulary
from tests.experiments.weights import synthetic


def parsed(**values):
    named = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    return gguf.parse(synthetic.gguf(synthetic.VALUES | named, {}), "a file")


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.Tokenizer.from_str(json.dumps(vocabulary.definition(parsed())))


def test_digits_are_split_and_words_merged(tokenizer):
    """`12` is a token that no text can spell, because digits come one by one before merges."""
    assert tokenizer.encode("12 the\nthe").tokens == ["1", "2", "Ġthe", "Ċ", "the"]
    assert tokenizer.encode("<|im_end|>").ids == [2] and tokenizer.token_to_id("12") is not None
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(synthetic.TOKENS)}


@hypothesis.given(strategies.text("abthe 12\n.~!"))
def test_texts_of_known_bytes_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_lost_bytes_vanish(tokenizer):
    lost = vocabulary.lost(synthetic.TOKENS)
    assert lost == sorted({*range(256)} - {ord(" "), ord("\n"), *range(33, 127)})
    assert tokenizer.decode(tokenizer.encode("a\x04b\tc").ids) == "abc"


def test_each_byte_has_the_symbol_of_the_library():
    """Of the bytes of ASCII one by one, of all as a set."""
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):
        ((symbol, _),) = level.pre_tokenize_str(chr(byte))
        assert vocabulary.lost([symbol]) == [b for b in range(256) if b != byte]
    ((symbols, _),) = level.pre_tokenize_str("é€")
    kept = [byte for byte in range(256) if byte not in vocabulary.lost([*symbols])]
    assert kept == sorted("é€".encode())
    assert not vocabulary.lost(level.alphabet())


def test_settings_name_the_ends():
    file = gguf.parse(synthetic.gguf(), "a file")
    settings = vocabulary.settings(file, llama.options(file))
    assert settings["bos_token"] == "<|im_start|>"
    assert settings["eos_token"] == settings["pad_token"] == "<|im_end|>"
    assert settings["chat_template"] == "{{ messages }}" and settings["model_max_length"] == 64


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model": "llama"}, "model: found 'llama', accepted: 'gpt2'"),
        ({"pre": "qwen2"}, "pre: found 'qwen2', accepted: 'smollm'"),
        ({"tokens": ["a", "a"]}, "tokens: found 1 distinct tokens with 103 types, accepted: 103"),
        ({"token_type": [1] * 9}, "tokens: found 103 distinct tokens with 9 types, accepted: 103"),
        ({"token_type": [6] * 103}, r"token_type: found \[6\], accepted: \[1, 3\]"),
        ({"merges": ["a b"]}, "merges: found 'a b', accepted: two tokens that make a third"),
        ({"merges": ["the"]}, "merges: found 'the', accepted: two tokens that make a third"),
    ],
)
def test_other_tokenisers_are_refused(values, message):
    assert len(synthetic.TOKENS) == 103
    with pytest.raises(ValueError, match=f"^a file: tokenizer.ggml.{message}"):
        vocabulary.definition(parsed(**values))
