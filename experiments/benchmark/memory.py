"""The long-term memory by itself: ours against the paper's formulas taken literally, and its floor.

A part is a read, a write with its gate, or a write and a read of what it wrote; forward, or forward
and backward.
"""

import itertools
import statistics
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.literal import LiteralAttention
from experiments.benchmark.timing import BenchmarkConfig, compile_case, race, ratio
from inf_former_jax.memory import long_term, regression, write_operators
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.operator_tables import dense
from inf_former_jax.models import presets
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.require import require

#: What each part is differentiated by; the old coefficients of a write are constants (SPEC §3).
PARTS = {"read": ("params", "q", "coeffs"), "write": ("params", "x")}
PARTS |= {"read + write": ("params", "q", "x")}

FORMS, PASSES = ("literal", "ours"), ("forward", "forward + backward")

#: Largest relative error of a result in float32: the forms sum in other orders.
SAME = 1e-3


def tiny() -> ModelConfig:
    """Sizes that compile and run at once, no two alike."""
    memory = LongTermConfig(num_basis=6, widths=(0.1, 0.3), num_samples=12)
    sizes = {"num_heads": 2, "head_dim": 4, "d_model": 10, "segment_len": 16, "mem_len": 16}
    return presets.infinity_former(**sizes, long_term=memory)


def arrays(model: ModelConfig, batch: int, dtype=jnp.float32) -> dict[str, Any]:
    """Random inputs of all parts, of a memory that was written to once, and their cotangents."""
    cfg, length, dim = model.long_term, model.segment_len, model.d_model
    assert cfg is not None

    @jax.jit
    def draw(ops):
        layer, keys = LongTermAttention(cfg), jax.random.split(jax.random.key(0), 6)
        q = jax.random.normal(keys[0], (batch, model.num_heads, length, model.head_dim), dtype)
        x, first, context = (jax.random.normal(k, (batch, length, dim), dtype) for k in keys[1:4])
        memory = long_term.write(cfg, long_term.init(cfg, batch, dim, dtype), first, operators=ops)
        params = layer.init(keys[4], q, memory)["params"]
        coeffs = jax.random.normal(keys[5], memory.coeffs.shape, dtype)
        ridge = None
        if ops.past is not None and ops.new is not None:
            ridge = jnp.concatenate([ops.past[0], dense(ops.new)[0]])
        return {
            "params": jax.tree.map(lambda leaf: leaf.astype(dtype), params),
            "q": q,
            "x": x,
            "memory": memory,
            "coeffs": memory.coeffs,
            "ridge": ridge,
            "cotangents": {"context": context, "coeffs": coeffs},
        }

    ops = jax.device_put(long_term.operators(cfg, length, dtype))
    return draw(ops) | {"operators": ops}


def program(form: str, model: ModelConfig, part: str, backward: bool) -> Callable[..., Any]:
    """arrays → coefficients and context of a part, or (these, its gradients by PARTS)."""
    cfg = model.long_term
    assert cfg is not None

    def forward(given):
        layer = LiteralAttention(cfg, given["params"], given["ridge"])
        write, found = layer.write, {}
        if form == "ours":
            layer = LongTermAttention(cfg).bind({"params": given["params"]})
            write = partial(layer.write, operators=given["operators"])
        memory = given["memory"]._replace(coeffs=given["coeffs"])
        if "write" in part:
            memory = write(memory, given["x"])
            found["coeffs"] = memory.coeffs
        if "read" in part:
            found["context"], _, _ = layer(given["q"], memory)
        return found

    def both(given):
        inputs = {name: given[name] for name in PARTS[part]}
        found, pull = jax.vjp(lambda inputs: forward(given | inputs), inputs)
        return found, pull({name: given["cotangents"][name] for name in found})[0]

    return both if backward else forward


def require_same(what: str, found: Any, expected: Any) -> float:
    """The largest `max |a - b| / max |b|` of pairs of arrays; `max |a|` where b is 0 throughout.

    It is refused (ValueError) if it is above SAME, or no number.
    """
    # On the host, where nothing is compiled for it; NumPy's max of a NaN is a NaN.
    pairs = zip(*map(jax.tree.leaves, jax.device_get((found, expected))), strict=True)
    largest = float(np.max([np.abs(a - b).max() / (np.abs(b).max() or 1.0) for a, b in pairs]))
    require(largest <= SAME, f"memory: {what}: error", f"{largest:.1e}", f"at most {SAME:.0e}")
    return largest


