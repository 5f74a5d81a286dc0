"""Programs timed in turns, beside the least time that this machine needs for their work.

A measure is a set of cases: compiled programs, each with a way to run it. They run in turns with
two probes of the machine's rates, a large matrix product and a sweep over large vectors. Two floors
follow for each case: its matrix products at the rate of products; and its arguments and results,
each read or written once, at the rate of bytes. A program on several devices is held against probes
that use as many devices at once.
"""

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec

from inf_former_jax.fields import Checked, Count, NonEmpty, Range
from inf_former_jax.memory.arrays import HIGHEST

MEASURES = ("presets", "gpt2", "smollm2", "stream", "steps", "memory_gradient")
MEASURES += ("generation", "memory", "designs", "operators", "saves")

#: Sizes of a model with `--quick`. A segment of sorting has to hold the 20 answers.
TINY: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "head_dim": 8, "d_model": 16}
TINY |= {"d_inner": 16, "segment_len": 32, "vocab_size": 32}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Checked):
    """What to measure."""

    measure: NonEmpty[str] = MEASURES
    """Any of these."""
    repeats: Count = 15
    """Runs of each variant, taken in turns; their median is reported."""
    tokens: Annotated[int, Range(2**12)] = 2**20
    """Length of the streamed document."""
    batch: Count = 8
    """B of the measure memory: rows."""
    presets: tuple[str, ...] = ()
    """Of presets and steps: those of sorting, small, recall, gpt2-infinity-lasting, also as
    NAME:ROWS; () = all."""
    schedules: NonEmpty[str] = ("sequential",)
    """Of steps: sequential, parallel (which not every model has)."""
    dtypes: NonEmpty[str] = ("float32",)
    """Of steps: float32, bfloat16, each also with +xla, fused local attention, and
    bfloat16+cudnn, a kernel of NVIDIA's for it."""
    quick: bool = False
    """Tiny shapes, few repeats, programs that are not optimised: that it runs, not how fast."""
    compare: str = ""
    """A commit, whose training steps then take turns with those of this code; or NAME.json of an
    earlier measure, beside which the same measure is shown."""
    out: str = "runs/benchmark"
    """Folder of NAME.json of each measure."""

    @property
    def times(self) -> int:
        """How often a program is traced and compiled, of which the median is reported."""
        return 1 if self.quick else 3


Rows = dict[Any, dict[str, float]]  # label → `row`
Seconds = dict[Any, list[float]]  # label → of each run
Rates = dict[str, float]  # operations a second by kind, and "bytes" a second


class Case(NamedTuple):
    """A compiled program, what is known of it without running it, and how it is timed."""

    run: Callable[[], Any]
    compiled: Callable[..., Any]
    operations: Mapping[str, int]  # of its matrix products, by kind
    moved: int  # bytes of its arguments and results
    known: Mapping[str, float]  # what its row holds beside times and floors
    executions: int = 1  # of the program, in one run


def compile_case(
    function: Any,
    *arguments: Any,
    taken: Sequence[Sequence[int]] = (),
    within: Sequence[int] = (),
    times: int = 1,
) -> Case:
    """A jitted function on these arguments.

    Args:
        taken, within: those of `count_products`.
        times: how often it is traced and compiled anew, each time with JAX's caches emptied if this
            is more than once. The medians are reported.
    """
    spent, traced, compiled = [], None, None
    for _ in range(times):
        if times > 1:
            jax.clear_caches()
        begin = time.perf_counter()
        traced = function.trace(*arguments)
        lowered = traced.lower()
        middle = time.perf_counter()
        compiled = lowered.compile()
        spent.append((middle - begin, time.perf_counter() - middle))
    assert traced is not None and compiled is not None
    trace, compilation = map(statistics.median, zip(*spent, strict=True))
    # What XLA says of memory is of one device.
    devices = max(len(where.device_set) for where in jax.tree.leaves(compiled.input_shardings))
    memory = compiled.memory_analysis()
    known = {
        "devices": devices,
        "temporaries_mib": devices * memory.temp_size_in_bytes / 2**20,
        "trace": trace,
        "compile": compilation,
        "program_bytes": len(compiled.as_text()),
    }
    operations = count_products(traced.jaxpr.jaxpr, list(taken), within)
    operations = {kind: round(number) for kind, number in operations.items() if number}
    moved = devices * (memory.argument_size_in_bytes + memory.output_size_in_bytes)
    return Case(partial(compiled, *arguments), compiled, operations, moved, known)


