"""A memory written for ever: do its numbers drift, and how far is float32 from float64?

    python -m experiments.analysis stream [--options]

Writes segments of white noise, uniform in [-1, 1], one after the other. Every contraction gets the
same noise. If all vectors lie in [-1, 1], the coefficients after W writes are bounded, element by
element: `|C| ≤ Σ_s |A_W ⋯ A_{s+1} G_sᵀ| 1`, where the last 1 is a vector of ones. This bound is
computed and printed too.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.analysis import plots, retention
from experiments.analysis.retention import RetentionConfig
from experiments.run import room, tables
from inf_former_jax.fields import Basis, Checked, Count, Fraction, NonEmpty, Positive, Seed
from inf_former_jax.files import writing
from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.memory.operator_tables import dense
from inf_former_jax.memory.write_operators import Operators

_SERIES = ("rms", "largest", "error")
_TIMES = np.linspace(0.0, 1.0, 257)


@dataclasses.dataclass(frozen=True)
class StreamConfig(Checked):
    """Which memories are written, and for how long."""

    segments: Count = 1000
    """W, writes."""
    length: Count = 128
    """L, vectors of a write."""
    channels: Count = 4
    """E."""
    num_basis: Basis = 512
    num_samples: Count = 512
    widths: NonEmpty[Positive] = (0.01, 0.05)
    taus: tuple[Fraction, ...] = (0.75, 0.9)
    """Fixed contractions."""
    powers: tuple[Positive, ...] = (1.0,)
    """Power contractions."""
    seed: Seed = 0
    out: str = "runs/analysis/stream"


def memories(cfg: StreamConfig) -> dict[str, LongTermConfig]:
    """The memories by the name of their contraction.

    Raises:
        ValueError: a constant that no memory can have, or no contraction.
    """
    sizes = {name: getattr(cfg, name) for name in ("num_basis", "num_samples", "widths")}
    return retention.memories(RetentionConfig(**sizes, taus=cfg.taus, powers=cfg.powers))


def check(cfg: StreamConfig) -> None:
    """Refuse at the door what cannot be written, and operators that cannot be built."""
    room.check({"vectors": 12 * cfg.segments * cfg.length * cfg.channels})
    for memory in memories(cfg).values():
        long_term.operators(memory, cfg.length, np.float64)


def stream(memory: LongTermConfig, x: Float[np.ndarray, "W L E"]) -> dict[str, Any]:
    """Size of the coefficients, and error of float32, after each write of a stream.

    Returns:
        Arrays [W]: `rms` and `largest` of the float64 coefficients, `error` of the float32 signal
        relative to its largest value in float64. And `bound`, the largest that any coefficient
        could be after the last write if |x| ≤ 1.
    """
    exact = long_term.operators(memory, x.shape[1], np.float64)
    ops = long_term.operators(memory, x.shape[1], np.float32)

    @jax.jit
    def all_writes(begin, x, ops):
        def write(held, segment):
            held = long_term.write(memory, held, segment[None], operators=ops)
            return held, held.coeffs[0]

        return jax.lax.scan(write, begin, x)[1]

    begin = long_term.init(memory, 1, x.shape[2])
    single = np.asarray(all_writes(begin, jnp.asarray(x, jnp.float32), ops))
    psi, series = evaluate(memory.basis, _TIMES), []
    for coeffs, rounded in zip(exact_stream(exact, x), single, strict=True):
        signal = psi @ coeffs
        error = np.abs(psi @ rounded.astype(np.float64) - signal).max() / np.abs(signal).max()
        series.append((np.sqrt((coeffs**2).mean()), np.abs(coeffs).max(), error))
    named = dict(zip(_SERIES, np.array(series).T, strict=True))
    return {**named, "bound": bound(exact, len(x))}


def _further(exact: Operators, write: int) -> tuple[np.ndarray, np.ndarray]:
    """(Aᵀ, G_new) of write number `write`, counted from 0; beyond the table, its last ones."""
    assert exact.decay is not None and exact.new is not None
    k = min(write, len(exact.decay)) - 1
    return np.asarray(exact.decay[k]), np.asarray(dense(exact.new)[k])


def exact_stream(
    exact: Operators, x: Float[np.ndarray, "W L E"]
) -> Iterator[Float[np.ndarray, "N E"]]:
    """The float64 coefficients after each write: `C ← A C + G_newᵀ X`."""
    coeffs = np.asarray(exact.first)[0].T @ x[0]
    yield coeffs
    for write, segment in enumerate(x[1:], start=1):
        decay, new = _further(exact, write)
        coeffs = decay.T @ coeffs + new.T @ segment
        yield coeffs


def bound(exact: Operators, writes: int) -> float:
    """The largest coefficient that vectors in [-1, 1] can lead to after all these writes."""
    first = np.asarray(exact.first)[0]
    total, later = np.zeros(first.shape[1]), np.eye(first.shape[1])  # later = A_W ⋯ A_{s+1}
    for write in range(writes - 1, 0, -1):
        decay, new = _further(exact, write)
        total += np.abs(later @ new.T).sum(axis=1)
        later = later @ decay.T
    return float((total + np.abs(later @ first.T).sum(axis=1)).max())


def summary(series: Mapping[str, Any]) -> dict[str, Any]:
    """A stream as JSON has it: coefficients' rms after 1, 10, 100, … writes and the extremes."""
    count = len(series["rms"])
    marks = sorted({min(mark, count) for mark in (1, 10, 100, count)})
    return {
        "rms": {str(mark): float(series["rms"][mark - 1]) for mark in marks},
        "largest": float(series["largest"].max()),
        "error": float(series["error"].max()),
        "bound": series["bound"],
    }


def compute(cfg: StreamConfig, folder: Path) -> dict[str, Any]:
    """Write all memories; print the table, and write the series and the picture."""
    shape = (cfg.segments, cfg.length, cfg.channels)
    x = np.random.default_rng(cfg.seed).uniform(-1, 1, shape)
    found = {}
    for label, memory in memories(cfg).items():
        print(f"{cfg.segments:,} writes with {label}")
        found[label] = stream(memory, x)
    short = {label: summary(series) for label, series in found.items()}
    report(short)
    plots.streams(folder / "stream.png", found)
    arrays: dict[str, Any] = {
        name: np.stack([series[name] for series in found.values()]) for name in _SERIES
    }
    with writing(folder / "stream.npz") as file:
        np.savez(file, contractions=np.array(list(found)), **arrays)
    return {"found": short}


def report(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print, for each contraction, the coefficients' size along the stream and float32's error."""
    marks = next(iter(found.values()))["rms"]
    header = ("contraction", *(f"rms after {mark}" for mark in marks))
    rows = []
    for label, row in found.items():
        worst = (f"{row['largest']:.3f}", f"{row['bound']:.2f}", f"{row['error']:.1e}")
        rows.append((label, *(f"{size:.4f}" for size in row["rms"].values()), *worst))
    title = "coefficients and float32's error along the stream"
    tables.show(title, (*header, "largest ever", "bound", "error, worst"), rows, 120)
