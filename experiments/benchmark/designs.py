"""How long each design of the memory takes: written, read, and both, beside the paper's."""

import dataclasses
import itertools
from typing import Any

import jax

from experiments.benchmark.memory import PARTS, PASSES, arrays, program, tiny
from experiments.benchmark.timing import BenchmarkConfig, compile_case, race, ratio
from experiments.run import memories
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig

#: The paper's memory, the same with power contraction, and what is held against them.
PUBLISHED = "ridge-gaussian-fixed-uniform"
DESIGNS = (
    PUBLISHED,
    "ridge-gaussian-power-uniform",
    "intervals-gaussian-power-uniform",
    "intervals-gibbs-power-uniform",
    "intervals-mixed-power-uniform",
)


def models(quick: bool) -> dict[str, ModelConfig]:
    """Design → GPT-2 small's layer with N = T = 512 (SPEC §6), at its paper's size or tiny."""
    made = (presets.gpt2_infinity(), presets.gpt2_infinity_lasting())
    if quick:
        small = tiny().long_term
        assert small is not None
        ridge = dataclasses.replace(small, contraction="power", horizon=3)
        made = (tiny(), presets.infinity_former(**_sizes(tiny()), long_term=ridge))
    given = {
        name: model.long_term
        for name, model in zip(("fixed", "power"), made, strict=True)
        if model.long_term is not None
    }
    heads = made[0].num_heads
    return {
        name: dataclasses.replace(made[0], long_term=memories.memory(name, given, heads))
        for name in DESIGNS
    }


def _sizes(model: ModelConfig) -> dict[str, int]:
    names = ("num_heads", "head_dim", "d_model", "segment_len", "mem_len")
    return {name: getattr(model, name) for name in names}


def designs(cfg: BenchmarkConfig) -> dict[str, Any]:
    """The memory of one layer of GPT-2 small, one row: every design beside the paper's."""
    made, cases, sizes = models(cfg.quick), {}, {}
    for name, model in made.items():
        given = arrays(model, 1)
        assert model.long_term is not None
        sizes[name] = {
            "operators_mb": sum(leaf.nbytes for leaf in jax.tree.leaves(given["operators"])) / 1e6,
            "memory_mb": sum(leaf.nbytes for leaf in jax.tree.leaves(given["memory"])) / 1e6,
        }
        for part, passed in itertools.product(PARTS, PASSES):
            run = jax.jit(program("ours", model, part, passed != "forward"))
            cases[part, passed, name] = compile_case(run, given)
    timed, seconds, _ = race(cases, cfg)
    rows = []
    for part, passed, name in cases:
        published = seconds[part, passed, PUBLISHED]
        row = timed[part, passed, name]
        rows.append(
            {"part": part, "pass": passed, "design": name, **sizes[name], **row}
            | {"ratio": ratio(seconds[part, passed, name], published)}
        )
    return {"rows": rows}