def count_products(
    jaxpr: Any, taken: list[Sequence[int]], within: Sequence[int] = ()
) -> dict[str, float]:
    """Kind → multiplications and additions of a program's matrix products.

    A kind has a rate of its own: bfloat16, float32, and "float32 default", which accelerators
    compute from fewer bits. Products that no result needs are left out, as XLA leaves them out. The
    body of a scan counts as often as the scan is long, and what devices do apart once for each of
    them. Each branch of a choice counts by its share of `taken`. Where that is not known, the
    cheapest branch that has any products counts.

    Args:
        taken: for each choice, in the program's order, how often each of its branches is taken. The
            first entry is used for the next choice with as many branches, and then removed.
        within: the same for every other choice with as many branches, wherever it stands.
    """
    live: Any = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]
    total: dict[str, float] = collections.defaultdict(float)
    for equation in live.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (summed, _), _ = params["dimension_numbers"]
            left, precision = equation.invars[0].aval, params["precision"]
            kind, terms = left.dtype.name, math.prod(left.shape[axis] for axis in summed)
            if kind == "float32" and precision not in (HIGHEST, (HIGHEST, HIGHEST)):
                kind = "float32 default"
            total[kind] += 2 * terms * math.prod(equation.outvars[0].aval.shape)
        inner = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, Jaxpr | ClosedJaxpr)]
        known = name == "cond" and taken and len(taken[0]) == len(inner)
        often = params["mesh"].size if name == "shard_map" else params.get("length", 1)
        times: Sequence[float] = taken.pop(0) if known else [often] * len(inner)
        if name == "cond" and not known and len(within) == len(inner):
            known, times = True, within
        rest = [] if known else taken
        counts = [count_products(getattr(p, "jaxpr", p), rest, within) for p in inner]
        if known:
            times = [number / sum(times) for number in times]
        elif name == "cond":
            counts, times = [min(counts, key=lambda c: sum(c.values()) or math.inf)], [1]
        for count, often in zip(counts, times, strict=True):
            for kind, number in count.items():
                total[kind] += number * often
    return total


def race(cases: Mapping[Any, Case], cfg: BenchmarkConfig) -> tuple[Rows, Seconds, Rates]:
    """Time one run of each case, and of this machine's probes, in each turn; one is to warm up."""
    kinds = sorted({kind for case in cases.values() for kind in case.operations})
    devices = {label: int(case.known.get("devices", 1)) for label, case in cases.items()}
    size, counts = 64 if cfg.quick else 2048, sorted({*devices.values()} or {1})
    machines = {count: probes(size, kinds, count) for count in counts}
    everything = {(n, kind): case for n, found in machines.items() for kind, case in found.items()}
    everything |= cases
    seconds: Seconds = {label: [] for label in everything}
    for turn in range(1 + (3 if cfg.quick else cfg.repeats)):
        for label, case in everything.items():
            begin = time.perf_counter()
            jax.block_until_ready(case.run())
            if turn:
                seconds[label].append(time.perf_counter() - begin)
    # The best run counts, since a floor is what no run can be below.
    rates = {}
    for count, machine in machines.items():
        rates[count] = {k: machine[k].operations[k] / min(seconds[count, k]) for k in kinds}
        rates[count]["bytes"] = machine["bytes"].moved / min(seconds[count, "bytes"])
    rows = {
        label: row(case, seconds[label], rates[devices[label]]) for label, case in cases.items()
    }
    return rows, seconds, rates[max(rates)]


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as long one case took as another: the median over turns."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def row(case: Case, seconds: Sequence[float], rates: Rates) -> dict[str, float]:
    """A case's times, what is known of it, and its floors with their shares of the median."""
    median = statistics.median(seconds) / case.executions
    floor = sum(number / rates[kind] for kind, number in case.operations.items())
    bytes_floor = case.moved / rates["bytes"]
    return {
        "seconds": median,
        "least": min(seconds) / case.executions,
        **case.known,
        "operations": sum(case.operations.values()),
        "floor": floor,
        "share": floor / median,
        "bytes": case.moved,
        "bytes_floor": bytes_floor,
        "bytes_share": bytes_floor / median,
    }


def probes(size: int, kinds: Sequence[str], devices: int = 1) -> dict[Any, Case]:
    """What tells this machine's rates: a [size, size] product of each kind, and "bytes".

    These are the sum a ← a + 2 b of vectors of 8 size² numbers. It overwrites a, because the pages
    of a fresh array would take most of the time.

    Args:
        devices: how many work at once: each on a product of its own, and on its share of the sum.
    """
    cases, split = {}, PartitionSpec("each")
    mesh = jax.make_mesh((devices,), ("each",), devices=jax.devices()[:devices])
    everywhere = NamedSharding(mesh, split)
    for kind in kinds:
        precision = HIGHEST if kind == "float32" else None
        shape = (devices * size, size)
        factor = jax.random.normal(jax.random.key(0), shape, kind.split()[0])
        # As the models multiply: a processor's unit for half precision adds up in float32.
        wide = jnp.promote_types(factor.dtype, jnp.float32)
        multiply = partial(jnp.matmul, precision=precision, preferred_element_type=wide)
        each = jax.shard_map(multiply, mesh=mesh, in_specs=split, out_specs=split)
        cases[kind] = compile_case(jax.jit(each), *[jax.device_put(factor, everywhere)] * 2)
    a, b = (jax.device_put(jnp.ones(8 * size**2, jnp.float32), everywhere) for _ in range(2))
    add = compile_case(jax.jit(lambda a, b: a + 2 * b, donate_argnums=0), a, b)

    def sweep():
        nonlocal a
        a = add.compiled(a, b)
        return a

    return cases | {"bytes": add._replace(run=sweep)}
