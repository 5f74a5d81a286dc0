"""What a trained model does with its memory: where it attends, what its gate lets through.

    python -m experiments.analysis memory --run FOLDER [--options]

Reads test sequences with the newest checkpoint of a run of `experiments.sorting`, or the beginnings
of test documents with one of `experiments.language_modeling`. It reports on the last segment that
is read; in sorting, on the answers in it. The figures are each head's densities over the memory's
time and over the age of what was written, the size of the memory's context relative to the local
attention's, and the gate's values at all writes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.analysis import plots
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.corpora import tokenized
from experiments.language_modeling.start import tokenizer_of_run
from experiments.run import cli, folders, tables, training
from experiments.run.config import RunConfig
from experiments.sorting.config import SortingConfig
from experiments.sorting.data import run_batch
from inf_former_jax.fields import Checked, Count, Required
from inf_former_jax.memory import state
from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.density import Density, bin_mass
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.models.gate import gate_values
from inf_former_jax.models.projections import from_heads
from inf_former_jax.require import require

_TIME_BINS = 64


@dataclasses.dataclass(frozen=True)
class MemoryConfig(Checked):
    """Which run is looked at."""

    run: Annotated[str, Required("the folder of a run")] = ""
    """Folder of a run of sorting or language modelling of a model with a long-term memory."""
    sequences: Count = 64
    """Test sequences that are read; of text at most as many documents as are long enough."""
    segments: Count = 65
    """Of text: segments of each document."""
    out: str = ""
    """Where the figures and the picture go; "" = the run's folder."""


class Use(NamedTuple):
    """What a layer does with its memory in one segment."""

    density: Density  # of each query, [B, H, T]
    share: Float[Array, "B T"]  # |context of the memory| / |context of local attention|
    gate: Float[Array, "B L E"] | None  # values at the write before it; None without a gate


#: Modules of a block, and the methods that return their context.
_CONTEXTS = {"attention": "__call__", "long_term": "attend"}


def _captured(module, method: str) -> bool:
    return _CONTEXTS.get(module.name) == method


@partial(jax.jit, static_argnums=0)
def _read_segment(decoder: Decoder, params, memory, tokens, ops, key):
    """Read one segment: (memory, each layer's `Use`)."""
    options = {"capture_intermediates": _captured, "mutable": ["intermediates"]}
    inputs, rngs = ({"params": params}, tokens, memory), {"locations": key}
    out, collections = decoder.apply(*inputs, operators=ops, rngs=rngs, **options)
    uses = []
    for j, layer in enumerate(memory.layers):
        block = collections["intermediates"][f"block_{j}"]
        local = block["attention"]["__call__"][0]
        found, _ = block["long_term"]["attend"][0]
        context = _context(params[f"block_{j}"], found)
        share = jnp.linalg.norm(context, axis=-1) / jnp.linalg.norm(local, axis=-1)
        gate = params[f"block_{j}"]["long_term"].get("gate")
        if gate is not None:
            written = state.pending(decoder.cfg, layer)
            gate = gate_values(gate["kernel"], gate["bias"], written)
        uses.append(Use(out.info[j]["density"], share, gate))
    return out.memory, uses


def _context(block: Any, found: Any) -> Float[Array, "B T E"]:
    """What the memory adds; of one that is joined, what it would add if it were read alone."""
    if found.context is not None:
        return found.context
    assert found.joined is not None
    return from_heads(jnp.swapaxes(found.joined.value, 0, 1), block["attention"]["out"])


def _heads(cfg: LongTermConfig, densities: Density, writes: int) -> list[dict[str, Any]]:
    """Of each head: its densities' middle and width, and their mass by time and by age."""
    times, found = np.linspace(0, 1, _TIME_BINS + 1), []
    for head in range(densities.mean.shape[1]):
        density = densities.part(slice(head, head + 1))
        scales = np.sqrt(np.asarray(density.var))
        mass = np.asarray(bin_mass(density, _TIME_BINS)).mean(0)
        earlier = np.interp(segment_edges(cfg, writes), times, np.append(0, np.cumsum(mass)))
        # The edges of segments in a sticky memory are not known.
        by_age = [] if cfg.sticky else np.diff(earlier)[::-1]
        found.append(
            {
                "mean": float(density.mean.mean()),
                "mean_spread": float(density.mean.std()),
                "scale": float(np.median(scales)),
                "scale_quartiles": [float(q) for q in np.quantile(scales, (0.25, 0.75))],
                "mass_by_time": [round(float(m), 6) for m in mass],
                "mass_by_age": [round(float(m), 6) for m in by_age],
            }
        )
    return found


