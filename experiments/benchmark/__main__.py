"""Speed, measured: interleaved medians in one run, a table for people and JSON for programs.

    python -m experiments.benchmark [--measure NAMES] [--quick]

gpt2: one segment through GPT-2 small with a long-term memory and without, logits of all positions.
stream: time a segment and live memory along one document of a million tokens.
steps: one training step of every sorting preset and of a small GPT-2 with memory. --presets takes
NAME or NAME:ROWS; by default, on a CPU those of paper size have one row: with the paper's 8 rows
they take up to minutes a step there.
memory_gradient: an update of the sorting default whose gradient goes k segments back, and of the
language model, where every segment has loss.
generation: a greedy token with the cache, and by reading the open segment anew; the same tokens.
memory: the sorting default's memory by itself, read and write, beside the paper's formulas taken
literally (equal, or an error) and beside its matrix products at this machine's rate.
operators: seconds to build the write operators of two presets and to compile their memory.

Each measure has a file of its own, so that what another run measured stays with its commit.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.benchmark import generation as benchmark_generation
from experiments.benchmark import memory as benchmark_memory
from experiments.benchmark import plots as plots_benchmark
from experiments.benchmark import steps as benchmark_steps
from experiments.benchmark import stream as benchmark_stream
from experiments.benchmark import update as benchmark_update
from experiments.benchmark.report import report
from experiments.benchmark.timing import Machine, floors, interleaved
from experiments.language_modeling import config as language_modeling
from experiments.run import cli, folders
from experiments.sorting import config as sorting
from inf_former_jax.models import presets


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    measure: tuple[str, ...] = (
        "gpt2", "stream", "steps", "memory_gradient", "generation", "memory", "operators",
    )  # fmt: skip
    """Any of these."""
    repeats: int = 15
    """Runs of each variant, taken in turns; their median is reported."""
    tokens: int = 2**20
    """Length of the streamed document."""
    batch: int = 8
    """B of the measure memory: rows."""
    presets: tuple[str, ...] = ()
    """Of steps: presets of sorting, small, gpt2-infinity-lasting; () = see above."""
    schedules: tuple[str, ...] = ("sequential",)
    """Of steps: sequential, parallel (which not every model has)."""
    dtypes: tuple[str, ...] = ("float32",)
    """Of steps: float32, bfloat16, each also with +xla, fused local attention, and
    bfloat16+cudnn, a kernel of NVIDIA's for it."""
    quick: bool = False
    """Tiny shapes, few repeats, programs that are not optimised: that it runs, not how fast."""
    out: str = "runs/benchmark"
    """Folder of NAME.json of each measure."""


