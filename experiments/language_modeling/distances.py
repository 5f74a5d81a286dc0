"""Where a memory gains: models beside each other, by how far back a word last occurred.

The files are those of `evaluate --by-distance`, of the same text and window. Every row is compared
with the first file's model as it was trained, and every model with itself under its controls: the
mean gain of a token in hundredths of a nat, and its standard error over documents. Writes
distances.md, distances.json and distances.png.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.language_modeling.distance import WORDS
from experiments.run import cli, folders
from experiments.run.gains import Gain, as_json, gain, table
from experiments.run.plots import LINES, picture
from experiments.run.tables import CONTROL, FOREIGN, TRAINED
from inf_former_jax.fields import Checked, Required
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
    out: str = "runs/language_modeling/distances"


#: What a figure is reported with.
_SOURCE = ("command", "commit", "device", "date")


class Row(NamedTuple):
    """The sums of a model under one control."""

    name: str  # of the file
    label: str  # as trained, or the control
    tokens: dict[str, Int[np.ndarray, "documents classes"]]  # by WORDS
    nats: dict[str, Float[np.ndarray, "documents classes"]]

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.name if self.label == TRAINED else f"{self.name}, {self.label}"


class Read(NamedTuple):
    """What the files say."""

    classes: tuple[str, ...]
    window: int
    rows: list[Row]
    sources: list[dict[str, Any]]  # of each file: its command, commit, device and date


def read(cfg: DistancesConfig) -> Read:
    """The rows of all files: each model as trained, and under its controls.

    Raises:
        ValueError: a file without losses by distance, or of another text than the first one.
    """
    names = cfg.names or tuple(Path(file).parent.name for file in cfg.files)
    accepted = f"{len(cfg.files)}, one for each of the files"
    require(len(names) == len(cfg.files), "names", f"{len(names)}", accepted)
    rows: list[Row] = []
    sources = []
    first: Any = None
    for name, file in zip(names, cfg.files, strict=True):
        whole = read_json(Path(file), "a file of evaluate --by-distance")
        found: Any = whole.get(cfg.split)
        holds = isinstance(found, dict) and TRAINED in found
        holds = holds and all("by_distance" in row for row in found.values())
        accepted = f"losses by distance of {cfg.split}, of evaluate --by-distance"
        require(holds, file, "none", accepted)
        sources.append({key: whole.get(key) for key in _SOURCE})
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
            rows.append(Row(name, label, tokens, nats))
    titles = [row.title for row in rows]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    accepted = "a different name for each file: --names"
    require(twice is None, "names", f"{twice} twice", accepted)
    return Read(tuple(first["classes"]), first["window"], rows, sources)


def gains(found: Read, words: str) -> dict[str, list[Gain]]:
    """Row → its gain over the first row: of all classes together, and of each."""
    return {row.title: _over(found.rows[0], row, words) for row in found.rows}


def own_gains(found: Read, words: str) -> dict[str, list[Gain]]:
    """Memory emptied or foreign → what the model gains over it by its own, in the same places."""
    own = {row.name: row for row in found.rows if row.label == TRAINED}
    controls = [row for row in found.rows if row.label in (CONTROL, FOREIGN)]
    return {row.title: _over(row, own[row.name], words) for row in controls}


def _over(reference: Row, row: Row, words: str) -> list[Gain]:
    def columns(sums: np.ndarray) -> list[np.ndarray]:
        return [sums.sum(axis=1), *sums.T]

    three = row.nats[words], reference.nats[words], reference.tokens[words]
    return [gain(*sums) for sums in zip(*map(columns, three), strict=True)]


def result(cfg: DistancesConfig, found: Read) -> dict[str, Any]:
    """The gains as JSON has them, beside the tokens and perplexities that they are of."""
    reference, tokens, perplexity, by_row, by_control = found.rows[0], {}, {}, {}, {}
    for words in WORDS:
        counts, nats = (
            [sums.sum().item(), *sums.sum(axis=0).tolist()]
            for sums in (reference.tokens[words], reference.nats[words])
        )
        tokens[words] = counts
        perplexity[words] = [
            math.exp(loss / count) if count else None
            for loss, count in zip(nats, counts, strict=True)
        ]
        by_row[words] = {name: as_json(row) for name, row in gains(found, words).items()}
        over = own_gains(found, words)
        by_control[words] = {name: as_json(row) for name, row in over.items()}
    return {
        "settings": folders.to_json(cfg),
        "sources": found.sources,
        "classes": list(found.classes),
        "window": found.window,
        "reference": reference.title,
        "tokens": tokens,
        "perplexity": perplexity,
        "gains": by_row,
        "own": by_control,
    }


#: A class of fewer tokens is left out of the picture, which its errors would fill.
_FEW = 100
#: More lines than this cannot be told apart: the controls of each model are then left to the table.
_MOST = 6


def draw(path: Path, found: Read) -> None:
    """Gains by class, a column for each of WORDS."""
    models = {row.title for row in found.rows if row.label == TRAINED}
    with picture(path, columns=len(WORDS), width=7 * len(WORDS), height=5.5) as axes:
        for ax, words in zip(axes[0], WORDS, strict=True):
            reference, *others = gains(found, words).items()
            shown = [i for i, one in enumerate(reference[1][1:]) if one.tokens >= _FEW]
            if len(others) > _MOST:
                others = [one for one in others if one[0] in models]
            for number, (name, row) in enumerate(others):
                values, errors = (
                    [100 * getattr(row[1 + i], part) for i in shown] for part in ("nats", "error")
                )
                style = {"fmt": LINES[number % len(LINES)], "marker": "o", "capsize": 3}
                aside = 0.04 * (number - (len(others) - 1) / 2)  # so that errors do not overlap
                places = np.arange(len(shown)) + aside
                ax.errorbar(places, values, errors, label=name, **style)
            ax.axhline(0, color="0.5", linewidth=1)
            ax.set_xticks(range(len(shown)), [found.classes[i] for i in shown], fontsize=8)
            title = words
            if others:
                name, row = max(others, key=lambda one: one[1][0].nats)
                title += f": most is gained by {name}\n{_of_all(row[0])}"
                ax.legend(fontsize=7)
            ax.set_title(title, fontsize=10)
            ax.set(ylabel=f"gain over {reference[0]} in 1/100 nat a token")
            ax.set_xlabel(f"last occurrence of the word, in windows of {found.window:,} tokens")


def _of_all(one: Gain) -> str:
    return f"{100 * one.nats:.1f} ± {100 * one.error:.1f} of all its tokens"


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling distances [--options]`."""
    program = "python -m experiments.language_modeling distances"
    cfg = cli.options(program, __doc__ or "", DistancesConfig(), argv)
    with cli.refusals():
        found = read(cfg)
        folder = folders.make(cfg.out)
    about = folders.provenance("language_modeling", "distances", ["distances", *argv])
    told = about | result(cfg, found)
    texts = [f"**{words}**\n\n{table(told, words)}\n" for words in WORDS]
    write_text(folder / "distances.md", "\n".join(texts))
    folders.write_json(folder / "distances.json", told)
    draw(folder / "distances.png", found)
    print("\n".join(texts))
    print(f"{folder}/distances.md, {folder}/distances.json, {folder}/distances.png")
