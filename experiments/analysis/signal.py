"""How well a memory's signal gives back what a trained model wrote (paper §3.1, §4.1).

    python -m experiments.analysis signal --run FOLDER [--options]

Reads test data with the newest checkpoint of a run, as `analysis memory` does, and collects what
each layer writes: its hidden states behind the gate. Then it writes them again to memories with
more and with fewer functions. The error of a signal x̄ for the vectors x_1 … x_P, each at the time
where its memory has it, is

    Σ_i |x_i - x̄(t_i)|² / Σ_i |x_i - mean of x|²,

so that 1 is the error of a memory that holds the mean alone. *Written in turn* is the run's way:
segment by segment, contracted each time. *At once* is one fit of all vectors, which contracts
nothing: what N functions can do. The models are not trained anew for another N.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.analysis import signal_plots
from experiments.analysis.memory import sequences_of
from experiments.run import cli, folders, tables
from inf_former_jax.fields import Basis, Checked, Count, NonEmpty, Required
from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.coverage import token_edges
from inf_former_jax.memory.fit import ridge
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.write_operators import check_size, write_operator
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.require import require

#: Which widths a Gaussian basis of N functions has: the paper's two whatever N is, or one width, as
#: narrow as N allows.
WIDTHS = ("published", "narrow")


@dataclasses.dataclass(frozen=True)
class SignalConfig(Checked):
    """Which run is looked at, and beside which memories."""

    run: Annotated[str, Required("the folder of a run")] = ""
    """Folder of a run of sorting, recall or language modelling, with a long-term memory."""
    num_basis: NonEmpty[Basis] = (16, 32, 64, 128, 256, 512, 1024)
    """N of the memories that the run's signal is written to as well."""
    sequences: Count = 8
    """Test sequences that are read; of text at most as many documents as are long enough."""
    segments: Count = 33
    """Of text: segments of each document."""
    out: str = ""
    """Where the figures and the picture go; "" = the run's folder."""


def with_functions(
    cfg: LongTermConfig, num_basis: int, widths: str, writes: int, length: int
) -> LongTermConfig:
    """A memory with another N, and with M = N, as the paper has it.

    A narrow basis has width 1/N, but no less than the distance (1-τ_k)/L of two vectors of the
    newest write. A narrower basis has gaps between them, where the signal is 0, and the next write
    samples the past in these gaps.

    Args:
        widths: of WIDTHS; a basis of other functions than Gaussians has none.
        writes: J, how many segments are written.
        length: L, vectors of a segment.

    Raises:
        ValueError: this memory cannot have so many functions.
    """
    changes: dict[str, Any] = {"num_basis": num_basis}
    if cfg.fit == "points":
        changes["num_samples"] = num_basis
    if cfg.functions == "gaussian":
        narrowest = (1 - cfg.tau_of(max(1, writes - 1))) / length
        narrow = float(f"{max(1 / num_basis, narrowest):.2g}")
        published = LongTermConfig.widths[: 2 - num_basis % 2]
        changes["widths"] = published if widths == "published" else (narrow,)
    return dataclasses.replace(cfg, **changes)


def told_apart(cfg: LongTermConfig, length: int) -> float | None:
    """Vectors that a further write of `length` of them tells apart; None where it is no regression.

    These are the degrees of freedom of its ridge regression (`fit.ridge.degrees_of_freedom`), the
    samples of the past among them.
    """
    if cfg.fit != "points":
        return None
    times = ridge.write_times(cfg.tau_of(1), cfg.num_samples, length)
    zeros = ridge.write_padding(cfg.num_samples, length) if cfg.padding else ()
    return ridge.degrees_of_freedom(cfg.basis, np.concatenate(times), cfg.ridge, zeros)


def written(
    cfg: ModelConfig, params: Any, tokens: Int[np.ndarray, "B W T"]
) -> dict[int, Float[np.ndarray, "B J T E"]]:
    """What each layer with a long-term memory writes of these tokens: layer → its J segments.

    These are the layer's inputs behind its gate, oldest first. The segments that are still in the
    short-term memory at the end are not written yet.
    """
    decoder, memory = Decoder(cfg), state.init(cfg, len(tokens))
    ops, segments = jax.device_put(operators(cfg)), []
    for w in range(tokens.shape[1]):
        due = bool(state.has_pending(cfg, memory.seen)[0])
        memory, found = _read_segment(decoder, params, memory, tokens[:, w], ops, jax.random.key(w))
        if due:
            segments.append(found)
    require(bool(segments), "run", f"{tokens.shape[1]} segments, too few for a write", "more")
    return {layer: np.stack([one[layer] for one in segments], axis=1) for layer in segments[0]}


