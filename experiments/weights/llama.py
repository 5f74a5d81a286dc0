"""A Llama in GGUF as Hugging Face's `LlamaForCausalLM` has it: names, order of channels, options.

Llama turns pairs of channels of a query and a key by angles that grow with the position. llama.cpp
pairs neighbours, `(2i, 2i+1)`; Hugging Face pairs the halves of a head, `(i, i + K/2)`. So the
converter of llama.cpp reorders the rows of both matrices, and here they are put back.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from experiments.weights.gguf import Gguf
from inf_former_jax.require import require, require_same

#: Part of a layer in GGUF → in LlamaForCausalLM.
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

#: Option of config.json → the value of a GGUF that says it, and its type.
_OPTIONS = {
    "hidden_size": ("llama.embedding_length", int),
    "intermediate_size": ("llama.feed_forward_length", int),
    "max_position_embeddings": ("llama.context_length", int),
    "num_attention_heads": ("llama.attention.head_count", int),
    "num_hidden_layers": ("llama.block_count", int),
    "num_key_value_heads": ("llama.attention.head_count_kv", int),
    "rms_norm_eps": ("llama.attention.layer_norm_rms_epsilon", float),
    "rope_theta": ("llama.rope.freq_base", float),
    "vocab_size": ("llama.vocab_size", int),
    "bos_token_id": ("tokenizer.ggml.bos_token_id", int),
    "eos_token_id": ("tokenizer.ggml.eos_token_id", int),
    "pad_token_id": ("tokenizer.ggml.padding_token_id", int),
}


def options(gguf: Gguf) -> dict[str, Any]:
    """config.json of the model, whose output matrix is its embeddings.

    Raises:
        ValueError: another architecture, an option that is missing, heads that do not divide, or
            tensors that are not those of the options.
    """
    architecture = gguf.value("general.architecture", str)
    require(architecture == "llama", f"{gguf.where}: architecture", architecture, "llama")
    found = {name: _number(gguf, *told) for name, told in _OPTIONS.items()}
    channels = gguf.value("llama.rope.dimension_count", int)
    _check(found, channels, gguf.where)
    shapes = {name: tensor.shape for name, tensor in gguf.tensors.items()}
    require_same(f"{gguf.where}: ", shapes, {ours: shape for ours, _, shape in _layout(found)})
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": channels,
        "tie_word_embeddings": True,
        **found,
    }


def _check(options: dict[str, Any], channels: int, where: str) -> None:
    """Refuse heads that do not divide, or are turned in part, and ends that are no token."""
    width, heads, keys = (
        options[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    divide = keys > 0 and heads % keys == 0 and channels % 2 == 0 and heads * channels == width
    found = f"{heads} heads of {channels} turned channels, {keys} of keys, width {width}"
    require(divide, f"{where}: heads", found, "heads that divide the width, turned as a whole")
    size = options["vocab_size"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        require(options[name] < size, f"{where}: {name}", options[name], f"an id of {size} tokens")


def _number(gguf: Gguf, name: str, kind: type) -> int | float:
    """A number; one of float32 as the shortest decimal that float32 rounds to it, 1e-05."""
    found = gguf.value(name, kind)
    return float(str(np.float32(found))) if kind is float else found


def _layout(options: dict[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name in GGUF, name in LlamaForCausalLM, shape) of every tensor."""
    width, inner = options["hidden_size"], options["intermediate_size"]
    keys = options["num_key_value_heads"] * (width // options["num_attention_heads"])
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_PARTS, (width, width))
    shapes |= dict.fromkeys(("attn_norm", "ffn_norm"), (width,))
    shapes |= dict.fromkeys(("attn_k", "attn_v"), (keys, width))
    shapes |= dict.fromkeys(("ffn_gate", "ffn_up"), (inner, width)) | {"ffn_down": (width, inner)}
    yield "token_embd.weight", "model.embed_tokens.weight", (options["vocab_size"], width)
    for j in range(options["num_hidden_layers"]):
        for ours, theirs in _PARTS.items():
            yield f"blk.{j}.{ours}.weight", f"model.layers.{j}.{theirs}.weight", shapes[ours]
    yield "output_norm.weight", "model.norm.weight", (width,)


def tensors(gguf: Gguf, options: dict[str, Any], dtype: np.dtype) -> dict[str, np.ndarray]:
    """The tensors by the names of `LlamaForCausalLM`, for the options that `options` gives."""
    heads = {
        "attn_q": options["num_attention_heads"],
        "attn_k": options["num_key_value_heads"],
    }
    found = {}
    for name, published, _ in _layout(options):
        tensor = gguf.tensor(name)
        part = name.split(".")[-2]
        tensor = halves(tensor, heads[part]) if part in heads else tensor
        found[published] = tensor.astype(dtype)
    return found


def halves(
    weight: Float32[np.ndarray, "rows width"], heads: int
) -> Float32[np.ndarray, "rows width"]:
    """Rows that turn as neighbours, `(2i, 2i+1)` of a head, as rows that turn as its halves.

    Of the K rows of a head, row 2i + s becomes row s K/2 + i.
    """
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, width)
