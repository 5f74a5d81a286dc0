"""Which tensor of a GPT-2 file is which parameter of `Decoder` (names as `transformers` has them).

The weights of its Conv1D are [in, out], as ours are. Heads are split from the last axis, channel
h·K + k, and c_attn holds the projections of queries, keys and values side by side. A layer's
memory, for which GPT-2 has no names, goes by our own: `h.0.long_term.read.out`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray, Shaped

from inf_former_jax.memory import long_term
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.layer_memory.compressed import Compression
from inf_former_jax.models.memory_read.layer import LayerProjections
from inf_former_jax.require import require

Tensors = Mapping[str, Shaped[np.ndarray, "..."]]

# Constants that `transformers` once stored.
_IGNORED = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


class Place(NamedTuple):
    """Where the parts of one tensor belong: equal parts of its last axis, one for each path."""

    shape: tuple[int, ...]  # of the tensor
    paths: tuple[tuple[str, ...], ...]
    leaf: tuple[int, ...]  # shape of each parameter
    transposed: bool = False  # the only parameter is the tensor's transpose


def own(tensors: Tensors) -> dict[str, Any]:
    """The tensors without the prefix `transformer.` and without those that say nothing new."""
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in bare.items() if not _IGNORED.fullmatch(name)}


def is_tied(tensors: Tensors) -> bool:
    """Whether the output matrix is the embedding's: it is not there, or the same numbers."""
    head = tensors.get("lm_head.weight")
    return head is None or np.array_equal(head, tensors["wte.weight"])


def layout(cfg: ModelConfig) -> dict[str, Place]:
    """The place of every tensor of a GPT-2 with the memory that the configuration says."""
    dim, inner, heads = cfg.d_model, cfg.d_inner, (cfg.num_heads, cfg.head_dim)
    shapes = jax.eval_shape(lambda: memory_params(cfg, jax.random.key(0)))
    memory: dict[tuple[str, ...], Any] = dict(flatten_dict(shapes))
    places = {
        "wte.weight": _whole((cfg.vocab_size, dim), "embed", "embedding"),
        "wpe.weight": _whole((cfg.max_position, dim), "positions"),
        "ln_f.weight": _whole((dim,), "norm_final", "scale"),
        "ln_f.bias": _whole((dim,), "norm_final", "bias"),
    }
    if not cfg.tied:
        shape = (cfg.vocab_size, dim)
        places["lm_head.weight"] = Place(shape, (("logits", "kernel"),), shape[::-1], True)
    for j in range(cfg.num_layers):
        block, attention = f"block_{j}", (f"block_{j}", "attention")
        kernels = tuple((*attention, name) for name in ("query", "key", "value"))
        biases = tuple((*attention, name) for name in ("query_bias", "key_bias", "value_bias"))
        of_block = {
            "ln_1.weight": _whole((dim,), block, "norm_attention", "scale"),
            "ln_1.bias": _whole((dim,), block, "norm_attention", "bias"),
            "attn.c_attn.weight": Place((dim, 3 * dim), kernels, (dim, *heads)),
            "attn.c_attn.bias": Place((3 * dim,), biases, heads),
            "attn.c_proj.weight": Place((dim, dim), ((*attention, "out"),), (*heads, dim)),
            "attn.c_proj.bias": _whole((dim,), *attention, "out_bias"),
            "ln_2.weight": _whole((dim,), block, "norm_feed_forward", "scale"),
            "ln_2.bias": _whole((dim,), block, "norm_feed_forward", "bias"),
            "mlp.c_fc.weight": _whole((dim, inner), block, "inner", "kernel"),
            "mlp.c_fc.bias": _whole((inner,), block, "inner", "bias"),
            "mlp.c_proj.weight": _whole((inner, dim), block, "outer", "kernel"),
            "mlp.c_proj.bias": _whole((dim,), block, "outer", "bias"),
        }
        of_block |= {
            ".".join(path): _whole(leaf.shape, block, *path) for path, leaf in memory.items()
        }
        places |= {f"h.{j}.{name}": place for name, place in of_block.items()}
    return places


def _whole(shape: tuple[int, ...], *path: str) -> Place:
    return Place(shape, (path,), shape)