def _gate(values: Sequence[Float[Array, "B L E"] | None]) -> dict[str, Any] | None:
    """Summary of a layer's gate over all writes; None without one."""
    arrays = [np.asarray(value).ravel() for value in values if value is not None]
    if not arrays:
        return None
    joined = np.concatenate(arrays)
    low, middle, high = (float(q) for q in np.quantile(joined, (0.1, 0.5, 0.9)))
    return {"mean": float(joined.mean()), "median": middle, "deciles": [low, high]}


def _sequences(
    run: Path, sequences: int, segments: int
) -> tuple[RunConfig, Any, Int[np.ndarray, "B W T"], Bool[np.ndarray, " T"]]:
    """(config, params, test sequences, which tokens of their last segment are looked at)."""
    if "tokenizer" not in folders.read_config(run):
        cfg, _, params, _ = training.load(SortingConfig, run, ("params",))
        batch = run_batch(cfg, "test", np.arange(sequences))
        return cfg, params, batch.tokens, batch.weights[0, -1] > 0
    cfg, _, params, _ = training.load(LanguageModelingConfig, run, ("params",))
    tokenizer, length = tokenizer_of_run(run), cfg.model.segment_len
    limits = {"test": cfg.test_characters}
    test = tokenized(cfg.data, tokenizer, cfg.cache, limits, cfg).splits["test"]
    sizes = np.diff(test.starts)
    long = test.starts[:-1][sizes >= segments * length]
    accepted = f"at most {sizes.max() // length}, the longest test"
    require(len(long) > 0, "segments", segments, accepted)
    places = long[:sequences, None] + np.arange(segments * length)
    tokens = test.at(places).reshape(len(places), segments, length)
    return cfg, params, tokens, np.ones(length, bool)


def look(run: Path, sequences: int = 64, segments: int = 65) -> dict[str, Any]:
    """What the run's model does with its memory on `sequences` test sequences, as JSON has it.

    Raises:
        ValueError: no run, or a model without a long-term memory, or a document without a write.
    """
    cfg, params, tokens, asked = _sequences(run, sequences, segments)
    model, long_term, empty = cfg.model, cfg.model.long_term, cfg.objective.empty_memory
    if long_term is None:
        raise ValueError(f"run: found {run}, without a long-term memory, accepted: one with it")
    sequences, segments = tokens.shape[:2]
    writes = segments - state.fifo_len(model) // model.segment_len
    require(writes >= 1, "run", f"{run}, too short for a write", "a longer one")
    writes = 1 if empty else writes
    decoder, memory = Decoder(model), state.init(model, sequences)
    ops, uses = jax.device_put(operators(model)), []
    for w in range(segments):
        if empty:
            memory = state.empty_long_term(model, memory)
        key = jax.random.key(w)
        memory, by_layer = _read_segment(decoder, params, memory, tokens[:, w], ops, key)
        uses.append(by_layer)
    layers = []
    for layer in zip(*uses[-writes:], strict=True):
        density, share, _ = layer[-1]
        at_answers = density.part(slice(None), asked)
        layers.append(
            {
                "heads": _heads(long_term, at_answers, writes),
                "context_to_local": float(np.asarray(share)[:, asked].mean()),
                "gate": _gate([use.gate for use in layer]),
            }
        )
    return {"writes": writes, "sequences": sequences, "layers": layers}


def report(found: Mapping[str, Any]) -> None:
    """Print a row for each head: where it looks, how widely, how old what it sees is."""
    rows = []
    for j, layer in enumerate(found["layers"]):
        gate = "none" if layer["gate"] is None else f"{layer['gate']['mean']:.2f}"
        for h, head in enumerate(layer["heads"]):
            age = np.array(head["mass_by_age"])
            quarter = max(1, len(age) // 4)
            ends = (age[:quarter], age[-quarter:])
            cells = [f"{head['mean']:.2f} ± {head['mean_spread']:.2f}", f"{head['scale']:.3f}"]
            cells += [f"{end.sum():.2f}" if len(age) else "" for end in ends]
            rows.append((str(j), str(h), *cells, f"{layer['context_to_local']:.2f}", gate))
    title = f"the memory in the last segment, after {found['writes']} writes"
    header = ("layer", "head", "μ", "σ", "newest ¼", "oldest ¼", "context/local", "gate")
    tables.show(title, header, rows, 110)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis memory --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.analysis memory", __doc__, MemoryConfig(), argv)
    with cli.refusals():
        folder = folders.make(cfg.out or cfg.run)
        found = look(Path(cfg.run), cfg.sequences, cfg.segments)
    origin = folders.provenance("analysis", "memory", ["memory", *argv])
    folders.write_json(folder / "memory.json", {**origin, **found})
    report(found)
    plots.heads(folder / "memory.png", found)
    print(f"{folder}/memory.json, {folder}/memory.png")
