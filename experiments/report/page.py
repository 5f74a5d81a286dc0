"""The page of a run, section by section. What a folder lacks is said where it would be."""

import contextlib
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from experiments.analysis import memory as memory_analysis
from experiments.analysis import plots as analysis_plots
from experiments.language_modeling import plots as language_plots
from experiments.report import contents, figures, plots
from experiments.report.contents import Contents
from experiments.report.html import document, image, table, tag
from experiments.run import folders, tables
from experiments.run.plots import COLORS, accuracy_by_place, entitle, picture
from experiments.run.tables import CONTROL, TRAINED, Result
from inf_former_jax.files import read_text
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.retained import retention

_WRITES = 64
_AGES = [0, 1, 3, 7, 15, 31, 63]
#: Experiment → the command that shows where the densities of a run are.
_DENSITIES = {
    "sorting": "analysis memory",
    "recall": "analysis memory",
    "language_modeling": "analysis memory",
    "dialogue": "dialogue page",
}


def page(found: Contents) -> str:
    """The text of the page. It takes some seconds, in which the retention is computed.

    Raises:
        ValueError: a file holds something else than its command writes.
    """
    body: list[Element] = []

    def add(file: str, title: str, inside: Iterator[Element]) -> None:
        with _as_written(found.folder / file):
            if parts := list(inside):
                body.append(tag("section", tag("h2", title), *parts))

    results = list(found.results.items())
    with _as_written(found.folder / (results[0][0] if results else "config.json")):
        title = _title(found)
        origin = [str(found.folder), *(tables.source([result]) for _, result in results[:1])]
    body += [tag("h1", title), tag("p", " · ".join(origin), class_="folder"), *_missing(found)]
    for name, result in results:
        also = "" if name == results[0][0] else f": {name}"
        add(name, f"What was found{also}", _found(result))
    add("metrics.jsonl", "Training", _training(found))
    add("config.json", "What the memory keeps", _memory(found))
    add("memory.json", "Where the heads look", _densities(found))
    for name, result in results:
        add(name, "What the model writes", _written(result))
    add("config.json", "Settings", _settings(found))
    for name, result in results:
        also = "" if len(results) == 1 else f": {name}"
        add(name, f"How it was made{also}", _made(result))
    return document(title, read_text(Path(__file__).with_suffix(".css")), body)