@partial(jax.jit, static_argnums=0)
def _read_segment(decoder: Decoder, params, memory, tokens, ops, key):
    """Read one segment: (memory, layer → what it wrote before)."""
    cfg, found = decoder.cfg, {}
    for j, layer in enumerate(memory.layers):
        if layer.long_term is not None and cfg.long_term is not None:
            own = {"params": params[f"block_{j}"].get("long_term", {})}
            attention, x = LongTermAttention(cfg.long_term), state.pending(cfg, layer)
            found[j] = attention.apply(own, x, method="gated")
    inputs = {"params": params}, tokens, memory
    out: Any = decoder.apply(*inputs, operators=ops, rngs={"locations": key})
    return out.memory, found


def vector_times(cfg: LongTermConfig, writes: int, length: int) -> Float[np.ndarray, " P"]:
    """When the signal has each of `writes` · L vectors, oldest first.

    As intervals these are the middles of their cells. As points they are the times at which the
    regression put them: the middles of cells in a row's first write, the ends of cells in further
    ones (`coverage.token_edges`), both contracted by the writes since.

    Raises:
        ValueError: a sticky memory, whose past is at no known time.
    """
    edges = token_edges(cfg, writes, length)
    middles = (edges[:-1] + edges[1:]) / 2
    if cfg.fit == "intervals":
        return middles
    return np.where(np.arange(writes * length) < length, middles, edges[1:])


def errors_in_turn(
    cfg: LongTermConfig, x: Float[AnyArray, "B J L E"]
) -> Iterator[tuple[int, Float[np.ndarray, " K"]]]:
    """The error of each written segment, newest first, after 1, 2, 4, … and after all J writes.

    The segments' errors add up to the error of the signal: each is the segment's own squared error
    over the squared distance of *all* K written segments from their mean, times K.

    Yields:
        (K writes, error of each of the K segments by its age).

    Raises:
        ValueError: a sticky memory, whose past is at no known time.
    """
    batch, writes, length, dim = x.shape
    ops = long_term.operators(cfg, length)
    memory = long_term.init(cfg, batch, dim)
    shown = {2**i for i in range(writes.bit_length())} | {writes}
    for k in range(writes):
        memory = _write(cfg, memory, x[:, k], ops)
        if k + 1 in shown:
            found = _signal(cfg, memory.coeffs, vector_times(cfg, k + 1, length))
            yield k + 1, _by_segment(np.asarray(x[:, : k + 1]), found)[::-1]


@partial(jax.jit, static_argnums=0)
def _write(cfg, memory, x, ops):
    return long_term.write(cfg, memory, x, operators=ops)


def error_at_once(cfg: LongTermConfig, x: Float[AnyArray, "B J L E"]) -> float:
    """The error of one fit of all J·L vectors, which is a memory's first write of so many."""
    batch, writes, length, dim = x.shape
    _, g = write_operator(cfg, writes * length, 0)
    coeffs = g.T @ np.asarray(x, np.float64).reshape(batch, -1, dim)
    found = _signal(cfg, coeffs, ridge.first_fit_times(writes * length))
    return float(_by_segment(np.asarray(x), found).mean())


def _signal(
    cfg: LongTermConfig, coeffs: Float[AnyArray, "B N E"], times: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "B P E"]:
    """`long_term.signal` in float64 on the host, since each number of times compiles anew."""
    return np.asarray(evaluate(cfg.basis, times)) @ np.asarray(coeffs, np.float64)


def _by_segment(
    x: Float[np.ndarray, "B K L E"], found: Float[np.ndarray, "B P E"]
) -> Float[np.ndarray, " K"]:
    """Each segment's part of the error, times K, so that their mean is the whole error."""
    x = x.astype(np.float64)
    whole = np.square(x - x.mean((1, 2), keepdims=True)).sum()
    off = np.square(x - found.reshape(x.shape)).sum((0, 2, 3))
    return off * len(off) / whole