def memory(cfg: BenchmarkConfig) -> dict[str, Any]:
    """The sorting default's memory by itself, ours and the paper's formulas: equal, or an error."""
    model, batch = (tiny(), 2) if cfg.quick else (presets.infinity_former(), cfg.batch)
    given, cases = arrays(model, batch), {}
    for part, name, form in itertools.product(PARTS, PASSES, FORMS):
        function = program(form, model, part, name != "forward")
        cases[part, name, form] = compile_case(jax.jit(function), given)
    results = {label: case.run() for label, case in cases.items()}
    timed, seconds, rates = race(cases, cfg)
    rows: list[dict[str, Any]] = []
    for part, name in itertools.product(PARTS, PASSES):
        literally, ours = (part, name, "literal"), (part, name, "ours")
        rows.append({"part": part, "pass": name})
        rows[-1]["error"] = require_same(f"{part}, {name}", results[ours], results[literally])
        rows[-1]["ratio"] = ratio(seconds[literally], seconds[ours])
        for form in FORMS:
            row = rows[-1][form] = timed[part, name, form]
            row["temporaries_mb"] = row["temporaries_mib"] * 2**20 / 1e6
    sizes = dict(zip("BNE", given["coeffs"].shape, strict=True))
    sizes |= {"T": model.segment_len, "H": model.num_heads}
    gflops, bandwidth = rates["float32"] / 1e9, rates["bytes"] / 1e9
    return {"sizes": sizes, "gflops": gflops, "gb_per_second": bandwidth, "rows": rows}


def operators(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds to build the write operators of two presets and to compile their memory.

    Beside the seconds of the build are those that the processor worked on it, which others may
    share, and its floor: `build_operations` at the rate of NumPy's products in float64.
    """
    models, batch, size = {"tiny": tiny()}, 2, 64
    if not cfg.quick:
        models = {"infinity_former": presets.infinity_former()}
        models |= {"gpt2_infinity_lasting": presets.gpt2_infinity_lasting()}
        batch, size = cfg.batch, 2048
    factor = np.random.default_rng(0).normal(size=(size, size))
    rate = 2 * size**3 / min(timeit.repeat(lambda: factor @ factor, number=1, repeat=6))
    found = {}
    for name, model in models.items():
        memory, length = model.long_term, model.segment_len
        assert memory is not None
        built = [_build(memory, length) for _ in range(cfg.times)]
        ops, times = built[-1][0], [seconds for _, seconds in built]
        build, processor = map(statistics.median, zip(*times, strict=True))
        floor = build_operations(memory, length) / rate
        found[name] = {
            "contractions": memory.num_contractions,
            "build": build,
            "build_processor": processor,
            "mb": sum(leaf.nbytes for leaf in jax.tree.leaves(ops)) / 1e6,
            "floor": floor,
            "share": floor / build,
        }
        shapes = jax.eval_shape(partial(arrays, model, batch))
        for label in PASSES:
            run = program("ours", model, "read + write", label != "forward")
            known = compile_case(jax.jit(run), shapes, times=cfg.times).known
            found[name][label] = known["trace"] + known["compile"]
            found[name][f"{label}, program_bytes"] = known["program_bytes"]
    return found


def _build(cfg: LongTermConfig, length: int) -> tuple[Any, list[float]]:
    """The operators, built anew; the seconds that it took, and those of the processor."""
    write_operators._operators.cache_clear()
    write_operators._padding_gram.cache_clear()
    begin, processor = time.perf_counter(), time.process_time()
    ops = long_term.operators(cfg, length)
    return ops, [time.perf_counter() - begin, time.process_time() - processor]


def build_operations(cfg: LongTermConfig, length: int) -> int:
    """Multiplications and additions of a build: products, Cholesky (N³/3) and inverse (2 N³)."""
    n, m = cfg.num_basis, cfg.num_samples
    solve, product = n**3 // 3 + 2 * n**3, 2 * n**2  # of a regression; with [N, N], by row
    first, further = 2 * length * product + solve, 2 * (m + length) * product + solve
    decay = 0 if cfg.sticky else m * product
    pinned = [*regression.first_fit_padding(length), *regression.write_padding(m, length)]
    padding = len(pinned) * product if cfg.padding else 0
    return first + padding + cfg.num_contractions * (further + decay)