@contextlib.contextmanager
def _as_written(file: Path) -> Iterator[None]:
    """Refuse a file whose JSON has other parts than its command writes."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"other content than was written ({type(error).__name__}: {error})"
        raise ValueError(f"{file}: found {what}, accepted: it as its command wrote it") from None


def _note(*text: Element | str) -> Element:
    return tag("p", *text, class_="note")


def _title(found: Contents) -> str:
    """What was run, and its main finding."""
    task = found.experiment.name.replace("_", " ")
    if not found.results:
        return f"{task}, {contents.nearest_preset(found)[0]}: not finished"
    result = next(iter(found.results.values()))
    (_, rows), figure = figures.tested(result), figures.judged_by(result)
    words = f"{figure} {figures.shown(figure, rows[TRAINED][figure])}"
    if CONTROL in rows:
        words += f", with the memory emptied {figures.shown(figure, rows[CONTROL][figure])}"
    return f"{task}, {result['preset']}: {words}"


def _missing(found: Contents) -> Iterator[Element]:
    """What is not there yet of a run that is not finished."""
    if found.config and contents.RESULT not in found.results:
        done = max((row["step"] for row in found.rows), default=0)
        steps = contents.flat(found.config).get("optim.steps")
        yield _note(
            f"The run is not finished. The last update that is recorded is {done:,} of {steps}. "
            "The figures on test data, the command, the commit, the device and the versions are "
            "written when it ends. The same command goes on with it."
        )


def _found(result: Result) -> Iterator[Element]:
    """The finding in words, its figures in large, the tables, and accuracy by place."""
    (_, rows), figure = figures.tested(result), figures.judged_by(result)
    yield tag("p", " ".join(figures.finding(result)), class_="lead")
    large = {label: row[figure] for label, row in rows.items()}
    if figure == "accuracy" and (best := figures.best_baseline(result)):
        large[f"best without training: {best[0]}"] = best[1]
    cards = [
        tag("div", tag("strong", figures.shown(figure, value)), tag("span", label))
        for label, value in large.items()
    ]
    yield tag("div", *cards, class_="cards")
    for caption, places, accuracies in figures.by_place(result):
        every = list(accuracies.items())
        trained, others = dict(every[: len(rows)]), dict(every[len(rows) : len(COLORS)])
        words = f"{caption}; behind each label over all of them."
        yield image(accuracy_by_place, words, caption, places, trained, others)
    if all("by_segment" in row for row in rows.values()):
        yield image(_by_segment, "Perplexity by how far a document has been read.", rows)
    for one in figures.tables(result):
        yield table(one.header, one.rows, one.caption)


def _by_segment(file: Any, rows: Mapping[str, Result]) -> None:
    last = {label: math.exp(row["by_segment"]["loss"][-1]) for label, row in rows.items()}
    found = (f"{label} {figures.shown('perplexity', value)}" for label, value in last.items())
    with picture(file, height=4.2) as axes:
        language_plots.by_segment(axes, rows)
        entitle(axes, f"At the end of documents: {', '.join(found)}")


def _training(found: Contents) -> Iterator[Element]:
    """The course of loss and figure, beside the final figures; nothing of an evaluation."""
    if not found.rows:
        if found.config:
            yield _note("metrics.jsonl holds no rows, so there are no curves.")
        return
    name, levels = plots.figure_of(found.rows), {}
    if result := found.results.get(contents.RESULT):
        rows = figures.tested(result)[1]
        levels = {label: row[name] for label, row in rows.items() if name in row}
        if name == "accuracy" and (best := figures.best_baseline(result)):
            levels |= dict([best])
    words = (
        "Loss and validation by updates, from metrics.jsonl; dashed, with figures: on test data."
    )
    yield image(plots.course, words, found.rows, dict(list(levels.items())[: len(COLORS) - 1]))


def _memory(found: Contents) -> Iterator[Element]:
    """Retention by the configuration alone."""
    models = [found.config, *(one.get("trained", {}) for one in found.results.values())]
    model = next((one["model"] for one in models if "model" in one), {})
    if not model.get("long_term"):
        yield _note("The trained model has no long-term memory.")
        return
    try:
        cfg = folders.from_json(LongTermConfig, model["long_term"], "model.long_term")
        kept = retention(cfg, _WRITES, length=model["segment_len"])
    except ValueError as error:
        yield _note(f"There is no retention curve of this memory: {error}.")
    else:
        yield from _retention(cfg, kept.linear.mean(1), kept.density.mean(1))


def _retention(cfg: LongTermConfig, linear: np.ndarray, density: np.ndarray) -> Iterator[Element]:
    """The curves, and a table with the part of the memory's time that a segment has."""
    names = {"fixed": f"τ = {cfg.tau:g}", "power": f"p = {cfg.power:g}"}
    curves = {names.get(cfg.contraction, cfg.contraction): {"linear": linear, "density": density}}
    yield image(
        analysis_plots.retention,
        "What is left of a segment’s mean after further writes of white noise, by the settings "
        "alone: R² of the best single density, and of the best linear read-out.",
        curves,
    )
    rows = [["R², one density", *(f"{value:.2f}" for value in density[_AGES])]]
    rows.append(["R², linear read-out", *(f"{value:.2f}" for value in linear[_AGES])])
    if not cfg.sticky:
        shares = np.diff(segment_edges(cfg, _WRITES))[::-1]
        rows.append(["part of the memory’s time", *(f"{share:.4f}" for share in shares[_AGES])])
    yield table(("further writes", *map(str, _AGES)), rows, "What is left of a segment")


