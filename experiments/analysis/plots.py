"""Pictures of the memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.plots import picture


def retention(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """R² of past segments against their age: linear dashed, density solid.

    Args:
        curves: contraction → "linear" and "density" → R² by age.
    """
    writes, last = max(len(curve["density"]) for curve in curves.values()), []
    with picture(path) as axes:
        for number, (label, curve) in enumerate(curves.items()):
            for read, style in (("density", "-"), ("linear", "--")):
                axes.plot(curve[read], style, color=f"C{number % 10}", label=f"{label}, {read}")
            last.append(f"{curve['density'][-1]:.2f} ({label})")
        axes.set(xlabel="age of the segment in writes", ylabel="R² of its mean")
        axes.set_title(
            f"Of the oldest of {writes} writes a density reads {', '.join(last)}", size=11
        )
        axes.set_ylim(0, 1.05)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8)


def heads(path: Path, found: Mapping[str, Any]) -> None:
    """Where each head attends: its mass over the memory's time, and by age.

    Args:
        found: as `experiments.analysis.memory.look` returns it.
    """
    layers = found["layers"]
    with picture(path, len(layers), 2, width=12, height=3 * len(layers)) as axes:
        for j, layer in enumerate(layers):
            for h, head in enumerate(layer["heads"]):
                mass = head["mass_by_time"]
                times = [(i + 0.5) / len(mass) for i in range(len(mass))]
                axes[j, 0].plot(times, [m * len(mass) for m in mass], label=f"head {h}")
                axes[j, 1].plot(range(len(head["mass_by_age"])), head["mass_by_age"], marker=".")
            axes[j, 0].set(ylabel=f"layer {j}: density")
            axes[j, 1].set(ylabel="share of the attention")
        axes[-1, 0].set(xlabel="time in the memory (1 = newest)")
        axes[-1, 1].set(xlabel="age of what was written, in writes")
        axes[0, 0].legend(fontsize=8)


def streams(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Size of the coefficients and error of float32 along a stream of writes.

    Args:
        found: label → as `experiments.analysis.stream.stream` returns it.
    """
    with picture(path, columns=2, width=12, height=4) as axes:
        sizes, errors = axes[0]
        for label, series in found.items():
            writes = range(1, len(series["rms"]) + 1)
            sizes.plot(writes, series["rms"], label=label)
            errors.plot(writes, series["error"], label=label)
        sizes.set(xlabel="writes", ylabel="rms coefficient", xscale="log")
        label = "error of the float32 signal"
        errors.set(xlabel="writes", ylabel=label, xscale="log", yscale="log")
        sizes.legend()