def measure(cfg: LongTermConfig, x: Float[AnyArray, "B J L E"]) -> dict[str, Any]:
    """The errors of a memory for what one layer wrote, as JSON has them."""
    by_writes = dict(errors_in_turn(cfg, x))
    last = by_writes[x.shape[1]]
    return {
        "in_turn": float(last.mean()),
        "newest": float(last[0]),
        "at_once": error_at_once(cfg, x),
        "by_age": [round(float(error), 6) for error in last],
        "by_writes": {str(k): float(errors.mean()) for k, errors in by_writes.items()},
    }


def of_layers(
    cfg: LongTermConfig, signals: Mapping[int, Float[np.ndarray, "B J T E"]]
) -> list[dict[str, Any]]:
    """`measure` of each layer, with its number."""
    return [{"layer": number, **measure(cfg, x)} for number, x in signals.items()]


def memories(
    cfg: LongTermConfig, num_basis: Sequence[int], writes: int, length: int
) -> dict[str, LongTermConfig]:
    """The memories to compare a run's with: name → configuration; what cannot be is left out.

    Arguments as of `with_functions`.

    Raises:
        ValueError: none of them can be.
    """
    gaussian, found = cfg.functions == "gaussian", {}
    for kind in WIDTHS if gaussian else WIDTHS[:1]:
        for number in num_basis:
            try:
                memory = with_functions(cfg, number, kind, writes, length)
                check_size(memory, length)
            except ValueError:  # a basis that is near singular, cells that do not fit, no room
                continue
            found[f"{number} {kind if gaussian else cfg.functions}"] = memory
    require(bool(found), "num_basis", num_basis, "numbers that the run's memory allows")
    return found


def look(run: Path, num_basis: Sequence[int], sequences: int, segments: int) -> dict[str, Any]:
    """The errors of the run's own memory, and of memories with other functions, as JSON has them.

    Args:
        num_basis: N of the others; none = the run's own alone.
        sequences, segments: as of `memory.sequences_of`.

    Raises:
        ValueError: no run, a model without a long-term memory, or a sticky one.
    """
    cfg, params, read = sequences_of(run, sequences, segments)
    own, length = cfg.model.long_term, cfg.model.segment_len
    require(own is not None, "run", f"{run}, without a long-term memory", "one with it")
    assert own is not None
    accepted = "one that is not sticky: where a sticky memory has its past is not known"
    require(not own.sticky, "run", f"{run}, with a sticky memory", accepted)
    writes = read.tokens.shape[1] - state.fifo_len(cfg.model) // length
    others = memories(own, num_basis, writes, length) if num_basis else {}
    signals = written(cfg.model, params, read.tokens)
    rows = [
        {
            "name": name,
            "num_basis": memory.num_basis,
            "told_apart": told_apart(memory, length),
            "layers": of_layers(memory, signals),
        }
        for name, memory in {"own": own, **others}.items()
    ]
    some = next(iter(signals.values()))
    return {"sequences": len(some), "writes": some.shape[1], "length": length, "memories": rows}


def report(found: Mapping[str, Any]) -> None:
    """Print a row for each memory: errors in turn and at once, averaged over layers."""
    rows = []
    for row in found["memories"]:
        errors = [signal_plots.mean_of_layers(row, key) for key in ("newest", "in_turn", "at_once")]
        apart = "" if row["told_apart"] is None else f"{row['told_apart']:.0f}"
        cells = (str(row["num_basis"]), apart, *(f"{error:.3f}" for error in errors))
        rows.append((row["name"], *cells))
    vectors = found["writes"] * found["length"]
    title = f"error of the signal of {vectors:,} hidden states, mean of layers"
    header = ("memory", "N", "told apart", "newest segment", "all, in turn", "all, at once")
    tables.show(title, header, rows, 100)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis signal --run FOLDER [--options]`."""
    cfg = cli.options("python -m experiments.analysis signal", __doc__, SignalConfig(), argv)
    with cli.refusals():
        folders.read_config(Path(cfg.run))
        folder = folders.make(cfg.out or cfg.run)
        found = look(Path(cfg.run), cfg.num_basis, cfg.sequences, cfg.segments)
    origin = folders.provenance("analysis", "signal", ["signal", *argv])
    folders.write_json(folder / "signal.json", {**origin, **found})
    report(found)
    signal_plots.signal(folder / "signal.png", found)
    print(f"{folder}/signal.json, {folder}/signal.png")
