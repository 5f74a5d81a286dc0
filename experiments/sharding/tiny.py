"""Presets of a few numbers: the same operations as theirs, on the smallest shapes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.catalogue import EXPERIMENTS
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import ModelConfig

#: Of every model. Its heads are split by 2, 4 and 8 devices, its shared heads by 2 and 4.
HEADS, SHARED, LENGTH = 8, 4, 8
_SIZES: Mapping[str, Any] = {"num_layers": 1, "long_term_layers": (), "num_heads": HEADS}
_SIZES |= {"head_dim": 4, "d_model": 16, "d_inner": 16, "vocab_size": 24, "segment_len": LENGTH}
_SIZES |= {"max_position": 32}


def tiny(model: ModelConfig) -> ModelConfig:
    """The model with one layer, which has the memory if there is one, and tiny sizes."""
    memory, compressed = model.long_term, model.compressed
    if compressed is not None:
        compressed = dataclasses.replace(compressed, length=LENGTH // 2)
    return dataclasses.replace(
        model,
        **_SIZES,
        num_kv_heads=SHARED if model.num_kv_heads else 0,
        mem_len=LENGTH if model.mem_len else 0,
        sinks=min(model.sinks, 2),
        cell_distance=min(model.cell_distance, 16),
        memory_gradient=min(model.memory_gradient, 1),
        long_term=None if memory is None else tiny_memory(memory),
        compressed=compressed,
    )


def tiny_memory(memory: LongTermConfig) -> LongTermConfig:
    """The memory with 8 functions or cells, which 16 samples see where it has samples."""
    sizes: dict[str, Any] = {"num_basis": 8}
    if memory.functions == "gaussian":
        sizes["widths"] = (0.1, 0.3)
    if memory.contraction != "kept":
        sampled = memory.fit == "points" or memory.sticky
        sizes |= {"bins": 8} | ({"num_samples": 16} if sampled else {})
    if memory.contraction == "power" and memory.tabled:
        sizes["horizon"] = 2
    if memory.content_heads:
        sizes["content_heads"] = HEADS // 2
    return dataclasses.replace(memory, **sizes)


def presets(updates: int = 5) -> dict[str, tuple[Any, list[str]]]:
    """EXPERIMENT/PRESET → (its tiny config, others with the same model then), of the first ones.

    Args:
        updates: length of the schedule of the learning rate.
    """
    found: dict[Any, tuple[str, Any, list[str]]] = {}
    for experiment, one in EXPERIMENTS.items():
        for name, (_, config) in one.presets.items():
            optim = dataclasses.replace(config.optim, steps=updates, warmup_steps=0, accumulate=1)
            config = dataclasses.replace(config, model=tiny(config.model), optim=optim)
            rates = optim.weight_decay > 0, optim.memory_learning_rate > 0
            kind = optim.trained, optim.schedule, optim.skip_nonfinite > 0, rates
            key = config.model, config.objective, kind
            label = f"{experiment}/{name}"
            first = found.setdefault(key, (label, config, []))
            if first[0] != label:
                first[2].append(label)
    return {label: (config, others) for label, config, others in found.values()}
