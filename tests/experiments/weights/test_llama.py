"""Llama's tensors: the order of turned channels by an identity, names and options by hand."""

import numpy as np
import pytest

from experiments.weights import gguf, llama
from tests.experiments.weights import synthetic
from tests.experiments.weights.synthetic import CHANNELS, HEADS, KEY_HEADS, LAYERS, WIDTH


def angles(position):
    """Of pair i of a head: position / 100000^(2i/K)."""
    return position * 1e5 ** (-np.arange(0, CHANNELS, 2) / CHANNELS)


def turned_neighbours(x, position):
    """Channels (2i, 2i+1) as llama.cpp turns them."""
    cos, sin, out = np.cos(angles(position)), np.sin(angles(position)), np.empty_like(x)
    out[0::2], out[1::2] = x[0::2] * cos - x[1::2] * sin, x[0::2] * sin + x[1::2] * cos
    return out


def turned_halves(x, position):
    """Channels (i, i + K/2): x cos + rotate_half(x) sin, as transformers turns them."""
    cos, sin = (np.tile(f(angles(position)), 2) for f in (np.cos, np.sin))
    half = CHANNELS // 2
    return x * cos + np.concatenate([-x[half:], x[:half]]) * sin


def test_scores_are_the_same_in_either_order():
    """q·k of every query head, its key head and two positions; and not without the reordering."""
    rng = np.random.default_rng(0)
    query, key = (
        rng.normal(size=(HEADS * CHANNELS, WIDTH)),
        rng.normal(size=(KEY_HEADS * CHANNELS, WIDTH)),
    )
    x, y = rng.normal(size=(2, WIDTH))

    def scores(query, key, turned):
        q, k = (query @ x).reshape(HEADS, -1), (key @ y).reshape(KEY_HEADS, -1)
        pairs = ((h, h * KEY_HEADS // HEADS) for h in range(HEADS))
        return np.array([turned(q[h], 7) @ turned(k[g], 3) for h, g in pairs])

    expected = scores(query, key, turned_neighbours)
    reordered = llama.halves(query, HEADS), llama.halves(key, KEY_HEADS)
    np.testing.assert_allclose(scores(*reordered, turned_halves), expected, rtol=1e-12)
    assert np.abs(scores(query, key, turned_halves) - expected).min() > 1e-3


def test_rows_by_hand():
    rows = np.arange(12.0)[:, None]
    expected = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert llama.halves(rows, 2)[:, 0].tolist() == expected


def parsed(values=synthetic.VALUES, **options):
    return gguf.parse(synthetic.gguf(values, **options), "a file")


def test_options_are_those_of_the_file():
    assert llama.options(parsed()) == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e5,
        "vocab_size": len(synthetic.TOKENS),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def test_every_tensor_has_its_published_name():
    file = parsed()
    found = llama.tensors(file, llama.options(file), np.dtype(np.float16))
    assert {tensor.dtype for tensor in found.values()} == {np.dtype(np.float16)}
    given = {name: numbers for name, (_, _, _, numbers) in synthetic.tensors().items()}
    expected = {
        "model.embed_tokens.weight": given["token_embd.weight"],
        "model.norm.weight": given["output_norm.weight"],
    }
    for j in range(LAYERS):
        for ours, theirs in {
            "attn_norm": "input_layernorm",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }.items():
            expected[f"model.layers.{j}.{theirs}.weight"] = given[f"blk.{j}.{ours}.weight"]
        for one, heads in {"q": HEADS, "k": KEY_HEADS}.items():
            rows = given[f"blk.{j}.attn_{one}.weight"].reshape(heads, CHANNELS, WIDTH)
            rows = np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1).reshape(-1, WIDTH)
            expected[f"model.layers.{j}.self_attn.{one}_proj.weight"] = rows
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=1e-3, err_msg=name)


def without(name):
    return {key: one for key, one in synthetic.tensors().items() if key != name}


@pytest.mark.parametrize(
    "values, given, message",
    [
        ({"general.architecture": "qwen2"}, None, "architecture: found qwen2, accepted: llama"),
        ({"llama.rope.freq_base": "x"}, None, "llama.rope.freq_base: found a str, accepted: a f"),
        ({"llama.attention.head_count": 3}, None, "heads: found 3 heads of 8 turned channels"),
        ({"llama.attention.head_count_kv": 0}, None, "heads: found 4 heads of 8"),
        ({"llama.rope.dimension_count": 4}, None, "heads: found 4 heads of 4"),
        ({"tokenizer.ggml.eos_token_id": 999}, None, "eos_token_id: found 999, accepted: an id of"),
        ({}, without("blk.1.attn_q.weight"), "blk.1.attn_q.weight: found nothing, accepted: .32"),
        ({"llama.block_count": 1}, None, r"blk.1.attn_k.weight: found .16, 32., acce"),
        ({"llama.feed_forward_length": 32}, None, r"ffn_down.weight: found .32, 64., acc"),
    ],
)  # fmt: skip
def test_what_is_no_such_llama_is_refused(values, given, message):
    with pytest.raises(ValueError, match=f"^a file: .*{message}") as error:
        llama.options(parsed(synthetic.VALUES | values, given=given))
    assert "\n" not in str(error.value)
