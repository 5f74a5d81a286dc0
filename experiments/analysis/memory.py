"""What a trained model does with its memory: where it attends, what its gate lets through.

    python -m experiments.analysis memory --run FOLDER [--options]

Reads test sequences with the newest checkpoint of a run of `experiments.sorting`, or the beginnings
of test documents with one of `experiments.language_modeling`. Of the last segment that is read (in
sorting, where the answers are): each head's densities over the memory's time, and over the age of
what was written; how large the memory's context is beside the local attention's; the gate's values
at all writes.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.corpora import tokenized
from experiments.language_modeling.start import tokenizer_of_run
from experiments.run import cli, folders, plots, training
from experiments.sorting import task as sorting_task
from experiments.sorting.config import SortingConfig
from inf_former_jax.memory import state
from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.density import GaussianDensity, bin_mass
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.models.gate import gate_values

_TIME_BINS = 64


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Which run is looked at."""

    run: str = ""
    """Folder of a run of sorting or language modelling of a model with a long-term memory."""
    sequences: int = 64
    """Test sequences that are read; of text at most as many documents as are long enough."""
    segments: int = 65
    """Of text: segments of each document."""
    out: str = ""
    """Where the figures and the picture go; "" = the run's folder."""


def _captured(module, method):
    return module.name in ("attention", "long_term") and method == "__call__"


@partial(jax.jit, static_argnums=0)
def _read_segment(decoder: Decoder, params, memory, tokens, ops, key):
    """One segment: (memory, and by layer: densities, |context| beside |local|, gate values)."""
    out, captured = decoder.apply(
        {"params": params}, tokens, memory, operators=ops,
        capture_intermediates=_captured, mutable=["intermediates"], rngs={"locations": key},
    )  # fmt: skip
    shares, gates = [], []
    for j, layer in enumerate(memory.layers):
        of_block = captured["intermediates"][f"block_{j}"]
        context, local = (of_block[n]["__call__"][0][0] for n in ("long_term", "attention"))
        shares.append(jnp.linalg.norm(context, axis=-1) / jnp.linalg.norm(local, axis=-1))
        gate = params[f"block_{j}"]["long_term"].get("gate")
        pending = state.pending(decoder.cfg, layer)
        gates.append(None if gate is None else gate_values(gate["kernel"], gate["bias"], pending))
    return out.memory, [info["density"] for info in out.info], shares, gates


def _heads(cfg, densities, writes):
    """Of each head: its densities' middle and width, and their mass by time and by age."""
    borders = segment_edges(cfg, writes)
    found = []
    for head in range(densities.mean.shape[1]):
        of_head = GaussianDensity(*(field[:, head : head + 1] for field in densities))
        mass = np.asarray(bin_mass(of_head, _TIME_BINS)).mean(0)
        times = np.linspace(0, 1, _TIME_BINS + 1)
        by_age = np.diff(np.interp(borders, times, np.append(0, np.cumsum(mass))))[::-1]
        if cfg.sticky:  # its borders are elsewhere
            by_age = np.zeros(0)
        scales = np.sqrt(np.asarray(of_head.var))
        found.append(
            {
                "mean": float(of_head.mean.mean()),
                "mean_spread": float(of_head.mean.std()),
                "scale": float(np.median(scales)),
                "scale_quartiles": [float(q) for q in np.quantile(scales, (0.25, 0.75))],
                "mass_by_time": [round(float(m), 6) for m in mass],
                "mass_by_age": [round(float(m), 6) for m in by_age],
            }
        )
    return found


def _gate(values):
    """Summary of a layer's gate over all writes; None without one."""
    if values[0] is None:
        return None
    joined = np.concatenate([np.asarray(value).ravel() for value in values])
    low, middle, high = (float(q) for q in np.quantile(joined, (0.1, 0.5, 0.9)))
    return {"mean": float(joined.mean()), "median": middle, "deciles": [low, high]}


