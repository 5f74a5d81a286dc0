"""Pictures of `experiments.benchmark`: bars beside their floors, the cost of a long document."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """MEASURE.png of each measure that has a picture; returns the files."""
    paths = []
    for name, picture in PICTURES.items():
        if name in found:
            paths.append(folder / f"{name}.png")
            picture(paths[-1], found[name])
    return paths


def memory(path: Path, found: Mapping[str, Any]) -> None:
    """Milliseconds of each part and pass, literally and ours, with the floors of each form."""
    bars = [
        (f"{row['part']}, {row['pass']}, {form}", row[form], f"C{number}")
        for row in found["rows"]
        for number, form in enumerate(("literal", "ours"))
    ]
    sizes = ", ".join(f"{name} {size:,}" for name, size in found["sizes"].items())
    _bars(path, f"the memory by itself: {sizes}", bars)


def steps(path: Path, found: Mapping[str, Any]) -> None:
    """Milliseconds of each training step, with its floors."""
    bars = [
        (f"{row['preset']}, B {row['batch']}, {row['schedule']}, {row['dtype']}", row, "C1")
        for row in found["rows"]
    ]
    _bars(path, "one training step", bars)


def _bars(path, title, bars: Sequence[tuple[str, Mapping[str, float], str]]):
    """A bar a row on a logarithmic scale, a line in it for each floor."""
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.35 * len(bars)), constrained_layout=True)
    places = range(len(bars))
    colors = [color for _, _, color in bars]
    axes.barh(places, [1e3 * of["seconds"] for _, of, _ in bars], color=colors, alpha=0.6)
    for name, style, label in (
        ("floor", "-", "operations at this machine's rate"),
        ("bytes_floor", ":", "arguments and results at its bandwidth"),
    ):
        low, high = ([place + half for place in places] for half in (-0.4, 0.4))
        least = [1e3 * of[name] for _, of, _ in bars]
        axes.vlines(least, low, high, color="k", linestyle=style, label=label)
    axes.set_yticks(places, [label for label, _, _ in bars], fontsize=8)
    axes.set(title=title, xlabel="ms", xscale="log")
    axes.invert_yaxis()
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def stream(path: Path, found: Mapping[str, Any]) -> None:
    """Microseconds a token, with their floor, and memory, against the tokens read before."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True)
    tokens = [row["tokens"] for row in found["rows"]]
    for name, label, style in (("seconds_per_segment", "median", "o-"), ("floor", "floor", ":")):
        times = [1e6 * row[name] / found["segment"] for row in found["rows"]]
        axes[0].plot(tokens, times, style, color="C1", label=label)
    axes[0].set(xlabel="tokens of context", ylabel="µs a token")
    for name, label in (("live_mib", "live arrays"), ("host_mib", "process")):
        axes[1].plot(tokens, [row[name] for row in found["rows"]], "o-", label=label)
    axes[1].set(xlabel="tokens of context", ylabel="MiB")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


PICTURES: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "memory": memory, "steps": steps, "stream": stream,
}  # fmt: skip
