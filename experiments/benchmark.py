"""Speed, measured: interleaved medians in one run, a table for people and JSON for programs.

    python -m experiments.benchmark [--measure NAMES] [--quick]

gpt2: one segment through GPT-2 small with a long-term memory and without, logits of all positions.
stream: time a segment and live memory along one document of a million tokens.
memory_gradient: an update of the sorting default whose gradient goes k segments back, and of the
language model, where every segment has loss.
generation: a greedy token with the cache, and by reading the open segment anew; the same tokens.
memory: the sorting default's memory by itself, read and write, beside the paper's formulas taken
literally (equal, or an error) and beside its matrix products at this machine's rate.
operators: seconds to build the write operators of two presets and to compile their memory.

Each measure has a file of its own, so that what another run measured stays with its commit.
"""

import dataclasses
import resource
import statistics
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import (
    benchmark_generation,
    benchmark_memory,
    benchmark_update,
    cli,
    language_modeling,
    runs,
    sorting,
)
from experiments.benchmark_report import report
from experiments.benchmark_timing import interleaved
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.training.step import memory_finite


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    measure: tuple[str, ...] = (
        "gpt2", "stream", "memory_gradient", "generation", "memory", "operators",
    )  # fmt: skip
    """Any of these."""
    repeats: int = 15
    """Runs of each variant, taken in turns; their median is reported."""
    tokens: int = 2**20
    """Length of the streamed document."""
    batch: int = 8
    """B of the measure memory: rows."""
    quick: bool = False
    """Tiny shapes and few repeats: that it runs, not how fast."""
    out: str = "runs/benchmark"
    """Folder of NAME.json of each measure."""


def _model(cfg: ModelConfig, rows: int):
    """(jitted segment, params, operators, memory) of random parameters."""
    decoder, ops, memory = Decoder(cfg), jax.device_put(operators(cfg)), state.init(cfg, rows)
    tokens = np.zeros((rows, cfg.segment_len), np.int32)
    params = jax.jit(decoder.init)(jax.random.key(0), tokens, memory, operators=ops)

    @jax.jit
    def segment(params, tokens, memory, ops):
        out = decoder.apply(params, tokens, memory, operators=ops)
        return out.logits, out.memory

    return segment, params, ops, memory