def _sequences(run, sequences, segments):
    """(config, decoder, params, tokens [B, W, T], which of the last T are asked about)."""
    if "tokenizer" not in folders.read_config(run):
        cfg, decoder, params, _ = training.load(SortingConfig, run)
        batch = sorting_task.examples_of(cfg).batch("test", np.arange(sequences))
        return cfg, decoder, params, batch.tokens, batch.weights[0, -1] > 0
    cfg, decoder, params, _ = training.load(LanguageModelingConfig, run, ("params",))
    tokenizer, length = tokenizer_of_run(run), cfg.model.segment_len
    limits = {"test": cfg.test_characters}
    test = tokenized(cfg.data, tokenizer, cfg.cache, limits).splits["test"]
    long = [start for start, end in zip(test.starts, test.starts[1:], strict=False)
            if end - start >= segments * length]  # fmt: skip
    if not long:
        most = np.diff(test.starts).max() // length
        raise ValueError(f"segments: found {segments}, accepted: at most {most}, the longest test")
    begins = np.array(long[:sequences])[:, None] + np.arange(segments * length)
    tokens = test.tokens[begins].astype(np.int32).reshape(len(begins), segments, length)
    return cfg, decoder, params, tokens, np.ones(length, bool)


def look(run: Path, sequences: int = 64, segments: int = 65) -> dict[str, Any]:
    """What the run's model does with its memory on `sequences` test sequences, as JSON has it.

    Raises:
        ValueError: no run, or a model without a long-term memory, or a document without a write.
    """
    cfg, decoder, params, tokens, answers = _sequences(run, sequences, segments)
    long_term = cfg.model.long_term
    if long_term is None:
        raise ValueError(f"run: found {run}, without a long-term memory, accepted: one with it")
    sequences, segments = tokens.shape[:2]
    writes = segments - state.fifo_len(cfg.model) // cfg.model.segment_len
    if writes < 1:
        raise ValueError(f"run: found {run}, too short for a write, accepted: a longer one")
    if cfg.objective.empty_memory:
        writes = 1
    memory = state.init(cfg.model, sequences)
    ops, gates = jax.device_put(operators(cfg.model)), []
    for w in range(segments):
        if cfg.objective.empty_memory:
            memory = state.empty_long_term(cfg.model, memory)
        memory, densities, shares, gate = _read_segment(
            decoder, params, memory, tokens[:, w], ops, jax.random.key(w)
        )
        if w >= segments - writes:
            gates.append(gate)
    layers = []
    for j in range(cfg.model.num_layers):
        at_answers = GaussianDensity(*(field[:, :, answers] for field in densities[j]))
        layers.append(
            {
                "heads": _heads(long_term, at_answers, writes),
                "context_to_local": float(np.asarray(shares[j])[:, answers].mean()),
                "gate": _gate([gate[j] for gate in gates]),
            }
        )
    return {"writes": writes, "sequences": sequences, "layers": layers}


def report(found: dict[str, Any]) -> None:
    """Print a row for each head: where it looks, how widely, how old what it sees is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"the memory in the last segment, after {found['writes']} writes")
    for name in ("layer", "head", "μ", "σ", "newest ¼", "oldest ¼", "context/local", "gate"):
        table.add_column(name, justify="right")
    for j, layer in enumerate(found["layers"]):
        gate = "none" if layer["gate"] is None else f"{layer['gate']['mean']:.2f}"
        for h, head in enumerate(layer["heads"]):
            age = np.array(head["mass_by_age"])
            quarter = max(1, len(age) // 4)
            table.add_row(
                str(j), str(h), f"{head['mean']:.2f} ± {head['mean_spread']:.2f}",
                f"{head['scale']:.3f}",
                *(f"{of.sum():.2f}" if len(age) else "" for of in (age[:quarter], age[-quarter:])),
                f"{layer['context_to_local']:.2f}", gate,
            )  # fmt: skip
    Console(width=110).print(table)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis memory --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.analysis memory", __doc__, MemoryConfig(), argv)
    with cli.refusals():
        if not cfg.run:
            raise ValueError("run: found none, accepted: the folder of a run")
        for name in ("sequences", "segments"):
            if getattr(cfg, name) < 1:
                raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
        folder = Path(cfg.out or cfg.run)
        folders.made(folder)
        found = look(Path(cfg.run), cfg.sequences, cfg.segments)
    said = folders.provenance("analysis", "memory", ["memory", *argv])
    folders.write_json(folder / "memory.json", said | found)
    report(found)
    plots.heads(folder / "memory.png", found)
    print(f"{folder}/memory.json, {folder}/memory.png")