def gpt2(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of one segment of 512, B 1, whose memory holds something already."""
    changes = {"num_layers": 1, "d_model": 64, "num_heads": 2, "head_dim": 32, "d_inner": 256,
               "vocab_size": 1000, "segment_len": 64} if cfg.quick else {}  # fmt: skip
    variants, work = {}, {}
    for label, make in (("plain", presets.gpt2), ("with memory", presets.gpt2_infinity)):
        model = make(**changes)
        segment, params, ops, memory = benchmark_stream.model(model, 1)
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, (1, model.segment_len))
        for _ in range(3):
            _, memory = segment(params, tokens.astype(np.int32), memory, ops)
        variants[label] = partial(segment, params, tokens.astype(np.int32), memory, ops)
        work[label] = benchmark_stream.work(segment, *variants[label].args)
    kinds = sorted({kind for operations, _ in work.values() for kind in operations})
    machine = Machine(64 if cfg.quick else 2048, kinds)
    seconds = interleaved(machine.variants | variants, 3 if cfg.quick else cfg.repeats)
    medians = {label: statistics.median(seconds[label]) for label in variants}
    pairs = zip(*(seconds[label] for label in variants), strict=True)
    rates = machine.rates(seconds)
    return {
        "seconds": medians, "ratio": statistics.median(b / a for a, b in pairs), "rates": rates,
        "floors": {label: floors(medians[label], *work[label], rates) for label in variants},
    }  # fmt: skip


def stream(cfg: BenchmarkConfig) -> dict[str, Any]:
    """One document through the CPU language model."""
    model = language_modeling.PRESETS["gpt2-infinity-lasting"][1].model
    if cfg.quick:
        return benchmark_stream.stream(dataclasses.replace(model, num_layers=1), 2**14, 64, 3)
    return benchmark_stream.stream(model, cfg.tokens, 2048, 256)


def steps(cfg: BenchmarkConfig) -> dict[str, Any]:
    """A training step of each of the presets."""
    names = cfg.presets or benchmark_steps.default(jax.default_backend())
    if cfg.quick:
        names = cfg.presets or ("infinity-former", "transformer-xl")
    repeats, size = (3, 64) if cfg.quick else (cfg.repeats, 2048)
    return benchmark_steps.steps(names, cfg.schedules, cfg.dtypes, repeats, size, cfg.quick)


def memory_gradient(cfg: BenchmarkConfig) -> dict[str, Any]:
    """An update by k, on 8 segments of text and on sorting, beside its floors."""
    found, repeats, size = {}, *((3, 64) if cfg.quick else (cfg.repeats, 2048))
    of_text = language_modeling.PRESETS["gpt2-infinity-lasting"][1].model, slice(None)
    of_sorting = sorting.PRESETS["infinity-former"][1].model, slice(-1, None)
    tasks = [("language model", 8, *of_text), ("sorting", 17, *of_sorting)]
    if cfg.quick:
        tiny = dataclasses.replace(of_sorting[0], **benchmark_update.TINY)
        tasks = [("sorting", 2, tiny, slice(-1, None))]
    for task, number, model, weighted in tasks:
        updates = {
            k: benchmark_update.update(
                dataclasses.replace(model, memory_gradient=k), 4, number, weighted
            )
            for k in ((1,) if cfg.quick else (0, 1, 3, 7))
        }
        machine = Machine(size, sorted({kind for of in updates.values() for kind in of.operations}))
        runs = {k: of.run for k, of in updates.items()}
        seconds = interleaved(machine.variants | runs, repeats)
        rates = machine.rates(seconds)
        rows = found[f"{task}, {number} segments"] = {}
        for k, of in updates.items():
            median = statistics.median(seconds[k])
            rows[str(k)] = {
                "seconds": median, "temporaries_mib": of.temporaries / 2**20,
                "compile": of.compile, "program_bytes": of.program,
            } | floors(median, of.operations, of.moved, rates)  # fmt: skip
    return found


def generation(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of a token at a segment of context, B 1, and how often as many without a cache.

    Raises:
        RuntimeError: the forms do not say the same tokens.
    """
    model, said = benchmark_generation.model(cfg.quick), {}
    variants = benchmark_generation.variants(model)
    steps = {label: of.cost() for label, of in variants.items()}

    def run(label):
        said[label] = variants[label].say()

    turns = {label: partial(run, label) for label in variants}
    machine = Machine(
        64 if cfg.quick else 2048, sorted({k for of in steps.values() for k in of[0]})
    )
    seconds = interleaved(machine.variants | turns, 3 if cfg.quick else cfg.repeats)
    same, new = benchmark_generation.require_same(said), model.segment_len // 8
    cached, rates = seconds[benchmark_generation.CACHED], machine.rates(seconds)
    ratios = {
        label: statistics.median(b / a for a, b in zip(cached, seconds[label], strict=True))
        for label in variants
    }
    tokens = {label: statistics.median(seconds[label]) / new for label in variants}
    return {
        "context": model.segment_len, "tokens": new, "same": same,
        "seconds_per_token": tokens, "ratio": ratios,
        "floors": {label: floors(tokens[label], *steps[label][:2], rates) for label in variants},
        "program_bytes": {label: of[2] for label, of in steps.items()},
    }  # fmt: skip


def memory(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Each part of the sorting default's memory, ours and literally."""
    if cfg.quick:
        return benchmark_memory.memory(benchmark_memory.tiny(), 2, 3, 64)
    return benchmark_memory.memory(presets.infinity_former(), cfg.batch, cfg.repeats, 2048)


def memory_operators(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds to build write operators, and to compile the memory that they are for."""
    if cfg.quick:
        return benchmark_memory.operators({"tiny": benchmark_memory.tiny()}, 2, 64)
    return benchmark_memory.operators({
        "infinity_former": presets.infinity_former(),
        "gpt2_infinity_lasting": presets.gpt2_infinity_lasting(),
    }, cfg.batch, 2048)  # fmt: skip


MEASURES = {"gpt2": gpt2, "stream": stream, "steps": steps, "memory_gradient": memory_gradient,
            "generation": generation, "memory": memory, "operators": memory_operators}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.benchmark [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    cfg = cli.options("python -m experiments.benchmark", __doc__, BenchmarkConfig(), argv)
    with cli.refusals():
        for name in cfg.measure:
            if name not in MEASURES:
                raise ValueError(f"measure: found {name}, accepted: {', '.join(MEASURES)}")
        for name, least in (("repeats", 1), ("tokens", 2**12), ("batch", 1)):
            if getattr(cfg, name) < least:
                raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: {least} or more")
        benchmark_steps.check(cfg.presets, cfg.schedules, cfg.dtypes)
        folder = folders.made(cfg.out)
    said = folders.provenance("benchmark", "", argv) | {"settings": folders.to_json(cfg)}
    # Large pages change what a CPU needs for large arrays.
    said["glibc_tunables"] = os.environ.get("GLIBC_TUNABLES", "")
    with _optimised(not cfg.quick):
        for name in cfg.measure:
            found = {name: MEASURES[name](cfg)}
            folders.write_json(folder / f"{name}.json", said | {"found": found})
            report(found)
            drawn = plots_benchmark.draw(folder, found)
            print(", ".join(map(str, [folder / f"{name}.json", *drawn])))


@contextlib.contextmanager
def _optimised(whole):
    """Compile with JAX's optimisations, or with as few as it can."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", before or not whole)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


if __name__ == "__main__":
    main()
