"""Llama's config.json as a configuration, and back.

It has Llama's own options, by the names that `transformers` has for them, and beside them, under
`inf_former`, the fields of `ModelConfig` for which Llama has no option. A Mistral without a sliding
window is a Llama. A Qwen2 is none: its queries, keys and values have biases, its outputs have not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.options import OURS, check_ours, made, our_fields, same
from inf_former_jax.require import require

#: Fields of `ModelConfig` that every Llama shares.
_SHARED: dict[str, Any] = {
    "norm": "pre",
    "norm_kind": "rms",
    "final_norm": True,
    "position": "rotary",
    "activation": "swiglu",
    "attention_bias": False,
    "scale_embedding": False,
}

#: Sizes that both config.json and the tensors say.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_inner",
    "num_hidden_layers": "num_layers",
}

#: Options that only config.json says, with Llama's defaults. None depends on other options.
_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
}
_TOLD = {*_SIZES.values(), "num_heads", "num_kv_heads", "head_dim", "max_position"}
_TOLD |= {"norm_epsilon", "rope_theta", "tied", "attention_dropout"}
_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)} - _SHARED.keys() - _TOLD

#: Options of a Llama that change what is computed, and the value that we compute.
_COMPUTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}

#: The same of models that are built like it.
_OF_OTHERS = {
    "sliding_window": None,
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
}

#: Options without which a Mistral is another model than a Llama without them.
_OF_MISTRAL = ("sliding_window", "num_key_value_heads", "max_position_embeddings")

_COUNTS = ("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings")
_NUMBERS = ("rms_norm_eps", "rope_theta")


def canonical(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a config.json by one name each, with Llama's defaults for those left out.

    Raises:
        ValueError: an option that we do not compute, or that no Llama can have.
    """
    options, kind = dict(options), options.get("model_type", "nothing")
    require(kind in ("llama", "mistral"), f"{where}: model_type", repr(kind), "llama or mistral")
    if kind == "mistral":
        for name in _OF_MISTRAL:
            require(name in options, f"{where}: {name}", "nothing", "a Mistral's, which it says")
    _unnest_rope(options, where)
    for name, accepted in (_COMPUTED | _OF_OTHERS).items():
        value = options.get(name, accepted)
        require(same(value, accepted), f"{where}: {name}", repr(value), _json(accepted))
    options = _DEFAULTS | options
    heads = options["num_attention_heads"]
    if options["num_key_value_heads"] is None:
        options["num_key_value_heads"] = heads
    if options["head_dim"] is None:
        _check_count(heads, f"{where}: num_attention_heads")
        width, accepted = options.get("hidden_size"), f"a multiple of num_attention_heads {heads}"
        fits = type(width) is int and width > 0 and width % heads == 0
        require(fits, f"{where}: hidden_size", repr(width), accepted)
        options["head_dim"] = width // heads
    for name in _COUNTS:
        _check_count(options[name], f"{where}: {name}")
    shared, accepted = options["num_key_value_heads"], f"a divisor of num_attention_heads {heads}"
    require(heads % shared == 0, f"{where}: num_key_value_heads", shared, accepted)
    for name in _NUMBERS:
        value = options[name]
        fits = type(value) in (int, float) and 0 < value < float("inf")
        require(fits, f"{where}: {name}", repr(value), "a number > 0")
    rate = options["attention_dropout"]
    fits = type(rate) in (int, float) and 0 <= rate < 1
    require(fits, f"{where}: attention_dropout", repr(rate), "a number in [0, 1)")
    tied = options["tie_word_embeddings"]
    require(isinstance(tied, bool), f"{where}: tie_word_embeddings", repr(tied), "true or false")
    check_ours(options, where)
    return options


def _unnest_rope(options: dict[str, Any], where: str) -> None:
    """Put what newer files have in rope_parameters where older ones have it.

    Either object may say, in words, that nothing is scaled.
    """
    for nest in ("rope_parameters", "rope_scaling"):
        rope = options.get(nest)
        if not isinstance(rope, dict):
            continue
        rope, place = dict(rope), f"{where}: {nest}"
        for name in ("rope_type", "type"):
            kind = rope.pop(name, "default")
            require(kind == "default", f"{place}: {name}", repr(kind), "default: no scaling")
        for name, value in rope.items():
            known = name in ("rope_theta", "partial_rotary_factor")
            require(known, f"{place}: {name}", repr(value), "nothing: no scaling")
            told = options.setdefault(name, value)
            require(value == told, f"{place}: {name}", repr(value), f"{told!r} as beside it")
        options[nest] = None


def _check_count(value: Any, place: str) -> None:
    require(type(value) is int and value > 0, place, repr(value), "a whole number > 0")


def _json(value: Any) -> str:
    return {None: "null", False: "false"}.get(value, str(value))


def configuration(
    told: Mapping[str, int], options: Mapping[str, Any], where: str, config: str
) -> ModelConfig:
    """The configuration of tensors with the sizes `told` and of canonical options.

    Args:
        where, config: what to name in errors of the tensors, and of the options.

    Raises:
        ValueError: options that contradict the tensors, or that no model can have.
    """
    for name, size in _SIZES.items():
        value = options.get(name, told[size])
        found, accepted = f"{told[size]} in the tensors", f"{value!r} as config.json says"
        require(same(value, told[size]), f"{where}: {name}", found, accepted)
    heads, shared = options["num_attention_heads"], options["num_key_value_heads"]
    fields = {
        "mem_len": 0,
        "segment_len": options["max_position_embeddings"],
        "dropout": 0.0,
        "inner_dropout": False,
        **_SHARED,
        **told,
        "num_heads": heads,
        "num_kv_heads": 0 if shared == heads else shared,
        "head_dim": options["head_dim"],
        "max_position": options["max_position_embeddings"],
        "norm_epsilon": float(options["rms_norm_eps"]),
        "rope_theta": float(options["rope_theta"]),
        "tied": options["tie_word_embeddings"],
        "attention_dropout": float(options["attention_dropout"]),
        **our_fields(options, _FIELDS, config),
    }
    return made(ModelConfig, fields, config)


def options_of(cfg: ModelConfig, **more: Any) -> dict[str, Any]:
    """The opposite of `configuration`.

    Args:
        more: options beside those of the configuration.

    Raises:
        ValueError: it is no Llama's.
    """
    for name, value in _SHARED.items():
        require(getattr(cfg, name) == value, name, getattr(cfg, name), f"{value} in a Llama")
    fields = dataclasses.asdict(cfg)
    return {
        **_COMPUTED,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{name: fields[ours] for name, ours in _SIZES.items()},
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "max_position_embeddings": cfg.max_position,
        "rms_norm_eps": cfg.norm_epsilon,
        "rope_theta": cfg.rope_theta,
        "tie_word_embeddings": cfg.tied,
        "attention_dropout": cfg.attention_dropout,
        **more,
        OURS: {name: value for name, value in fields.items() if name in _FIELDS},
    }
