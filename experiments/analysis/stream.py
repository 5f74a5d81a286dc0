"""A memory written for ever: do its numbers drift, and how far is float32 from float64?

    python -m experiments.analysis stream [--options]

Writes segments of white noise, uniform in [-1, 1], one after the other; every contraction on the
same noise. Of bounded vectors the coefficients are bounded: after W writes
`|C| ≤ Σ_s |A_W ⋯ A_{s+1} G_sᵀ| 1`, element by element, which is computed and printed too.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analysis.retention import contractions
from experiments.run import cli, folders, plots
from inf_former_jax.memory import long_term
from inf_former_jax.memory.basis import evaluate
from inf_former_jax.memory.long_term import LongTermConfig

_SERIES = ("rms", "largest", "error")
_TIMES = np.linspace(0.0, 1.0, 257)


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Which memories are written, and for how long."""

    segments: int = 1000
    """W, writes."""
    length: int = 128
    """L, vectors of a write."""
    channels: int = 4
    """E."""
    num_basis: int = 512
    num_samples: int = 512
    widths: tuple[float, ...] = (0.01, 0.05)
    taus: tuple[float, ...] = (0.75, 0.9)
    """Fixed contractions."""
    powers: tuple[float, ...] = (1.0,)
    """Power contractions."""
    seed: int = 0
    out: str = "runs/analysis/stream"


def memories(cfg: StreamConfig) -> dict[str, LongTermConfig]:
    """The memories by label.

    Raises:
        ValueError: a constant that no memory can have, or nothing to write.
    """
    for name in ("segments", "length", "channels"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    if cfg.seed < 0:
        raise ValueError(f"seed: found {cfg.seed}, accepted: 0 or more")
    if not cfg.taus and not cfg.powers:
        raise ValueError("taus: found none, and no powers, accepted: at least one contraction")
    same = {"num_basis": cfg.num_basis, "num_samples": cfg.num_samples, "widths": cfg.widths}
    named = contractions(cfg.taus, cfg.powers)
    return {label: LongTermConfig(**same, **kind) for label, kind in named.items()}


def stream(memory: LongTermConfig, x: np.ndarray) -> dict[str, Any]:
    """Write x [W, L, E] in float32 and in float64; what is found after each write.

    Returns:
        Arrays by write: `rms` and `largest` of the coefficients, `error` of the float32 signal
        relative to its largest value in float64; and `bound`, the largest that any coefficient
        could be after the last write if |x| ≤ 1.
    """
    exact = long_term.operators(memory, x.shape[1], np.float64)
    ops = long_term.operators(memory, x.shape[1], np.float32)

    @jax.jit
    def all_writes(begin, x, ops):
        def write(held, now):
            held = long_term.write(memory, held, now[None], operators=ops)
            return held, held.coeffs[0]

        return jax.lax.scan(write, begin, x)[1]

    begin = long_term.init(memory, 1, x.shape[2])
    single = np.asarray(all_writes(begin, jnp.asarray(x, jnp.float32), ops))
    psi, found = evaluate(memory.basis, _TIMES), []
    for coeffs, of_single in zip(_exact(exact, x), single, strict=True):
        signal = psi @ coeffs
        error = np.abs(psi @ of_single.astype(np.float64) - signal).max() / np.abs(signal).max()
        found.append((np.sqrt((coeffs**2).mean()), np.abs(coeffs).max(), error))
    columns = map(np.array, zip(*found, strict=True))
    named = dict(zip(_SERIES, columns, strict=True))
    return named | {"bound": _bound(exact, len(x))}


def _exact(exact, x):
    coeffs, last = exact.first[0].T @ x[0], len(exact.decay)
    yield coeffs
    for k, now in enumerate(x[1:], start=1):
        k = min(k, last) - 1
        coeffs = exact.decay[k].T @ coeffs + exact.new[k].T @ now
        yield coeffs


def _bound(exact, writes):
    """The largest coefficient that vectors in [-1, 1] can lead to after all these writes."""
    total, last = 0.0, len(exact.decay)
    later = np.eye(exact.new.shape[-1])
    for k in range(writes - 1, 0, -1):
        k = min(k, last) - 1
        total = total + np.abs(later @ exact.new[k].T).sum(axis=1)
        later = later @ exact.decay[k].T
    return float((total + np.abs(later @ exact.first[0].T).sum(axis=1)).max())


def summary(of: dict[str, Any]) -> dict[str, Any]:
    """A stream as JSON has it: coefficients' rms after 1, 10, 100, … writes and the extremes."""
    count = len(of["rms"])
    marks = sorted({min(mark, count) for mark in (1, 10, 100, count)})
    return {
        "rms": {str(mark): float(of["rms"][mark - 1]) for mark in marks},
        "largest": float(of["largest"].max()),
        "error": float(of["error"].max()),
        "bound": of["bound"],
    }


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.analysis stream [--options]`."""
    cfg = cli.options("python -m experiments.analysis stream", __doc__, StreamConfig(), argv)
    folder = Path(cfg.out)
    with cli.refusals():
        wanted = memories(cfg)
        for memory in wanted.values():
            long_term.operators(memory, cfg.length, np.float64)
        if folders.open_run(folder, cfg) is not None:
            return print(f"{folder} holds the finished result; --out for another one")
    shape = (cfg.segments, cfg.length, cfg.channels)
    x = np.random.default_rng(cfg.seed).uniform(-1, 1, shape)
    found = {}
    for label, memory in wanted.items():
        print(f"{cfg.segments:,} writes with {label}")
        found[label] = stream(memory, x)
    said = folders.provenance("analysis", "stream", ["stream", *argv])
    short = {label: summary(of) for label, of in found.items()}
    report(short)
    plots.streams(folder / "stream.png", found)
    series = {name: np.stack([of[name] for of in found.values()]) for name in _SERIES}
    np.savez(folder / "stream.npz", contractions=np.array(list(found)), **series)
    folders.write_json(
        folder / "result.json", said | {"settings": folders.to_json(cfg), "found": short}
    )
    print(f"{folder}/result.json, stream.npz, stream.png")


def report(found: dict[str, dict[str, Any]]) -> None:
    """Print, for each contraction, the coefficients' size along the stream and float32's error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="coefficients and float32's error along the stream", title_justify="left")
    table.add_column("contraction")
    marks = next(iter(found.values()))["rms"]
    names = [f"rms after {mark}" for mark in marks] + ["largest ever", "bound", "error, worst"]
    for name in names:
        table.add_column(name, justify="right")
    for label, of in found.items():
        sizes = [f"{size:.4f}" for size in of["rms"].values()]
        worst = [f"{of['largest']:.3f}", f"{of['bound']:.2f}", f"{of['error']:.1e}"]
        table.add_row(label, *sizes, *worst)
    Console(width=120).print(table)
