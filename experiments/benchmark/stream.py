"""Cost and memory of a token along one endless document: both are to stay what they are."""

import resource
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmark.timing import Machine, floors, interleaved, operations
from inf_former_jax.memory import state
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.training.step import memory_finite

#: What live arrays, and the process, may grow by from the shortest context to the longest.
GROWTH, PROCESS_GROWTH = 1.01, 1.1


def model(cfg: ModelConfig, rows: int) -> tuple[Callable[..., Any], Any, Any, state.Memory]:
    """(jitted segment, params, operators, memory) of random parameters."""
    decoder, ops, memory = Decoder(cfg), jax.device_put(operators(cfg)), state.init(cfg, rows)
    tokens = np.zeros((rows, cfg.segment_len), np.int32)
    params = jax.jit(decoder.init)(jax.random.key(0), tokens, memory, operators=ops)

    @jax.jit
    def segment(params, tokens, memory, ops):
        out = decoder.apply(params, tokens, memory, operators=ops)
        return out.logits, out.memory

    return segment, params, ops, memory


def work(segment: Callable[..., Any], *arguments: Any) -> tuple[dict[str, int], int]:
    """(operations by kind, bytes of what it reads and writes) of one call of a jitted function."""
    traced = segment.trace(*arguments)
    leaves = jax.tree.leaves((arguments, traced.out_info))
    return operations(traced.jaxpr.jaxpr), sum(x.size * x.dtype.itemsize for x in leaves)


def stream(cfg: ModelConfig, total: int, size: int, timed: int) -> dict[str, Any]:
    """Time a segment after 4,096 tokens of a document, after twice as many, …, up to `total`.

    The document is read once; what is remembered at each context is kept on the host. Then every
    context's next segment is read in turns, so that all share the machine's better and worse
    times. Host memory is what the process occupies when the context has been read.

    Args:
        size: of the products that tell this machine's rate.
        timed: how often a context's next segment is read; their median is its time.

    Raises:
        RuntimeError: a retrace, a memory that is not finite, a wrong number of writes, or live
            arrays or a process that grow.
    """
    segment, params, ops, memory = model(cfg, 1)
    length, rng, rows, kept = cfg.segment_len, np.random.default_rng(0), [], {}
    for number in range(1, total // length + 1):
        tokens = rng.integers(0, cfg.vocab_size, (1, length)).astype(np.int32)
        _, memory = jax.block_until_ready(segment(params, tokens, memory, ops))
        context = number * length
        if context == 2 ** (12 + len(rows)):
            kept[context] = jax.device_get(memory)
            rows.append({
                "tokens": context,
                "live_mib": sum(array.nbytes for array in jax.live_arrays()) / 2**20,
                "host_mib": host_bytes() / 2**20,
            })  # fmt: skip
    require_whole(rows, segment._cache_size(), memory, total // length - 1)
    of_segment = work(segment, params, tokens, memory, ops)
    machine = Machine(size, sorted(of_segment[0]))
    kept = jax.device_put(kept)
    variants = {
        context: partial(segment, params, tokens, memory, ops) for context, memory in kept.items()
    }
    # Apart from products of a size that leaves nothing of the first context's in a cache.
    seconds = interleaved(variants, timed)
    rates = machine.rates(interleaved(machine.variants, 5))
    for row in rows:
        median = statistics.median(seconds[row["tokens"]])
        row |= {"seconds_per_segment": median, "seconds_per_token": median / length}
        row |= floors(median, *of_segment, rates)
    times = [row["seconds_per_segment"] for row in rows]
    spread = max(times) / min(times) - 1
    return {"rows": rows, "writes": total // length - 1, "segment": length, "timed": timed,
            "rates": rates, "spread": spread}  # fmt: skip


def require_whole(
    rows: list[dict[str, Any]], programs: int, memory: state.Memory, writes: int
) -> None:
    """Nothing grew, was compiled anew, was lost or is no number.

    Raises:
        RuntimeError: something did.
    """
    found = int(memory.layers[0].long_term.writes[0])
    if not (programs == 1 and bool(memory_finite(memory)) and found == writes):
        raise RuntimeError(
            f"stream: found {programs} programs, {found} writes, finite "
            f"{bool(memory_finite(memory))}; expected 1, {writes}, True"
        )
    for name, most in (("live_mib", GROWTH), ("host_mib", PROCESS_GROWTH)):
        first, last = rows[0][name], rows[-1][name]
        if last > most * first:
            raise RuntimeError(
                f"stream: {name}: found {last:.1f} after {first:.1f}; expected no growth"
            )


def host_bytes() -> int:
    """What the process occupies now; where that is not known, at most until now."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
