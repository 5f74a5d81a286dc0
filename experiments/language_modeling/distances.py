"""Where a memory gains: models beside each other, by how far back a word last occurred.

The files are those of `evaluate --by-distance`, of the same text and window. Every row is compared
with the first file's model as it was trained: the mean gain of a token in hundredths of a nat, and
its standard error over documents. Writes distances.md, distances.json and distances.png.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.language_modeling.distance import WORDS, Gain, gain
from experiments.run import cli, folders, tables
from experiments.run.plots import LINES, picture
from experiments.run.tables import TRAINED
from inf_former_jax.fields import Checked, NonEmpty, Required
from inf_former_jax.files import read_json, write_text
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True)
class DistancesConfig(Checked):
    """Which evaluations to compare."""

    files: Annotated[tuple[str, ...], Required("files of evaluate --by-distance")] = ()
    """Files of `evaluate --by-distance`; the first is the one to compare with."""
    names: tuple[str, ...] = ()
    """What to call them, one name a file; none = their folders."""
    split: Literal["valid", "test"] = "test"
    words: NonEmpty[Literal["all", "rare"]] = ("all", "rare")
    """all: all words. rare: words that no other document of the split has."""
    out: str = "runs/language_modeling/distances"


class Row(NamedTuple):
    """The sums of a model under one control."""

    name: str
    tokens: dict[str, Int[np.ndarray, "documents classes"]]  # by WORDS
    nats: dict[str, Float[np.ndarray, "documents classes"]]


class Read(NamedTuple):
    """What the files say."""

    classes: tuple[str, ...]
    window: int
    rows: list[Row]


def read(cfg: DistancesConfig) -> Read:
    """The rows of all files: each model as trained, and under its controls.

    Raises:
        ValueError: a file without losses by distance, or of another text than the first one.
    """
    names = cfg.names or tuple(Path(file).parent.name for file in cfg.files)
    accepted = f"{len(cfg.files)}, one for each of the files"
    require(len(names) == len(cfg.files), "names", f"{len(names)}", accepted)
    rows: list[Row] = []
    first: Any = None
    for name, file in zip(names, cfg.files, strict=True):
        found: Any = read_json(Path(file), "a file of evaluate --by-distance").get(cfg.split)
        holds = isinstance(found, dict) and "by_distance" in found.get(TRAINED, {})
        accepted = f"losses by distance of {cfg.split}, of evaluate --by-distance"
        require(holds, file, "none", accepted)
        for label, figures in found.items():
            sums = figures["by_distance"]
            told = {key: sums[key] for key in ("window", "classes", "documents")}
            told |= {words: sums[words]["tokens"] for words in WORDS}
            first = told if first is None else first
            other = next((key for key in told if told[key] != first[key]), None)
            accepted = f"that of {cfg.files[0]}: the same text, tokens and window"
            require(other is None, f"{file}: {other}", "another one", accepted)
            tokens, nats = (
                {words: np.array(sums[words][unit]) for words in WORDS}
                for unit in ("tokens", "nats")
            )
            rows.append(Row(name if label == TRAINED else f"{name}, {label}", tokens, nats))
    return Read(tuple(first["classes"]), first["window"], rows)


def gains(found: Read, words: str) -> dict[str, list[Gain]]:
    """Row → its gain over the first row: of all classes together, and of each."""
    reference = found.rows[0]

    def columns(row: Row, unit: str) -> list[np.ndarray]:
        sums = getattr(row, unit)[words]
        return [sums.sum(axis=1), *sums.T]

    return {
        row.name: [
            gain(*sums)
            for sums in zip(
                columns(row, "nats"),
                columns(reference, "nats"),
                columns(reference, "tokens"),
                strict=True,
            )
        ]
        for row in found.rows
    }


def table(found: Read, words: str) -> str:
    """The gains of every row in markdown; the first one's losses are perplexities."""
    by_row = gains(found, words)
    first, sums = found.rows[0].name, found.rows[0]
    nats = [sums.nats[words].sum(), *sums.nats[words].sum(axis=0)]
    tokens = [one.tokens for one in by_row[first]]
    header = ("", "all", *found.classes)
    lines = [["tokens", *(f"{count:,}" for count in tokens)]]
    lines.append([f"perplexity, {first}", *map(_perplexity, nats, tokens)])
    for name, row in by_row.items():
        if name != first:
            lines.append([f"gain, {name}", *map(_hundredths, row)])
    return tables.markdown(header, lines)


def _perplexity(nats: float, tokens: int) -> str:
    return f"{math.exp(nats / tokens):.2f}" if tokens else ""


def _as_json(by_row: Mapping[str, Sequence[Gain]]) -> dict[str, Any]:
    """JSON has no NaN: an error that is not known is null."""
    return {
        name: [
            {field: None if math.isnan(value) else value for field, value in one._asdict().items()}
            for one in row
        ]
        for name, row in by_row.items()
    }


def _hundredths(one: Gain) -> str:
    if not one.tokens:
        return ""
    error = "" if math.isnan(one.error) else f" ± {100 * one.error:.1f}"
    return f"{100 * one.nats:.1f}{error}"


def draw(path: Path, found: Read, chosen: Mapping[str, str]) -> None:
    """Gains by class, a column for each kind of words.

    Args:
        chosen: title of a column → which of WORDS.
    """
    with picture(path, columns=len(chosen), width=7 * len(chosen)) as axes:
        every = np.atleast_1d(np.asarray(axes)).ravel()
        for ax, (title, words) in zip(every, chosen.items(), strict=True):
            places = np.arange(len(found.classes))
            for number, (name, row) in enumerate(gains(found, words).items()):
                if number == 0:
                    continue
                values = [100 * one.nats for one in row[1:]]
                errors = [100 * one.error for one in row[1:]]
                style = LINES[number % len(LINES)]
                ax.errorbar(places, values, errors, fmt=style, marker="o", capsize=3, label=name)
            ax.axhline(0, color="0.5", linewidth=1)
            ax.set_xticks(places, found.classes, fontsize=8)
            ax.set(title=title, ylabel=f"gain over {found.rows[0].name} in 1/100 nat a token")
            ax.set_xlabel(f"last occurrence of the word, in windows of {found.window:,} tokens")
            if ax.get_legend_handles_labels()[1]:
                ax.legend(fontsize=8)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling distances [--options]`."""
    program = "python -m experiments.language_modeling distances"
    cfg = cli.options(program, __doc__ or "", DistancesConfig(), argv)
    with cli.refusals():
        found = read(cfg)
        folder = folders.make(cfg.out)
    kinds = dict(zip(("all", "rare"), WORDS, strict=True))
    chosen = {kinds[name]: kinds[name] for name in cfg.words}
    texts = [f"**{words}**\n\n{table(found, words)}\n" for words in chosen]
    write_text(folder / "distances.md", "\n".join(texts))
    result = {
        "settings": folders.to_json(cfg),
        "classes": list(found.classes),
        "window": found.window,
        "gains": {words: _as_json(gains(found, words)) for words in chosen},
    }
    folders.write_json(folder / "distances.json", result)
    draw(folder / "distances.png", found, chosen)
    print("\n".join(texts))
    print(f"{folder}/distances.md, {folder}/distances.json, {folder}/distances.png")
