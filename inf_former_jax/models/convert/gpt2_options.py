"""GPT-2's config.json as a configuration, and back.

It has GPT-2's own options, by the names that `transformers` has for them, and beside them, under
`inf_former`, the fields of `ModelConfig` for which GPT-2 has no option.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from inf_former_jax.models import presets
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.convert.options import OURS, check_ours, made, our_fields, same
from inf_former_jax.require import require

#: Fields of `ModelConfig` that every GPT-2 shares.
_SHARED = {"norm", "norm_kind", "norm_epsilon", "final_norm", "position", "rope_theta"}
_SHARED |= {"attention_bias", "num_kv_heads", "scale_embedding"}

#: Sizes that both config.json and the tensors say.
_SIZES = {
    "n_layer": "num_layers",
    "n_embd": "d_model",
    "n_positions": "max_position",
    "n_inner": "d_inner",
    "vocab_size": "vocab_size",
}
_TOLD = {*_SIZES.values(), "num_heads", "head_dim", "activation", "tied"}
_TOLD |= {"dropout", "attention_dropout"}
_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)} - _SHARED - _TOLD

#: Other names that `transformers` has for options.
_ALIASES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}

#: The activations' names there and here; of two that mean the same the first one is written.
_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
}

#: Options that change what is computed, and the value that we compute.
_COMPUTED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def canonical(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a config.json by one name each, with GPT-2's defaults for those left out.

    Raises:
        ValueError: an option that we do not compute, or two names of one that disagree.
    """
    options = dict(options)
    require("model_type" in options, f"{where}: model_type", "nothing", "gpt2")
    for alias, name in _ALIASES.items():
        if alias in options:
            value = options.pop(alias)
            told = options.setdefault(name, value)
            require(same(value, told), f"{where}: {alias}", repr(value), f"{told} as {name} says")
    for name, accepted in _COMPUTED.items():
        value = options.get(name, accepted)
        require(same(value, accepted), f"{where}: {name}", repr(value), repr(accepted))
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        rate = options.setdefault(name, 0.1)
        fits = type(rate) in (int, float) and 0 <= rate < 1
        require(fits, f"{where}: {name}", repr(rate), "a number in [0, 1)")
    tied = options.setdefault("tie_word_embeddings", True)
    require(isinstance(tied, bool), f"{where}: tie_word_embeddings", repr(tied), "true or false")
    check_ours(options, where)
    options.setdefault("n_head", 12)
    return options


def configuration(
    told: Mapping[str, int],
    num_heads: Any,
    tied: bool,
    options: Mapping[str, Any],
    where: str,
    config: str,
) -> ModelConfig:
    """The configuration of tensors with the sizes `told` and of canonical options, or of none.

    Args:
        where, config: what to name in errors of the tensors, and of the options.

    Raises:
        ValueError: options that contradict the tensors, or that no model can have.
    """
    width = told["d_model"]
    for name, size in _SIZES.items():
        value = options.get(name, told[size])
        if name == "n_inner" and value is None:
            value = 4 * width
        found, accepted = f"{told[size]} in the tensors", f"{value!r} as config.json says"
        require(same(value, told[size]), f"{where}: {name}", found, accepted)
    fits = type(num_heads) is int and num_heads > 0 and width % num_heads == 0
    require(fits, f"{config}: num_heads", repr(num_heads), f"a divisor of the width {width}")
    activation, known = options.get("activation_function", "gelu_new"), " or ".join(_ACTIVATIONS)
    holds = isinstance(activation, str) and activation in _ACTIVATIONS
    require(holds, f"{config}: activation_function", repr(activation), known)
    changes: dict[str, Any] = {
        **told,
        "num_heads": num_heads,
        "head_dim": width // num_heads,
        "segment_len": told["max_position"],
        "activation": _ACTIVATIONS[activation],
        "tied": tied,
        "dropout": options.get("resid_pdrop", 0.1),
        "attention_dropout": options.get("attn_pdrop", 0.1),
        **our_fields(options, _FIELDS, config),
    }
    return made(presets.gpt2, changes, config)


def options_of(cfg: ModelConfig, **more: Any) -> dict[str, Any]:
    """The opposite of `configuration`.

    Args:
        more: options beside those of the configuration.

    Raises:
        ValueError: it is no GPT-2's.
    """
    plain = presets.gpt2()
    for name in sorted(_SHARED):
        value, accepted = getattr(cfg, name), f"{getattr(plain, name)} in a GPT-2"
        require(value == getattr(plain, name), name, value, accepted)
    width = f"num_heads · head_dim = {cfg.num_heads * cfg.head_dim} in a GPT-2"
    require(cfg.d_model == cfg.num_heads * cfg.head_dim, "d_model", cfg.d_model, width)
    names = [name for name, ours in _ACTIVATIONS.items() if ours == cfg.activation]
    require(bool(names), "activation", cfg.activation, "gelu or gelu_exact in a GPT-2")
    fields = dataclasses.asdict(cfg)
    return {
        **_COMPUTED,
        "architectures": ["GPT2LMHeadModel"],
        **{name: fields[ours] for name, ours in _SIZES.items()},
        "n_head": cfg.num_heads,
        "activation_function": names[0],
        "tie_word_embeddings": cfg.tied,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attn_pdrop": cfg.attention_dropout,
        **more,
        OURS: {name: value for name, value in fields.items() if name in _FIELDS},
    }
