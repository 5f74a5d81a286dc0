"""Which tensor of a Llama file is which parameter of `Decoder` (names as `transformers` has them).

Weights are PyTorch's [out, in]; channel h·K + k of an axis is channel k of head h. Rotary positions
turn channels k and k + K/2 together there as here, so that no channel changes its place. A layer's
memory goes by our own names: `model.layers.0.long_term.read.out`.
"""

import re
from typing import Any

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.graft import memory_places
from inf_former_jax.models.convert.places import HEAD, Place, Tensors, turned, whole

#: The embeddings, and what tells the sizes of a model.
EMBEDDING = "model.embed_tokens.weight"
TOLD_BY = {
    EMBEDDING: ("vocab_size", "d_model"),
    "model.layers.0.mlp.up_proj.weight": ("d_inner", "d_model"),
}
LAYER = r"model\.layers\.(\d+)\."

# A constant that `transformers` once stored.
_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def own(tensors: Tensors) -> dict[str, Any]:
    """The tensors by their names in a whole model, without those that say nothing new."""
    full = {
        name if name.startswith("model.") or name == HEAD else f"model.{name}": tensor
        for name, tensor in tensors.items()
    }
    return {name: tensor for name, tensor in full.items() if not _IGNORED.fullmatch(name)}


def layout(cfg: ModelConfig) -> dict[str, Place]:
    """The place of every tensor of a Llama with the memory that the configuration says."""
    dim, inner = cfg.d_model, cfg.d_inner
    heads, shared = (cfg.num_heads, cfg.head_dim), (cfg.kv_heads, cfg.head_dim)
    places = {
        EMBEDDING: whole((cfg.vocab_size, dim), "embed", "embedding"),
        "model.norm.weight": whole((dim,), "norm_final", "scale"),
    }
    if not cfg.tied:
        places[HEAD] = turned((dim, cfg.vocab_size), 1, "logits", "kernel")
    for j in range(cfg.num_layers):
        block, attention = f"block_{j}", (f"block_{j}", "attention")
        of_block = {
            "input_layernorm.weight": whole((dim,), block, "norm_attention", "scale"),
            "self_attn.q_proj.weight": turned((dim, *heads), 1, *attention, "query"),
            "self_attn.k_proj.weight": turned((dim, *shared), 1, *attention, "key"),
            "self_attn.v_proj.weight": turned((dim, *shared), 1, *attention, "value"),
            "self_attn.o_proj.weight": turned((*heads, dim), 2, *attention, "out"),
            "post_attention_layernorm.weight": whole((dim,), block, "norm_feed_forward", "scale"),
            "mlp.gate_proj.weight": turned((dim, inner), 1, block, "inner_gate", "kernel"),
            "mlp.up_proj.weight": turned((dim, inner), 1, block, "inner", "kernel"),
            "mlp.down_proj.weight": turned((inner, dim), 1, block, "outer", "kernel"),
            **memory_places(cfg, j),
        }
        places |= {f"model.layers.{j}.{name}": place for name, place in of_block.items()}
    return places
