"""The long-term memory by itself: ours against the paper's formulas taken literally, and its floor.

A part is a read, a write with its gate, or a write and a read of what it wrote; forward, or forward
and backward. Its floors are the time that its matrix products alone would take on this machine,
and that of reading its arguments (inputs, parameters, the operators of its form, cotangents) and
writing its results, each once.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import literal as benchmark_literal
from experiments.benchmark.timing import Machine, floors, interleaved
from experiments.benchmark.timing import operations as count
from inf_former_jax.memory import long_term, regression
from inf_former_jax.memory import write_operators as building
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.decoder import ModelConfig

#: What each part is differentiated by; the old coefficients of a write are constants (SPEC §3).
PARTS = {"read": ("params", "q", "coeffs"), "write": ("params", "x"),
         "read + write": ("params", "q", "x")}  # fmt: skip

PASSES = ("forward", "forward + backward")

#: Largest relative error of a result in float32: the forms sum in other orders.
SAME = 1e-3

Arrays = Mapping[str, Any]


def tiny() -> ModelConfig:
    """Sizes that compile and run at once, no two alike."""
    memory = LongTermConfig(num_basis=6, widths=(0.1, 0.3), num_samples=12)
    return presets.infinity_former(
        num_heads=2, head_dim=4, d_model=10, segment_len=16, mem_len=16, long_term=memory
    )


def ours(cfg: LongTermConfig, part: str, of: Arrays) -> dict[str, jax.Array]:
    """A part by `LongTermAttention`: its context [B, T, E], its coefficients [B, N, E], or both."""
    layer, found = LongTermAttention(cfg), {}
    salience = jnp.zeros((len(of["writes"]), cfg.bins), of["coeffs"].dtype)
    memory = long_term.LongTermMemory(of["coeffs"], salience, of["writes"])
    if part != "read":
        memory = layer.apply(
            {"params": of["params"]}, memory, of["x"], operators=of["operators"], method="write"
        )
        found["coeffs"] = memory.coeffs
    if part != "write":
        found["context"], _, _ = layer.apply({"params": of["params"]}, of["q"], memory)
    return found


def literal(cfg: LongTermConfig, part: str, of: Arrays) -> dict[str, jax.Array]:
    """The same by `benchmark_literal`."""
    coeffs, found = of["coeffs"], {}
    if part != "read":
        gate = of["params"]["gate"]
        coeffs = benchmark_literal.write(cfg, gate, coeffs, of["x"], of["ridge"])
        found["coeffs"] = coeffs
    if part != "write":
        found["context"] = benchmark_literal.read(cfg, of["params"]["read"], of["q"], coeffs)
    return found


FORMS = {"literal": literal, "ours": ours}


def arrays(model: ModelConfig, batch: int, dtype=jnp.float32) -> dict[str, Any]:
    """Random inputs of all parts, of a memory that was written to once, and their cotangents."""
    cfg, length, dim = model.long_term, model.segment_len, model.d_model
    queries = (batch, model.num_heads, length, model.head_dim)

    @jax.jit
    def made(ops):
        layer, keys = LongTermAttention(cfg), jax.random.split(jax.random.key(0), 6)
        q = jax.random.normal(keys[0], queries, dtype)
        x, first, context = (jax.random.normal(k, (batch, length, dim), dtype) for k in keys[1:4])
        memory = long_term.write(cfg, long_term.init(cfg, batch, dim, dtype), first, operators=ops)
        params = layer.init(keys[4], q, memory)["params"]
        coeffs = jax.random.normal(keys[5], memory.coeffs.shape, dtype)
        return {
            "params": jax.tree.map(lambda leaf: leaf.astype(dtype), params),
            "q": q, "x": x, "coeffs": memory.coeffs, "writes": memory.writes,
            "ridge": None if ops.past is None else benchmark_literal.ridge(ops),
            "cotangents": {"context": context, "coeffs": coeffs},
        }  # fmt: skip

    ops = jax.device_put(long_term.operators(cfg, length, dtype))
    return made(ops) | {"operators": ops}


def program(form: str, cfg: LongTermConfig, part: str, backward: bool) -> Callable[[Arrays], Any]:
    """arrays → what a part returns, or (that, its gradients by PARTS)."""

    def forward(of):
        return FORMS[form](cfg, part, of)

    def both(of):
        given = {name: of[name] for name in PARTS[part]}
        found, pull = jax.vjp(lambda given: forward(of | given), given)
        return found, pull({name: of["cotangents"][name] for name in found})[0]

    return both if backward else forward


def require_same(what: str, found: Any, expected: Any) -> float:
    """The largest `max |a - b| / max |b|` of pairs of arrays; `max |a|` where b is 0 throughout.

    Raises:
        RuntimeError: it is above SAME, or no number.
    """

    def error(a, b):
        return np.abs(a - b).max() / (np.abs(b).max() if b.any() else 1.0)

    # On the host, where nothing is compiled for it; NumPy's max of a NaN is a NaN.
    errors = jax.tree.map(error, jax.device_get(found), jax.device_get(expected))
    largest = float(np.max(jax.tree.leaves(errors)))
    if not largest <= SAME:
        raise RuntimeError(
            f"memory: {what}: found an error of {largest:.1e}; expected at most {SAME:.0e}"
        )
    return largest


def memory(model: ModelConfig, batch: int, repeats: int, size: int) -> dict[str, Any]:
    """Each part and pass in both forms, in turns, beside what this machine can do (`Machine`).

    Raises:
        RuntimeError: the forms' results differ by more than SAME.
    """
    cfg, of = model.long_term, arrays(model, batch)
    machine = Machine(size)
    work, runs, rows, variants = {}, {}, [], dict(machine.variants)
    for part in PARTS:
        for name in PASSES:
            row = {"part": part, "pass": name}
            for form in FORMS:
                traced = jax.jit(program(form, cfg, part, name != "forward")).trace(of)
                compiled = traced.lower().compile()
                memory = compiled.memory_analysis()
                moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
                work[part, name, form] = count(traced.jaxpr.jaxpr), moved
                row[form] = {
                    "temporaries_mb": memory.temp_size_in_bytes / 1e6,
                    "program_bytes": len(compiled.as_text()),
                }
                variants[part, name, form] = runs[form] = lambda compiled=compiled: compiled(of)
            row["error"] = require_same(f"{part}, {name}", runs["ours"](), runs["literal"]())
            rows.append(row)
    seconds = interleaved(variants, repeats)
    rates = machine.rates(seconds)
    for row in rows:
        by_form = {form: seconds[row["part"], row["pass"], form] for form in FORMS}
        for form, taken in by_form.items():
            median, of_form = statistics.median(taken), work[row["part"], row["pass"], form]
            row[form] |= {"seconds": median} | floors(median, *of_form, rates)
        pairs = zip(by_form["literal"], by_form["ours"], strict=True)
        row["ratio"] = statistics.median(a / b for a, b in pairs)
    sizes = {"B": batch, "T": model.segment_len, "N": cfg.num_basis, "E": model.d_model,
             "H": model.num_heads}  # fmt: skip
    rate, bandwidth = rates["float32"] / 1e9, rates["bytes"] / 1e9
    return {"sizes": sizes, "gflops": rate, "gb_per_second": bandwidth, "rows": rows}


def build_operations(cfg: LongTermConfig, length: int) -> int:
    """Multiplications and additions of a build: products, Cholesky (N³/3) and inverse (2 N³)."""
    n, m = cfg.num_basis, cfg.num_samples
    solve = n**3 // 3 + 2 * n**3

    def padding(times):
        return len(times) * 2 * n**2 if cfg.padding else 0

    first = 4 * length * n**2 + solve + padding(regression.first_fit_padding(length))
    decay = 0 if cfg.sticky else 2 * m * n**2
    further = 4 * (m + length) * n**2 + solve + decay
    both = padding(regression.write_padding(m, length))
    return first + both + cfg.num_contractions * further


def operators(models: Mapping[str, ModelConfig], batch: int, size: int) -> dict[str, Any]:
    """Preset → seconds to build its write operators, and to compile its memory's read + write.

    Beside the seconds of the build are those that the processor worked on it, which others may
    share, and its floor: `build_operations` at the rate of NumPy's products in float64.

    Args:
        size: of those products [size, size].
    """
    found, a = {}, np.random.default_rng(0).normal(size=(size, size))
    times = interleaved({"machine": lambda: a @ a}, 5)["machine"]
    rate = 2 * size**3 / min(times)
    for name, model in models.items():
        building._operators.cache_clear()
        building._padding_gram.cache_clear()
        begun, processor = time.perf_counter(), time.process_time()
        ops = long_term.operators(model.long_term, model.segment_len)
        found[name] = {
            "contractions": model.long_term.num_contractions,
            "build": time.perf_counter() - begun,
            "build_processor": time.process_time() - processor,
            "mb": sum(leaf.nbytes for leaf in jax.tree.leaves(ops)) / 1e6,
        }
        found[name]["floor"] = build_operations(model.long_term, model.segment_len) / rate
        found[name]["share"] = found[name]["floor"] / found[name]["build"]
        shapes = jax.eval_shape(lambda model=model: arrays(model, batch))
        for label in PASSES:
            run = program("ours", model.long_term, "read + write", label != "forward")
            begun = time.perf_counter()
            compiled = jax.jit(run).lower(shapes).compile()
            found[name][label] = time.perf_counter() - begun
            found[name][f"{label}, program_bytes"] = len(compiled.as_text())
    return found