def unpack(cfg: ModelConfig, tensors: Tensors, where: str) -> dict:
    """Parameters of `Decoder` from tensors by their names, which `own` has stripped.

    Half-precision tensors become float32, others keep their dtype. All numbers must be finite in
    the dtype that JAX computes in, which is float32 for float64 unless x64 is on.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or kind, or has a number that is
            not finite, named after `where`.
    """
    places, params = layout(cfg), {}
    for name in tensors:
        require(name in places, f"{where}: {name}", "such a tensor", "those of this GPT-2 only")
    for name, (shape, paths, leaf, transposed) in places.items():
        require(name in tensors, f"{where}: {name}", "no such tensor", f"one of shape {shape}")
        tensor = np.asarray(tensors[name])
        found = f"shape {tensor.shape}"
        require(tensor.shape == shape, f"{where}: {name}", found, f"shape {shape}")
        floating = jnp.issubdtype(tensor.dtype, np.floating)
        require(floating, f"{where}: {name}", tensor.dtype, "floating-point numbers")
        tensor = tensor.astype(np.float32) if tensor.dtype.itemsize < 4 else tensor
        kind = jax.dtypes.canonicalize_dtype(tensor.dtype)
        with np.errstate(over="ignore"):
            wrong = tensor[~np.isfinite(tensor.astype(kind, copy=False))]
        if wrong.size:
            found, accepted = f"{wrong.size} times {wrong[0]}", f"finite numbers of {kind}"
            require(False, f"{where}: {name}", found, accepted)
        tensor = tensor.T if transposed else tensor
        for path, part in zip(paths, np.split(tensor, len(paths), axis=-1), strict=True):
            params[path] = part.reshape(leaf)
    return unflatten_dict(params)


def pack(cfg: ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `unpack`: contiguous host arrays by their names.

    Raises:
        ValueError: a parameter is missing, left over, or of another shape.
    """
    tensors: dict[str, Any] = {}
    leaves: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    for name, (shape, paths, leaf, transposed) in layout(cfg).items():
        for path in paths:
            found = np.shape(leaves[path]) if path in leaves else "nothing"
            require(found == leaf, f"params/{'/'.join(path)}", found, leaf)
        sides = (*shape[:-1], shape[-1] // len(paths))
        parts = [np.asarray(leaves.pop(path)) for path in paths]
        parts = [part.T if transposed else part.reshape(sides) for part in parts]
        tensors[name] = np.ascontiguousarray(np.concatenate(parts, axis=-1))
    accepted = "the parameters of this configuration only"
    require(not leaves, "params", "/".join(next(iter(leaves), ())), accepted)
    return tensors


def memory_params(cfg: ModelConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Fresh memory parameters of one layer, whose long-term W_O is zero: nothing is read at first.

    The gradient reaches W_O at once and, as soon as W_O is not zero, everything else through it. A
    memory whose cells are joined to local attention, or that is read by the layer's own matrices,
    has no W_O: it is read from its first write on.
    """
    params = {}
    if cfg.long_term is not None:
        q = np.zeros((1, cfg.num_heads, 1, cfg.head_dim), np.float32)
        memory = long_term.init(cfg.long_term, 1, cfg.d_model)
        module, layer = LongTermAttention(cfg.long_term), _shapes_of_a_layer(cfg)
        variables: Any = module.init(key, q, memory, layer=layer, method="attend")
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


def sizes(tensors: Tensors, where: str) -> dict[str, int]:
    """What shapes tell of the architecture, by the names of `ModelConfig`.

    Raises:
        ValueError: a tensor that tells it is missing or has another number of axes.
    """
    told = {}
    for name, fields in {
        "wte.weight": ("vocab_size", "d_model"),
        "wpe.weight": ("max_position", "d_model"),
        "h.0.mlp.c_fc.weight": ("d_model", "d_inner"),
    }.items():
        require(name in tensors, f"{where}: {name}", "no such tensor", "a GPT-2's, of 2 axes")
        shape = np.shape(tensors[name])
        fits = len(shape) == 2 and math.prod(shape) > 0
        require(fits, f"{where}: {name}", shape, "a GPT-2's, of 2 axes")
        told |= dict(zip(fields, shape, strict=True))
    layers = {int(match[1]) for name in tensors if (match := re.match(r"h\.(\d+)\.", name))}
    return told | {"num_layers": max(layers) + 1}
