"""Parameters of the published PyTorch ∞-former, turned into ours (names as in its state dict).

Torch linear weights are [out, in] and its channel c is head·K + k; ours are [in, H, K]. Its unused
tensors (`qkv_net_`, `proj_query`) are ignored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.require import require

#: Tensors by their names.
State = Mapping[str, Shaped[np.ndarray, "..."]]

_DEFAULTS = {
    "ltm": False,
    "kl": False,
    "mask": False,
    "pre_lnorm": False,
    "same_length": False,
    "clamp_len": -1,
    "basis": 512,
    "nb_samples": 512,
    "tau": 0.75,
    "ridge": 1.0,
    "sigmas": (0.01, 0.05),
    "kl_sigma_0": 0.05,
    "kl_mu_0": None,
    "sigma_sq_min": 1e-6,
    "dropout": 0.0,
}
_REQUIRED = ("n_layer", "n_head", "d_model", "d_head", "d_inner", "tgt_len", "mem_len")


def load(state: State, **cfg: Any) -> tuple[ModelConfig, dict]:
    """The published model as (configuration, parameters of `Decoder`).

    Args:
        state: tensors by their published names (`layers.0.dec_attn.qkv_net.weight`, …); their dtype
            is kept.
        cfg: the published options (`n_layer`, `tgt_len`, `basis`, `sigmas`, …) as numbers or 0-d
            arrays; absent ones take the published defaults, and those that describe training
            only (`bs`, `kl_m`, `seg_lens`) are ignored.

    Raises:
        ValueError: an option is missing or describes a model that is not ours.
        KeyError: a tensor is missing.
    """
    values = _DEFAULTS | {name: np.asarray(value).tolist() for name, value in cfg.items()}
    missing = ", ".join(name for name in _REQUIRED if name not in values)
    require(not missing, "cfg", f"no {missing}", "the published options")
    model = _model_config(values, vocab=state["word_emb.emb_layers.0.weight"].shape[0])
    blocks = {f"block_{j}": _block(model, state, f"layers.{j}.") for j in range(model.num_layers)}
    params = {
        "embed": {"embedding": state["word_emb.emb_layers.0.weight"]},
        "bias_u": state["r_w_bias"],
        "bias_w": state["r_r_bias"],
        "logits": {"kernel": state["proj_output.weight"].T},
        **blocks,
    }
    return model, params


def _model_config(values: Mapping[str, Any], vocab: int) -> ModelConfig:
    augment, length = values.get("augment_len", values["tgt_len"]), values["tgt_len"]
    require(augment == length or not values["ltm"], "augment_len", augment, f"tgt_len {length}")
    return ModelConfig(
        vocab_size=vocab,
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        head_dim=values["d_head"],
        d_model=values["d_model"],
        d_inner=values["d_inner"],
        segment_len=values["tgt_len"],
        mem_len=values["mem_len"],
        long_term=_long_term_config(values) if values["ltm"] else None,
        norm="pre" if values["pre_lnorm"] else "post",
        dropout=values["dropout"],
        same_length=bool(values["same_length"]),
        clamp_len=max(values["clamp_len"], 0),
    )


def _long_term_config(values: Mapping[str, Any]) -> LongTermConfig:
    return LongTermConfig(
        num_basis=values["basis"],
        widths=tuple(values["sigmas"]),
        ridge=float(values["ridge"]),
        tau=values["tau"],
        num_samples=values["nb_samples"],
        min_var=values["sigma_sq_min"],
        prior_scale=values["kl_sigma_0"],
        prior_mean=values["kl_mu_0"],
        gate=bool(values["mask"]),
    )


def _block(model: ModelConfig, state: State, prefix: str) -> dict:
    attention = prefix + "dec_attn."
    query, key, value = np.split(state[attention + "qkv_net.weight"], 3)
    block = {
        "attention": {
            "query": _to_heads(model, query),
            "key": _to_heads(model, key),
            "value": _to_heads(model, value),
            "position": _to_heads(model, state[attention + "r_net.weight"]),
            "out": _from_heads(model, state[attention + "o_net.weight"]),
        },
        "norm_attention": _layer_norm(state, attention + "layer_norm."),
        "norm_feed_forward": _layer_norm(state, prefix + "pos_ff.layer_norm."),
        "inner": _dense(state, prefix + "pos_ff.CoreNet.0."),
        "outer": _dense(state, prefix + "pos_ff.CoreNet.3."),
    }
    if model.long_term is not None:
        block["long_term"] = long_term_params(
            state, attention + "long_term_attention.", model.num_heads
        )
    return block


def long_term_params(state: State, prefix: str = "", num_heads: int = 1) -> dict:
    """Parameters of `LongTermAttention` from the published module's tensors under `prefix`."""
    names = {
        name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)
    }
    heads = (num_heads, names["proj_key.weight"].shape[0] // num_heads)
    params = {
        "read": {
            "key": names["proj_key.weight"].T.reshape(-1, *heads),
            "value": names["proj_value.weight"].T.reshape(-1, *heads),
            "out": names["attn_out.weight"].T.reshape(*heads, -1),
            "mu": names["mu.weight"][0],
            "sigma": names["sigma.weight"][0],
        }
    }
    if "mask_net.weight" in names:  # torch [out, in, 3] → Flax [3, in, out]
        kernel = names["mask_net.weight"].transpose(2, 1, 0)
        params["gate"] = {"kernel": kernel, "bias": names["mask_net.bias"]}
    return params


def _to_heads(model: ModelConfig, weight: np.ndarray) -> np.ndarray:
    return weight.T.reshape(-1, model.num_heads, model.head_dim)


def _from_heads(model: ModelConfig, weight: np.ndarray) -> np.ndarray:
    return weight.T.reshape(model.num_heads, model.head_dim, -1)


def _dense(state: State, prefix: str) -> dict:
    return {"kernel": state[prefix + "weight"].T, "bias": state[prefix + "bias"]}


def _layer_norm(state: State, prefix: str) -> dict:
    return {"scale": state[prefix + "weight"], "bias": state[prefix + "bias"]}