def _densities(found: Contents) -> Iterator[Element]:
    """Where the heads look, as `experiments.analysis memory` found it, or the command for it."""
    memory, remembers = found.memory, bool(found.config.get("model", {}).get("long_term"))
    if memory is not None:
        words = f"Where each head looks, in {memory['sequences']} test sequences"
        yield image(analysis_plots.heads, f"{words}, found by {memory['command']}.", memory)
        if "asked_ages" in memory:
            yield image(analysis_plots.asked, "Where each head looks for each asked age.", memory)
        yield table(*memory_analysis.heads_table(memory), f"After {memory['writes']} writes")
    elif remembers and (command := _DENSITIES.get(found.experiment.name)):
        line = f"python -m experiments.{command} --run {shlex.quote(str(found.folder))}"
        yield _note("This has not been looked at yet. The command is ", tag("code", line), ".")


def _written(result: Result) -> Iterator[Element]:
    """A sample of text, and replies beside the true ones."""
    if sample := result.get("sample"):
        yield tag(
            "p", f"After the beginning of {sample['document']}, in bold what the model wrote:"
        )
        yield tag("blockquote", f"…{sample['after']}", tag("strong", sample["written"]))
    if replies := result.get("ten_replies"):
        parts = ("before", "true", "reply")
        rows = [[str(one.get("title", "")), *(one[part] for part in parts)] for one in replies]
        header = ("document", "before", "true reply", "generated reply")
        yield table(header, rows, "Some replies", "texts")


def _settings(found: Contents) -> Iterator[Element]:
    """All options: those of the run beside its preset's, and those of each evaluation."""
    if found.config:
        own, (name, preset) = contents.flat(found.config), contents.nearest_preset(found)
        changed = {field for field in own | preset if own.get(field) != preset.get(field)}
        text = f"{len(changed)} of {len(own)} settings differ from the preset {name}"
        yield tag("p", f"{text}. They are marked, with the preset’s value.")
        yield _options(own, {field: preset.get(field, "nothing") for field in changed})
        if found.changes:
            yield tag("p", "Changed when the run went on:")
            yield tag("ul", *(tag("li", change) for change in found.changes))
    for name, one in found.results.items():
        if name == contents.RESULT:
            continue
        yield tag("p", f"Of the evaluation {name}:")
        yield _options(contents.flat(one["settings"]), {})
        if not found.config and one.get("trained"):
            yield tag("p", "Of the model that was evaluated:")
            yield _options(contents.flat(one["trained"]), {})


def _options(values: Mapping[str, str], marked: Mapping[str, str]) -> Element:
    """A small table for each group of options, those of one config."""
    groups: dict[str, list[tuple[str, Element | str]]] = {}
    for field in [*values, *sorted(marked.keys() - values.keys())]:
        group, _, option = field.rpartition(".")
        cell: Element | str = values.get(field, "nothing")
        if field in marked:
            cell = tag("span", tag("mark", cell), f" preset: {marked[field]}")
        groups.setdefault(group, []).append((option, cell))
    made = [table(("option", "value"), rows, group or "run") for group, rows in groups.items()]
    return tag("div", *made, class_="options")


def _made(result: Result) -> Iterator[Element]:
    """The command, and what else a figure is reported with."""
    yield tag("pre", result["command"], class_="command")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = [[name, str(result[name])] for name in ("commit", "device", "date")]
    rows += [["versions", versions], ["seed", str(result["settings"].get("seed", "none"))]]
    if "steps" in result:
        rows.append(["updates", tables.updates([result])])
        rows.append(["parameters", tables.parameters([result])])
        if "memory_bytes_per_row" in result:  # not of version 0.2
            rows.append(["memory of a row", tables.memory_of_a_row([result])])
        rows.append(["tokens a second of training", tables.rate([result])])
        rows.append(["minutes of training", f"{result['training_seconds'] / 60:.1f}"])
        until = [f"{name} {seconds:.1f}" for name, seconds in result["seconds_until"].items()]
        rows.append(["seconds from the start until", ", ".join(until)])
    yield table(("", ""), rows, "", "facts")
