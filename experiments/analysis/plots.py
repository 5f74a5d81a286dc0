"""Pictures of the memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.run.plots import name_lines, picture

#: Heat maps of at most so many columns have room for their figures.
_FIGURES = 8


def retention(path: Path | IO[bytes], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """R² of past segments against their age: linear dashed, density solid.

    Args:
        path: as `picture` takes it.
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
        name_lines(axes)


def heads(path: Path | IO[bytes], found: Mapping[str, Any]) -> None:
    """Where each head attends: its mass over the memory's time, and by age.

    Args:
        path: as `picture` takes it.
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
            axes[j, 0].set(ylabel=f"layer {layer['layer']}: density", ylim=(0, None))
            axes[j, 1].set(ylabel="share of the attention", ylim=(0, None))
            axes[j, 1].locator_params(axis="x", integer=True)
            name_lines(axes[j, 0])
        axes[0, 0].figure.suptitle(_heads_finding(found), size=11, x=0.01, ha="left")
        axes[-1, 0].set(xlabel="time in the memory (1 = newest)")
        axes[-1, 1].set(xlabel="age of what was written, in writes")


def _heads_finding(found: Mapping[str, Any]) -> str:
    """How much of the heads' attention the oldest quarter of the writes gets, if ages are known."""
    heads = [head for layer in found["layers"] for head in layer["heads"]]
    oldest = max(1, found["writes"] // 4)
    quarter = [sum(head["mass_by_age"][-oldest:]) for head in heads if head["mass_by_age"]]
    if not quarter:
        return "Where each head attends; of a sticky memory no ages are known"
    words = f"{oldest} of {found['writes']} writes" if oldest > 1 else "write"
    return f"The oldest {words}: {min(quarter):.2f} to {max(quarter):.2f} of a head's attention"


def asked(path: Path | IO[bytes], found: Mapping[str, Any]) -> None:
    """Where each head attends when an age is asked for: a heat map, asked segments in frames.

    Args:
        found: as `experiments.analysis.memory.look` returns it of a run of recall.
    """
    rows, columns, layers = found["asked_ages"], found["written_ages"], found["layers"]
    heads = len(layers[0]["heads"])
    width, height = max(8.0, 2.6 * heads + 1), 2.6 * len(layers) + 0.8
    with picture(path, len(layers), heads, width=width, height=height) as axes:
        axes = np.reshape(axes, (len(layers), heads))
        for (j, h), ax in np.ndenumerate(axes):
            head = layers[j]["heads"][h]
            _heat_map(ax, head["mass_by_asked_age"], rows, columns)
            ax.set_title(f"layer {layers[j]['layer']}, head {h}", size=10)
        for ax in axes[:, 0]:
            ax.set(ylabel="asked age in segments")
        for ax in axes[-1]:
            ax.set(xlabel="age of what is read")
        figure = axes[0, 0].figure
        figure.colorbar(axes[0, 0].images[0], ax=axes, label="mass", shrink=0.8)
        figure.suptitle(_asked_finding(found), size=11)


def _heat_map(
    ax: Any, mass: Sequence[Sequence[float]], rows: Sequence[int], columns: Sequence[int]
) -> None:
    """Draw masses from 0 to 1; a frame where a row and its column are of one age."""
    ax.grid(False)
    ax.imshow(mass, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for ages, axis in ((rows, ax.yaxis), (columns, ax.xaxis)):
        step = -(-len(ages) // _FIGURES)
        axis.set_ticks(range(0, len(ages), step), list(map(str, ages[::step])))
    for i, age in enumerate(rows):
        if age in columns:
            left, top = columns.index(age) - 0.5, i - 0.5
            right, bottom = left + 1, top + 1
            frame = ([left, right, right, left, left], [top, top, bottom, bottom, top])
            ax.plot(*frame, "C1", linewidth=2, clip_on=False, scalex=False, scaley=False)
        if len(columns) <= _FIGURES:
            for k, value in enumerate(mass[i]):
                color = "w" if value > 0.5 else "k"
                ax.text(k, i, f"{value:.2f}", ha="center", va="center", color=color, size=8)


def _asked_finding(found: Mapping[str, Any]) -> str:
    """How much of its mass the best head has on the asked segment, beside an even share."""
    shares = {
        (layer["layer"], h): head["mass_on_asked"]
        for layer in found["layers"]
        for h, head in enumerate(layer["heads"])
    }
    if None in shares.values():
        return "No question asks for a segment that is written"
    best = max(shares, key=lambda place: shares[place])
    return (
        f"Head {best[1]} of layer {best[0]} has {shares[best]:.2f} of its mass on the asked "
        f"segment (framed); an even share: {1 / found['writes']:.2f}"
    )


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
        name_lines(errors)
