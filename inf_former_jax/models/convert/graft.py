"""A memory for a published model's parameters, and embeddings for further ids (SPEC §6)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import PRNGKeyArray

from inf_former_jax.memory import long_term
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.places import Place, whole
from inf_former_jax.models.layer_memory.compressed import Compression
from inf_former_jax.models.memory_read.layer import LayerProjections
from inf_former_jax.require import require


def graft(cfg: ModelConfig, params: Mapping[str, Any], key: PRNGKeyArray) -> dict:
    """Plain parameters with fresh ones of the memory that cfg has; the given are kept.

    The long-term memory's W_O is zero, so that outputs are unchanged at first; W_O learns at once,
    the other new parameters as soon as it is not zero. A compressed memory is attended to from its
    first vector on; so is a long-term memory without a W_O, whose cells are joined to local
    attention or which is read by the layer's own matrices.

    Args:
        cfg: a configuration with a memory, such as gpt2_infinity… or gpt2_compressive.

    Raises:
        ValueError: cfg has no memory to add, or params lack one of its layers.
    """
    some = cfg.long_term is not None or cfg.compressed is not None
    require(some, "cfg", "no memory", "a long_term or compressed one")
    make, grafted = jax.jit(memory_params, static_argnums=(0, 1)), dict(params)
    for j in range(cfg.num_layers):
        name = f"block_{j}"
        require(name in params, f"params/{name}", "nothing", f"one of {cfg.num_layers} layers")
        fresh = make(cfg, cfg.like_layer(j), jax.random.fold_in(key, j))
        grafted[name] = {**params[name], **fresh}
    return grafted


def grow(params: Mapping[str, Any], vocab_size: int, key: PRNGKeyArray) -> dict:
    """Parameters with embeddings for further ids: normal around the mean, σ .02 (GPT-2's own).

    So is an output matrix that is not the embeddings. The logits of the ids that were there stay
    what they were.

    Raises:
        ValueError: params know more ids already.
    """
    known = params["embed"]["embedding"]
    fewer = f"at least the {known.shape[0]} that there are"
    require(vocab_size >= known.shape[0], "vocab_size", vocab_size, fewer)

    def grown(rows, key):
        shape = (vocab_size - rows.shape[0], rows.shape[1])
        fresh = rows.mean(axis=0)[None] + 0.02 * jax.random.normal(key, shape, rows.dtype)
        return jnp.concatenate([rows, fresh])

    more = {**params, "embed": {"embedding": grown(known, key)}}
    if "logits" in params:
        head = grown(params["logits"]["kernel"].T, jax.random.fold_in(key, 1)).T
        more["logits"] = {"kernel": head}
    return more


def memory_params(cfg: ModelConfig, layer: int, key: PRNGKeyArray) -> dict[str, Any]:
    """Fresh memory parameters of a layer, whose long-term W_O, if there is one, is zero."""
    params = {}
    if cfg.long_term is not None and cfg.remembers(layer):
        q = np.zeros((1, cfg.num_heads, 1, cfg.head_dim), np.float32)
        memory = long_term.init(cfg.long_term, 1, cfg.d_model)
        module, around = LongTermAttention(cfg.long_term), _shapes_of_a_layer(cfg)
        variables: Any = module.init(key, q, memory, layer=around, method="attend")
        created = dict(variables.get("params", {}))
        if "out" in created.get("read", {}):
            created["read"] = {**created["read"], "out": jnp.zeros_like(created["read"]["out"])}
        if created:
            params["long_term"] = created
    if cfg.compressed is not None:
        x = np.zeros((1, cfg.compressed.rate, cfg.d_model), np.float32)
        variables = Compression(cfg.compressed).init(key, x)
        if "params" in variables:  # pooling has none
            params["compression"] = dict(variables["params"])
    return params


def _shapes_of_a_layer(cfg: ModelConfig) -> LayerProjections:
    """In the place of a layer's own attention: zeros of the shapes that it gives."""

    def keys_values(x):
        found = jnp.zeros((cfg.num_heads, *x.shape[:2], cfg.head_dim))
        return found, found

    return LayerProjections(keys_values, lambda z: jnp.zeros((*z.shape[1:3], cfg.d_model)))


def memory_places(cfg: ModelConfig, layer: int) -> dict[str, Place]:
    """The places of a layer's memory, for which published models have no names: by our own."""
    shapes = jax.eval_shape(lambda: memory_params(cfg, layer, jax.random.key(0)))
    leaves: dict[tuple[str, ...], Any] = dict(flatten_dict(shapes))
    return {
        ".".join(path): whole(leaf.shape, f"block_{layer}", *path) for path, leaf in leaves.items()
    }
