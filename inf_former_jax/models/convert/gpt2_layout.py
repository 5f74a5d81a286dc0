"""Which tensor of a GPT-2 file is which parameter of `Decoder` (names as `transformers` has them).

The weights of its Conv1D are [in, out], as ours are. Heads are split from the last axis, channel
h·K + k, and c_attn holds the projections of queries, keys and values side by side. A layer's
memory, for which GPT-2 has no names, goes by our own: `h.0.long_term.read.out`.
"""

import re
from typing import Any

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.graft import memory_places
from inf_former_jax.models.convert.places import HEAD, Place, Tensors, turned, whole

#: The embeddings, and what tells the sizes of a model.
EMBEDDING = "wte.weight"
TOLD_BY = {
    EMBEDDING: ("vocab_size", "d_model"),
    "wpe.weight": ("max_position", "d_model"),
    "h.0.mlp.c_fc.weight": ("d_model", "d_inner"),
}
LAYER = r"h\.(\d+)\."

# Constants that `transformers` once stored.
_IGNORED = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def own(tensors: Tensors) -> dict[str, Any]:
    """The tensors without the prefix `transformer.` and without those that say nothing new."""
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in bare.items() if not _IGNORED.fullmatch(name)}


def layout(cfg: ModelConfig) -> dict[str, Place]:
    """The place of every tensor of a GPT-2 with the memory that the configuration says."""
    dim, inner, heads = cfg.d_model, cfg.d_inner, (cfg.num_heads, cfg.head_dim)
    places = {
        EMBEDDING: whole((cfg.vocab_size, dim), "embed", "embedding"),
        "wpe.weight": whole((cfg.max_position, dim), "positions"),
        "ln_f.weight": whole((dim,), "norm_final", "scale"),
        "ln_f.bias": whole((dim,), "norm_final", "bias"),
    }
    if not cfg.tied:
        places[HEAD] = turned((dim, cfg.vocab_size), 1, "logits", "kernel")
    for j in range(cfg.num_layers):
        block, attention = f"block_{j}", (f"block_{j}", "attention")
        kernels = tuple((*attention, name) for name in ("query", "key", "value"))
        biases = tuple((*attention, name) for name in ("query_bias", "key_bias", "value_bias"))
        of_block = {
            "ln_1.weight": whole((dim,), block, "norm_attention", "scale"),
            "ln_1.bias": whole((dim,), block, "norm_attention", "bias"),
            "attn.c_attn.weight": Place((dim, 3 * dim), kernels, (dim, *heads)),
            "attn.c_attn.bias": Place((3 * dim,), biases, heads),
            "attn.c_proj.weight": Place((dim, dim), ((*attention, "out"),), (*heads, dim)),
            "attn.c_proj.bias": whole((dim,), *attention, "out_bias"),
            "ln_2.weight": whole((dim,), block, "norm_feed_forward", "scale"),
            "ln_2.bias": whole((dim,), block, "norm_feed_forward", "bias"),
            "mlp.c_fc.weight": whole((dim, inner), block, "inner", "kernel"),
            "mlp.c_fc.bias": whole((inner,), block, "inner", "bias"),
            "mlp.c_proj.weight": whole((inner, dim), block, "outer", "kernel"),
            "mlp.c_proj.bias": whole((dim,), block, "outer", "bias"),
        }
        of_block |= memory_places(cfg, j)
        places |= {f"h.{j}.{name}": place for name, place in of_block.items()}
    return places
