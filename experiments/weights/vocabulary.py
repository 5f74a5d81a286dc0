"""The byte-level BPE of a SmolLM2 in GGUF, as the files of a Hugging Face tokeniser."""

import json
from typing import Any

from experiments.weights.gguf import Gguf
from inf_former_jax.data.byte_symbols import SYMBOLS
from inf_former_jax.require import require

#: Types of tokens in GGUF that are met here: ordinary ones, and those that no text spells.
_ORDINARY, _SPECIAL = 1, 3

_TOKENS = "tokenizer.ggml."


def definition(gguf: Gguf) -> dict[str, Any]:
    """tokenizer.json: digits one by one, then GPT-2's words, then the merges.

    Raises:
        ValueError: a tokeniser of another kind, or one that contradicts itself.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    for name, accepted in {"model": "gpt2", "pre": "smollm"}.items():
        found = gguf.value(_TOKENS + name, str)
        require(found == accepted, f"{gguf.where}: {_TOKENS}{name}", repr(found), repr(accepted))
    tokens, kinds = gguf.value(_TOKENS + "tokens", list), gguf.value(_TOKENS + "token_type", list)
    merges = [tuple(merge.split(" ")) for merge in gguf.value(_TOKENS + "merges", list)]
    vocab = {token: number for number, token in enumerate(tokens)}
    _check(gguf, tokens, kinds, merges)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    pairs = zip(tokens, kinds, strict=True)
    tokenizer.add_special_tokens([token for token, kind in pairs if kind == _SPECIAL])
    return json.loads(tokenizer.to_str())


def _check(gguf: Gguf, tokens: list, kinds: list, merges: list[tuple[str, ...]]) -> None:
    size, where = gguf.value("llama.vocab_size", int), f"{gguf.where}: {_TOKENS}"
    found = f"{len({*tokens})} distinct tokens with {len(kinds)} types"
    whole = len({*tokens}) == len(tokens) == len(kinds) == size
    require(whole, f"{where}tokens", found, f"{size} of each")
    odd = sorted({*kinds} - {_ORDINARY, _SPECIAL})
    require(not odd, f"{where}token_type", odd, [_ORDINARY, _SPECIAL])
    known = {*tokens}
    for merge in merges:
        pair = len(merge) == 2 and known.issuperset((*merge, "".join(merge)))
        require(pair, f"{where}merges", repr(" ".join(merge)), "two tokens that make a third")


def lost(tokens: list[str]) -> list[int]:
    """Bytes without a token: where they are met in a text, they vanish."""
    known = {*tokens}
    return [byte for byte, symbol in enumerate(SYMBOLS) if symbol not in known]


def settings(gguf: Gguf, options: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: what the ends are called, and how a conversation is written."""
    tokens = gguf.value(_TOKENS + "tokens", list)
    named = {f"{name}_token": tokens[options[f"{name}_token_id"]] for name in ("bos", "eos", "pad")}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": options["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **named,
        "chat_template": gguf.value("tokenizer.chat_template", str),
    }
