"""What a trained model does with its memory: where it attends, what its gate lets through.

    python -m experiments.analysis memory --run FOLDER [--options]

Reads test sequences with the newest checkpoint of a run of `experiments.sorting` or
`experiments.recall`, or the beginnings of test documents with one of
`experiments.language_modeling`. It reports on the last segment that is read; in sorting, on the
answers in it, in recall, on the keys that are asked. The figures are each head's densities over the
memory's time and over the age of what was written, the size of the memory's context relative to the
local attention's, and the gate's values at all writes.

Of recall it also says whether a head reads the segment that is asked for: the mass of its densities
by the age that is asked and the age of what is read, in segments. The newest write has age m + 1
with a short-term memory of m segments. Of sticky memories no ages are known.
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

from experiments.analysis import asked, plots
from experiments.analysis.asked import Questions
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.corpora import tokenized
from experiments.language_modeling.start import tokenizer_of_run
from experiments.recall import data as recall
from experiments.recall.config import RecallConfig
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
    """Folder of a run of sorting, recall or language modelling, with a long-term memory."""
    sequences: Count = 64
    """Test sequences that are read; of text at most as many documents as are long enough."""
    segments: Count = 65
    """Of text: segments of each document."""
    out: str = ""
    """Where the figures and the pictures go; "" = the run's folder."""


class Use(NamedTuple):
    """What a layer does with its memory in one segment."""

    density: Density  # of each query, [B, H, T]
    share: Float[Array, "B T"]  # |context of the memory| / |context of local attention|
    gate: Float[Array, "B L E"] | None  # values at the write before it; None without a gate


#: Modules of a block, and the methods that return their context.
_CONTEXTS = {"attention": "output", "long_term": "attend"}


def _captured(module, method: str) -> bool:
    return _CONTEXTS.get(module.name) == method


@partial(jax.jit, static_argnums=0)
def _read_segment(decoder: Decoder, params, memory, tokens, ops, key):
    """Read one segment: (memory, the `Use` of each layer that has one)."""
    options = {"capture_intermediates": _captured, "mutable": ["intermediates"]}
    inputs, rngs = ({"params": params}, tokens, memory), {"locations": key}
    out, collections = decoder.apply(*inputs, operators=ops, rngs=rngs, **options)
    uses = []
    for j, layer in enumerate(memory.layers):
        if layer.long_term is None:
            continue
        block = collections["intermediates"][f"block_{j}"]
        local = block["attention"]["output"][0]
        found, _ = block["long_term"]["attend"][0]
        context = _context(params[f"block_{j}"], found)
        share = jnp.linalg.norm(context, axis=-1) / jnp.linalg.norm(local, axis=-1)
        gate = params[f"block_{j}"].get("long_term", {}).get("gate")
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


class Sequences(NamedTuple):
    """What a run's model reads."""

    tokens: Int[np.ndarray, "B W T"]
    looked_at: Bool[np.ndarray, " T"]  # which tokens of the last segment the figures are of
    ages: Int[np.ndarray, "B Q"] | None = None  # of recall: of the Q questions, which are these


def sequences_of(run: Path, sequences: int, segments: int) -> tuple[RunConfig, Any, Sequences]:
    """(config, params, test sequences) of a run, which its settings tell apart.

    Args:
        sequences: how many; of text at most as many documents as have so many segments.

    Raises:
        ValueError: no run, one of another experiment, or no document that is long enough.
    """
    fields = folders.read_config(run)
    if "piece" in fields:
        return _texts(run, sequences, segments)
    if "num_keys" in fields.get("task", {}):
        return _recall(run, sequences)
    if "length" in fields:
        return _sorting(run, sequences)
    accepted = "one of sorting, recall or language_modeling"
    raise ValueError(f"run: found {run}, of another experiment, accepted: {accepted}")


def _sorting(run: Path, sequences: int) -> tuple[RunConfig, Any, Sequences]:
    """(config, params, test sequences), of which the answers are looked at."""
    cfg, _, params, _ = training.load(SortingConfig, run, ("params",))
    batch = run_batch(cfg, "test", np.arange(sequences))
    return cfg, params, Sequences(batch.tokens, batch.weights[0, -1] > 0)


def _recall(run: Path, sequences: int) -> tuple[RunConfig, Any, Sequences]:
    """(config, params, test documents), of which all ask at the same places."""
    cfg, _, params, _ = training.load(RecallConfig, run, ("params",))
    length = cfg.model.segment_len
    documents = recall.generate(cfg.seed, "test", range(sequences), cfg.task, length)
    ages = documents.ages[:, -length:]
    questions = ages[0] > 0
    tokens = recall.batch(documents, length).tokens
    return cfg, params, Sequences(tokens, questions, ages[:, questions])


