"""How much memory a run needs, before any of it is taken, and how much there is; and cores.

Parameters, optimiser and memory are exact. Activations are an estimate of XLA's temporaries.
"""

import contextlib
import dataclasses
import math
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.run.config import RunConfig
from inf_former_jax.memory import state, write_operators
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.models.decoder import ModelConfig

_FLOAT = 4

#: What a container says of its share: microseconds of processor time, in so many.
_SHARE = Path("/sys/fs/cgroup/cpu.max")


def check(needs: Mapping[str, int], advice: str = "smaller sizes") -> None:
    """Refuse what needs more memory than there is.

    Args:
        needs: what → bytes.

    Raises:
        ValueError: with the bytes that are needed, and those that are there.
    """
    total, there = sum(needs.values()), found()
    if total > there:
        parts = sorted(needs.items(), key=lambda part: -part[1])[:3]
        largest = ", ".join(f"{name} {size(number)}" for name, number in parts)
        found_, needed = f"found {size(there)}", f"needs about {size(total)} ({largest})"
        raise ValueError(f"memory: {needed}, {found_}, accepted: {advice}")


def found() -> int:
    """Bytes that are free: of the local accelerators, or of the host."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stat and "bytes_limit" in stat for stat in stats):
        return sum(stat["bytes_limit"] - stat.get("bytes_in_use", 0) for stat in stats if stat)
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # of a container
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(free.split()[1]) * 1024)
    return min(limits)


def host_bytes() -> int:
    """Bytes that the process occupies now; where that is not known, the most so far."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def cores() -> int:
    """Cores that this process may use: by its affinity, and by its container's share of time."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit: "max"
        quota, period = map(int, _SHARE.read_text().split())
        found = min(found or 1, quota // period)
    return max(1, found or 1)


def size(number: float) -> str:
    """Bytes in three digits: 23.4 GB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
    power = min(int(math.log10(max(number, 1)) // 3), len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}"


def of_run(cfg: RunConfig, segments: int, data: int = 0) -> dict[str, int]:
    """What a run needs → bytes, on all local devices together.

    Args:
        segments: W, of a row in one update.
        data: bytes that are made before the first update.
    """
    model, devices = cfg.model, cfg.devices or jax.local_device_count()
    held = _FLOAT * parameters(model)
    learnt = held if cfg.optim.trained == "all" else _FLOAT * of_memories(model)
    fixed = {
        "parameters": held,
        "optimiser": learnt * (2 if cfg.optim.accumulate == 1 else 3),
        "gradients": learnt,
        "parameters before": learnt * (cfg.optim.skip_nonfinite > 0),
        "tables": tables(model),
    }
    rows = {
        "memory": cfg.batch_size * memory(model),
        "activations": cfg.batch_size * activations(cfg, segments),
        "batch": cfg.batch_size * segments * model.segment_len * 3 * _FLOAT,
    }
    # Each device along model has its part of the parameters and of a row. Those along fsdp share
    # the optimiser, and put the parameters together for an update.
    copies = {name: math.ceil(devices / cfg.mesh_model) for name in fixed}
    copies["optimiser"] = math.ceil(devices / cfg.mesh_model / cfg.mesh_fsdp)
    return {name: size * copies[name] for name, size in fixed.items()} | rows | {"data": data}


def parameters(cfg: ModelConfig) -> int:
    """How many numbers the parameters of a decoder are."""
    wide, heads, inner = cfg.d_model, cfg.num_heads * cfg.head_dim, cfg.d_inner
    relative, shared = cfg.position == "relative", cfg.kv_heads * cfg.head_dim
    local = (3 if relative else 2) * wide * heads + 2 * wide * shared
    local += cfg.attention_bias * (heads + 2 * shared + wide)
    norm = wide if cfg.norm_kind == "rms" else 2 * wide
    gated = cfg.activation == "swiglu"
    layer = local + 2 * norm + (3 * wide * inner if gated else 2 * wide * inner + inner + wide)
    embedded = cfg.vocab_size * wide * (1 if cfg.tied else 2)
    places = {"relative": 2 * heads, "learned": cfg.max_position * wide, "rotary": 0}
    around = embedded + places[cfg.position] + norm * cfg.final_norm
    return around + cfg.num_layers * layer + of_memories(cfg)


def of_memories(cfg: ModelConfig) -> int:
    """How many of a decoder's parameters its long-term or compressed memories have."""
    wide, found = cfg.d_model, 0
    if (long_term := cfg.long_term) is not None:
        layer = _of_read(cfg, long_term) + ((3 * wide + 1) * wide if long_term.gate else 0)
        found += _remembering(cfg) * layer
    if cfg.compressed is not None and cfg.compressed.function == "convolution":
        found += cfg.num_layers * (cfg.compressed.rate * wide + 1) * wide
    return found


def _remembering(cfg: ModelConfig) -> int:
    """How many layers have the long-term memory."""
    return len(cfg.long_term_layers) or cfg.num_layers


def _of_read(cfg: ModelConfig, long_term: LongTermConfig) -> int:
    """How many numbers `models.memory_read.layer.ReadParams` of a layer are."""
    by_content, found = long_term.num_content_heads(cfg.num_heads), 0
    if long_term.projections == "own":
        matrices = 2 if long_term.joined else 3
        found += matrices * cfg.d_model * cfg.num_heads * cfg.head_dim
    if by_content < cfg.num_heads:
        found += 2 * long_term.num_basis
    age = {"none": 0, "linear": 1, "cells": long_term.content_cells}[long_term.age_bias]
    turn = cfg.head_dim**2 if long_term.turn_queries else 0
    found += long_term.learn_worth * cfg.d_model
    return found + by_content * (age + turn + long_term.learn_temperature)


def memory(cfg: ModelConfig) -> int:
    """Bytes of the memory of a row."""

    def of(part: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))

    one = dataclasses.replace(cfg, num_layers=1, long_term_layers=())
    fresh = jax.eval_shape(lambda: state.init(one, 1))
    (layer,) = fresh.layers
    everywhere = of(layer._replace(long_term=None))
    return of(fresh.seen) + cfg.num_layers * everywhere + _remembering(cfg) * of(layer.long_term)


def tables(cfg: ModelConfig) -> int:
    """Bytes of what a model looks up: operators of its writes, and distances of its attention."""
    keys = cfg.mem_len + cfg.segment_len
    found = 2 * _FLOAT * keys * cfg.d_model if cfg.position == "relative" else 0
    if (long_term := cfg.long_term) is not None:
        found += int(write_operators.operator_mib(long_term, cfg.segment_len) * 2**20)
        formed = long_term.num_samples + cfg.segment_len + long_term.num_basis
        found += 3 * 8 * formed * long_term.num_basis  # in float64, with the normal matrix
    return found


def activations(cfg: RunConfig, segments: int) -> int:
    """Bytes of what one row keeps for the backward pass."""
    model = cfg.model
    keys = model.mem_len + model.segment_len + (model.compressed.length if model.compressed else 0)
    heads = model.num_heads * model.head_dim
    inner = (4 if model.activation == "swiglu" else 2) * model.d_inner
    token = 6 * model.d_model + 5 * heads + inner
    if model.long_term is not None:
        token += model.num_heads * model.long_term.num_basis
    layer = model.segment_len * token
    scores = model.num_heads * min(model.segment_len, model.query_chunk) * keys
    logits = 2 * model.segment_len * model.vocab_size
    at_once = model.memory_gradient + 1
    if cfg.objective.schedule == "parallel":
        at_once = cfg.objective.segments_at_once or segments
    kept = min(segments, at_once) * (model.num_layers * layer + scores + logits)
    return _FLOAT * kept * 3 // 2  # and what is computed from them on the way