def gpt2(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of one segment of 512, B 1, whose memory holds something already."""
    changes = {"num_layers": 1, "d_model": 64, "num_heads": 2, "head_dim": 32, "d_inner": 256,
               "vocab_size": 1000, "segment_len": 64} if cfg.quick else {}  # fmt: skip
    variants = {}
    for label, make in (("plain", presets.gpt2), ("with memory", presets.gpt2_infinity)):
        model = make(**changes)
        segment, params, ops, memory = _model(model, 1)
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, (1, model.segment_len))
        for _ in range(3):
            _, memory = segment(params, tokens.astype(np.int32), memory, ops)
        variants[label] = partial(segment, params, tokens.astype(np.int32), memory, ops)
    seconds = interleaved(variants, 3 if cfg.quick else cfg.repeats)
    medians = {label: statistics.median(of) for label, of in seconds.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return {"seconds": medians, "ratio": statistics.median(ratios)}


def stream(cfg: BenchmarkConfig) -> dict[str, Any]:
    """One document through the CPU language model: seconds a segment near each power of two.

    Raises:
        RuntimeError: a retrace, a memory that is not finite, or a wrong number of writes.
    """
    model = language_modeling.PRESETS["gpt2-infinity-lasting"][1].model
    model = dataclasses.replace(model, num_layers=1) if cfg.quick else model
    segment, params, ops, memory = _model(model, 1)
    length, total = model.segment_len, 2**14 if cfg.quick else cfg.tokens
    rng, seconds, rows = np.random.default_rng(0), [], []
    for number in range(1, total // length + 1):
        tokens = rng.integers(0, model.vocab_size, (1, length)).astype(np.int32)
        begun = time.perf_counter()
        logits, memory = segment(params, tokens, memory, ops)
        jax.block_until_ready(logits)
        seconds.append(time.perf_counter() - begun)
        read = number * length
        if read >= 2**12 and read & (read - 1) == 0:
            rows.append({
                "tokens": read,
                "seconds_per_segment": statistics.median(seconds[-64:]),
                "live_mib": sum(array.nbytes for array in jax.live_arrays()) / 2**20,
                "host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
            })  # fmt: skip
    writes = int(memory.layers[0].long_term.writes[0])
    whole = segment._cache_size() == 1 and bool(memory_finite(memory)) and writes == number - 1
    if not whole:
        raise RuntimeError(
            f"stream: found {segment._cache_size()} programs, {writes} writes, finite "
            f"{bool(memory_finite(memory))}; expected 1, {number - 1}, True"
        )
    return {"rows": rows, "writes": writes}


def memory_gradient(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of an update and MiB of temporaries by k, on 8 segments of text and on sorting."""
    found, repeats = {}, 3 if cfg.quick else cfg.repeats
    text = language_modeling.PRESETS["gpt2-infinity-lasting"][1].model
    for task, model, weighted in (
        ("language model, 8 segments", text, slice(None)),
        ("sorting, 17 segments", sorting.PRESETS["infinity-former"][1].model, slice(-1, None)),
    ):
        number = 3 if cfg.quick else 8 if task.startswith("language") else 17
        variants, temporaries = {}, {}
        for k in (0, 1) if cfg.quick else (0, 1, 3, 7):
            tiny = benchmark_update.TINY if cfg.quick else {}
            of = dataclasses.replace(model, memory_gradient=k, **tiny)
            run, size = benchmark_update.update(of, 4, number, weighted)
            variants[k], temporaries[k] = run, size / 2**20
        seconds = interleaved(variants, repeats)
        found[task] = {
            str(k): {"seconds": statistics.median(seconds[k]), "temporaries_mib": temporaries[k]}
            for k in variants
        }
    return found


def generation(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of a token at a segment of context, B 1, and how often as many without a cache.

    Raises:
        RuntimeError: the forms do not say the same tokens.
    """
    model, said = benchmark_generation.model(cfg.quick), {}
    variants = benchmark_generation.variants(model)

    def run(label):
        said[label] = variants[label]()

    turns = {label: partial(run, label) for label in variants}
    seconds = interleaved(turns, 3 if cfg.quick else cfg.repeats)
    same, new = benchmark_generation.require_same(said), model.segment_len // 8
    cached = seconds[benchmark_generation.CACHED]
    ratios = {
        label: statistics.median(b / a for a, b in zip(cached, of, strict=True))
        for label, of in seconds.items()
    }
    tokens = {label: statistics.median(of) / new for label, of in seconds.items()}
    return {"context": model.segment_len, "tokens": new, "same": same,
            "seconds_per_token": tokens, "ratio": ratios}  # fmt: skip


def memory(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Each part of the sorting default's memory, ours and literally."""
    if cfg.quick:
        return benchmark_memory.memory(benchmark_memory.tiny(), 2, 3, 64)
    return benchmark_memory.memory(presets.infinity_former(), cfg.batch, cfg.repeats, 2048)


def memory_operators(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Seconds to build write operators, and to compile the memory that they are for."""
    if cfg.quick:
        return benchmark_memory.operators({"tiny": benchmark_memory.tiny()}, 2)
    return benchmark_memory.operators({
        "infinity_former": presets.infinity_former(),
        "gpt2_infinity_lasting": presets.gpt2_infinity_lasting(),
    }, cfg.batch)  # fmt: skip


MEASURES = {"gpt2": gpt2, "stream": stream, "memory_gradient": memory_gradient,
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
        folder = runs.made(cfg.out)
    said = runs.provenance("benchmark", "", argv) | {"settings": runs.to_json(cfg)}
    for name in cfg.measure:
        found = {name: MEASURES[name](cfg)}
        runs.write_json(folder / f"{name}.json", said | {"found": found})
        report(found)
        print(f"{folder}/{name}.json")


if __name__ == "__main__":
    main()