def _texts(run: Path, sequences: int, segments: int) -> tuple[RunConfig, Any, Sequences]:
    """(config, params, beginnings of test documents) of a run of language modelling."""
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
    return cfg, params, Sequences(tokens, np.ones(length, bool))


def look(run: Path, sequences: int = 64, segments: int = 65) -> dict[str, Any]:
    """What the run's model does with its memory on `sequences` test sequences, as JSON has it.

    Raises:
        ValueError: no run, or a model without a long-term memory, or a document without a write.
    """
    cfg, params, (tokens, looked_at, ages) = sequences_of(run, sequences, segments)
    model, long_term, empty = cfg.model, cfg.model.long_term, cfg.objective.empty_memory
    if long_term is None:
        raise ValueError(f"run: found {run}, without a long-term memory, accepted: one with it")
    sequences, segments = tokens.shape[:2]
    newest = state.fifo_len(model) // model.segment_len  # age in segments of the newest write
    writes = segments - newest
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
    layers, questions = [], None
    if ages is not None and not long_term.sticky:
        questions = Questions(ages, range(newest, newest + writes))
    numbers = filter(model.remembers, range(model.num_layers))
    for number, layer in zip(numbers, zip(*uses[-writes:], strict=True), strict=True):
        density, share, _ = layer[-1]
        at_answers = density.part(slice(None), looked_at)
        heads = _heads(long_term, at_answers, writes)
        if questions is not None:
            for h, head in enumerate(heads):
                one = at_answers.part(slice(h, h + 1))
                head.update(asked.of_head(long_term, one, questions))
        layers.append(
            {
                "layer": number,
                "heads": heads,
                "context_to_local": float(np.asarray(share)[:, looked_at].mean()),
                "gate": _gate([use.gate for use in layer]),
            }
        )
    named = {} if questions is None else questions.figures()
    return {"writes": writes, "sequences": sequences, **named, "layers": layers}


def heads_table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(header, a row for each head): where it looks, how widely, how old what it sees is."""
    rows = []
    for layer in found["layers"]:
        gate = "none" if layer["gate"] is None else f"{layer['gate']['mean']:.2f}"
        for h, head in enumerate(layer["heads"]):
            age = np.array(head["mass_by_age"])
            quarter = max(1, len(age) // 4)
            ends = (age[:quarter], age[-quarter:])
            cells = [f"{head['mean']:.2f} ± {head['mean_spread']:.2f}", f"{head['scale']:.3f}"]
            cells += [f"{end.sum():.2f}" if len(age) else "" for end in ends]
            rows.append(
                (str(layer["layer"]), str(h), *cells, f"{layer['context_to_local']:.2f}", gate)
            )
    return ("layer", "head", "μ", "σ", "newest ¼", "oldest ¼", "context/local", "gate"), rows


def report(found: Mapping[str, Any]) -> None:
    """Print the table of the heads, and of recall where they look for each age."""
    title = f"the memory in the last segment, after {found['writes']} writes"
    tables.show(title, *heads_table(found), 110)
    if "asked_ages" in found:
        _report_asked(found)


def _report_asked(found: Mapping[str, Any]) -> None:
    """Print a row for each head and asked age: the mass on each age of what was written."""
    rows, written = [], found["written_ages"]
    for layer in found["layers"]:
        for h, head in enumerate(layer["heads"]):
            for age, mass in zip(found["asked_ages"], head["mass_by_asked_age"], strict=True):
                rows.append((str(layer["layer"]), str(h), str(age), *(f"{m:.2f}" for m in mass)))
    title = "mass by the age that is asked and by the age of what is read, in segments"
    tables.show(title, ("layer", "head", "asked", *map(str, written)), rows, 40 + 7 * len(written))


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis memory --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.analysis memory", __doc__, MemoryConfig(), argv)
    with cli.refusals():
        folders.read_config(Path(cfg.run))
        folder = folders.make(cfg.out or cfg.run)
        found = look(Path(cfg.run), cfg.sequences, cfg.segments)
    origin = folders.provenance("analysis", "memory", ["memory", *argv])
    folders.write_json(folder / "memory.json", {**origin, **found})
    report(found)
    plots.heads(folder / "memory.png", found)
    written = ["memory.json", "memory.png"]
    if "asked_ages" in found:
        plots.asked(folder / "asked.png", found)
        written.append("asked.png")
    print(", ".join(f"{folder}/{name}" for name in written))
