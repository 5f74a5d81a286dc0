"""Inference: a segment of GPT-2 small, a document of a million tokens, and greedy tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.timing import TINY, BenchmarkConfig, Case, compile_case, race, ratio
from experiments.language_modeling.config import PRESETS
from experiments.run.room import host_bytes
from inf_former_jax.generate import decoding, generate, start
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.require import require
from inf_former_jax.training.step import all_finite

#: What live arrays, and the process, may grow by from the shortest context to the longest.
GROWTH = {"live_mib": 1.01, "host_mib": 1.1}

CACHED, HALF = "with the cache", ", bfloat16"

#: Two logits this near are a tie: their order is the rounding's (TF32's, on an accelerator).
TIE = 1e-3


def random_segments(model: ModelConfig, count: int) -> np.ndarray:
    """Segments of random tokens, one after the other: [count, 1, T]."""
    shape = (count, 1, model.segment_len)
    return np.random.default_rng(0).integers(0, model.vocab_size, shape, np.int32)


def reader(model: ModelConfig) -> tuple[Case, Decoder, Any, Any, state.Memory]:
    """(a case that reads a segment of one row, its decoder, random params, operators, memory).

    Its program maps (params, operators, tokens, memory) to (logits, memory).
    """
    decoder, ops, memory = Decoder(model), jax.device_put(operators(model)), state.init(model, 1)
    key, (tokens,) = jax.random.key(0), random_segments(model, 1)
    params = jax.jit(decoder.init)(key, tokens, memory, operators=ops)["params"]

    def read(params, ops, tokens, memory):
        out: Any = decoder.apply({"params": params}, tokens, memory, operators=ops)
        return out.logits, out.memory

    case = compile_case(jax.jit(read), params, ops, tokens, memory)
    return case, decoder, params, ops, memory


def gpt2(cfg: BenchmarkConfig) -> dict[str, Any]:
    """A segment through GPT-2 small, plain and with a memory that was written to; all logits."""
    cases = {}
    for label, preset in (("plain", presets.gpt2), ("with memory", presets.gpt2_infinity)):
        model = preset(**TINY if cfg.quick else {})
        case, _, params, ops, memory = reader(model)
        *earlier, last = random_segments(model, 4)
        for tokens in earlier:
            _, memory = case.compiled(params, ops, tokens, memory)
        cases[label] = case._replace(run=partial(case.compiled, params, ops, last, memory))
    rows, seconds, rates = race(cases, cfg)
    medians = {label: row["seconds"] for label, row in rows.items()}
    paired = ratio(seconds["with memory"], seconds["plain"])
    return {"seconds": medians, "ratio": paired, "rates": rates, "floors": rows}


def smollm2(cfg: BenchmarkConfig) -> dict[str, Any]:
    """A segment of 256 through SmolLM2-135M, and a token after it: plain, and with 512 cells.

    Both have a window of 512; half of the layers have the cells. The memory was written to: it
    costs the same after any number of tokens. Each is timed in float32 and in bfloat16, and a ratio
    is that to the plain model in the same dtype.
    """
    tiny: dict[str, Any] = {}
    if cfg.quick:
        tiny = {**TINY, "num_layers": 2, "num_kv_heads": 1, "mem_len": TINY["segment_len"]}
    layers = {"long_term_layers": (1,)} if cfg.quick else {}
    made: dict[str, ModelConfig] = {}
    for suffix, dtype in (("", "float32"), (HALF, "bfloat16")):
        window = {"mem_len": 512, **tiny, "dtype": dtype}
        made["plain" + suffix] = presets.smollm2(**window)
        made["with memory" + suffix] = presets.smollm2_infinity(**window, **layers)
    cases = {}
    for label, model in made.items():
        case, decoder, params, ops, memory = reader(model)
        *earlier, last = random_segments(model, 5)
        for tokens in earlier:
            _, memory = case.compiled(params, ops, tokens, memory)
        cases["a segment", label] = case._replace(
            run=partial(case.compiled, params, ops, last, memory)
        )
        half = last[:, : model.segment_len // 2]
        cached, write, opened = cached_token(decoder, params, ops, memory, half)
        new = model.segment_len // 8
        cases["a token", label] = cached._replace(
            run=partial(write, opened, half[:, :0], new), executions=new
        )
    timed, seconds, rates = race(cases, cfg)
    rows = [
        {"what": what, "label": label, **timed[what, label]}
        | {"ratio": ratio(seconds[what, label], seconds[what, _plain(label)])}
        for what, label in cases
    ]
    return {"rows": rows, "rates": rates}


def _plain(label: str) -> str:
    """The label of the same without a memory."""
    return label.replace("with memory", "plain")


def cached_token(
    decoder: Decoder, params: Any, ops: Any, memory: state.Memory, tokens: np.ndarray
) -> tuple[Case, Callable[..., Any], decoding.DecodeState]:
    """(a case of one token with the cache, what writes greedily, the state after these tokens)."""
    key = jax.random.key(0)
    write = partial(generate, decoder, params, key=key, operators=ops, temperature=0)
    _, opened = write(start(decoder, 1)._replace(memory=memory), tokens, 0)
    constants = decoding.Constants(ops, decoding.distances(decoder, params), key)
    piece = decoding.Piece(jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))
    # A cached token neither opens a segment nor fills it: it takes the other branch of both.
    case = compile_case(
        decoding.extend, decoder, params, opened, piece, constants, 0, taken=[(1, 0), (1, 0)]
    )
    # It needs no operators, and overwrites next to nothing of the state.
    unused = sum(leaf.nbytes for leaf in jax.tree.leaves((ops, opened)))
    return case._replace(moved=case.moved - unused), write, opened


def stream(cfg: BenchmarkConfig) -> dict[str, Any]:
    """Time a segment and live memory along one document of a million tokens.

    The document is read once, and the memory that it leaves after 4,096 tokens, 8,192, 16,384, … is
    kept on the host. Then the next segment of all these contexts is read in turns, so that they
    share the machine's better and worse times. Host memory is what the process occupies when the
    context has been read.
    """
    model, total = PRESETS["gpt2-infinity-lasting"][1].model, cfg.tokens
    if cfg.quick:
        model, total = replace(model, num_layers=1), 2**14
    case, _, *constants, memory = reader(model)
    read = partial(case.compiled, *constants)
    length, segments = model.segment_len, random_segments(model, total // model.segment_len)
    rows: dict[int, dict[str, Any]] = {}
    kept = {}
    for number, tokens in enumerate(segments, start=1):
        # Compiled once and for all: it refuses a memory of another shape or dtype.
        _, memory = jax.block_until_ready(read(tokens, memory))
        context = number * length
        if context == 2 ** (12 + len(rows)):
            kept[context] = jax.device_get(memory)
            live = sum(array.nbytes for array in jax.live_arrays()) / 2**20
            rows[context] = {"tokens": context, "live_mib": live, "host_mib": host_bytes() / 2**20}
    require_whole([*rows.values()], memory, len(segments) - 1)
    # The first context is read twice: before the first time, the probes have emptied the caches.
    kept = jax.device_put({0: kept[4096]} | kept)
    runs = {context: partial(read, segments[-1], memory) for context, memory in kept.items()}
    cases = {context: case._replace(run=run) for context, run in runs.items()}
    timed, seconds, rates = race(cases, replace(cfg, repeats=256))
    for context, row in rows.items():
        row |= timed[context]
        row |= {"seconds_per_segment": row["seconds"], "seconds_per_token": row["seconds"] / length}
    medians = [row["seconds"] for row in rows.values()]
    turns, spread = len(seconds[0]), max(medians) / min(medians) - 1
    facts = {"writes": len(segments) - 1, "segment": length, "timed": turns, "spread": spread}
    return {"rows": [*rows.values()], "rates": rates, **facts}


def require_whole(rows: Sequence[Mapping[str, float]], memory: state.Memory, writes: int) -> None:
    """Refuse a stream that lost a write, holds a NaN or infinity, or took more room later."""
    long_term: Any = state.long_term_of(memory)
    found, finite = int(long_term.writes[0]), bool(all_finite(memory))
    whole = finite and found == writes
    require(whole, "stream", f"{found} writes, finite {finite}", f"{writes} writes, finite True")
    for name, most in GROWTH.items():
        first, last = rows[0][name], rows[-1][name]
        grown = f"{last:.1f} after {first:.1f}"
        require(last <= most * first, f"stream: {name}", grown, "no growth")


def generation(cfg: BenchmarkConfig) -> dict[str, Any]:
    """A greedy token with the cache, and by reading the open segment anew; the same tokens."""
    sizes: dict[str, Any] = {"num_layers": 4, "num_heads": 4, "head_dim": 64, "d_model": 256}
    sizes |= {"d_inner": 1024, "vocab_size": 2048, "segment_len": 512}
    model = presets.gpt2_infinity_lasting(**TINY if cfg.quick else sizes)
    if cfg.quick and model.long_term:
        small = replace(model.long_term, num_basis=64, num_samples=64)
        model = replace(model, long_term=small)
    cases = forms(model)
    rows, seconds, _ = race(cases, cfg)
    return {
        "context": model.segment_len,
        "tokens": model.segment_len // 8,
        "same": require_same({label: case.run() for label, case in cases.items()}),
        "seconds_per_token": {label: row["seconds"] for label, row in rows.items()},
        "ratio": {label: ratio(seconds[label], seconds[CACHED]) for label in cases},
        "floors": rows,
        "program_bytes": {label: row["program_bytes"] for label, row in rows.items()},
    }


def forms(model: ModelConfig) -> dict[str, Case]:
    """Label → a case that generates the last eighth of a document's fourth segment, greedily.

    Each execution gives one token. With the cache it is one `decoding.extend`. Recomputed, it is
    `Decoder` on the segment so far, padded to its length, with its write and all logits; or the
    same without these two, on the memory as it was written when the segment began. A run returns
    the tokens [1, new] and, if recomputed, by how much each logit led the second best.
    """
    case, decoder, params, ops, memory = reader(model)
    apply: Any = decoder.apply
    *earlier, segment = random_segments(model, 4)
    for tokens in earlier:
        _, memory = case.compiled(params, ops, tokens, memory)
    new = model.segment_len // 8
    cached, write, opened = cached_token(decoder, params, ops, memory, segment[:, :-new])
    segment = jnp.asarray(segment).at[:, -new:].set(0)

    def whole(tokens, count, params, memory, ops):
        return apply({"params": params}, tokens, memory, operators=ops).logits[0, count - 1]

    def last(tokens, count, params, memory, cache):
        position, distances = jnp.zeros(1, jnp.int32), (None,) * model.num_layers
        arguments = tokens, count[None], position, memory, cache, distances
        return apply({"params": params}, *arguments, method="extend").logits[0]

    anew = recomputed(whole, segment, new, params, memory, ops)
    once = recomputed(last, segment, new, params, opened.memory, opened.cache)
    # A write needs the operators of one number of writes.
    table = sum(leaf.nbytes for leaf in jax.tree.leaves(ops))
    row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(ops))
    return {
        CACHED: cached._replace(
            run=lambda: (np.asarray(write(opened, segment[:, :0], new)[0]), np.zeros(new)),
            executions=new,
        ),
        "recomputed": anew._replace(moved=anew.moved - table + row),
        "recomputed, memory written once": once,
    }


def recomputed(logits: Callable[..., Any], segment: jax.Array, new: int, *arguments: Any) -> Case:
    """Fills the last `new` places of a segment, each by `logits` of all that is before it."""

    @jax.jit
    def step(tokens, count, *arguments):
        (best, second), ids = jax.lax.top_k(logits(tokens, count, *arguments), 2)
        return tokens.at[0, count].set(ids[0]), best - second

    case = compile_case(step, segment, jnp.int32(0), *arguments)

    def run():
        tokens, leads = segment, []
        for count in range(segment.shape[1] - new, segment.shape[1]):
            tokens, lead = case.compiled(tokens, jnp.int32(count), *arguments)
            leads.append(lead)
        return np.asarray(tokens[:, -new:]), np.array(leads)

    return case._replace(run=run, executions=new)


def require_same(written: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """How many tokens all forms have in common: all of them, or those before the first tie.

    The first token that differs is refused (ValueError) if it led by more than TIE.
    """
    cached, same = written[CACHED][0][0], written[CACHED][0].shape[1]
    for label, (tokens, leads) in written.items():
        for place in np.flatnonzero(tokens[0] != cached)[:1]:
            what, found = f"generation: token {place} of {len(cached)}", f"{cached[place]} {CACHED}"
            accepted = f"{tokens[0, place]}, {label}, which leads by {leads[place]:.1e}"
            require(bool(0 <= leads[place] <= TIE), what, found, accepted)
            same = min(same, int(place))
    return same
