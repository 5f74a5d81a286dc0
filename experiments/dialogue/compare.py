"""The rows of the paper from one checkpoint on the same conversations: one table, resumable.

Each row goes on from --init-from (GPT-2's files, or a run of language_modeling) with equal steps;
without it they begin with nothing. `-emptied` rows are trained with the memory emptied before every
segment, beside the column in which the trained model's memory is emptied at test time.
Finished cells are kept and half-finished ones go on, so the command can be stopped and repeated.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.dialogue import config as experiment
from experiments.dialogue import task as dialogue_task
from experiments.dialogue.records import Reading
from experiments.language_modeling import start
from experiments.results.dialogue import DIALOGUE, dialogue_row
from experiments.run import cli, folders, training
from experiments.run.tables import markdown
from inf_former_jax.training.objective import Objective

EMPTIED = "-emptied"
_WITH_MEMORY = [name for name in experiment.ROWS if name not in ("no-document", "window")]


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which cells of the table to fill."""

    models: tuple[str, ...] = (*experiment.ROWS, *(f"{name}{EMPTIED}" for name in _WITH_MEMORY))
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    seeds: int = 1
    """Seeds 0, 1, … of each row: the order of the conversations and what is grafted."""
    updates: int = 200
    """Updates of each row."""
    learning_rate: float = 0.0
    """Peak rate of a row's updates, a linear decay to zero; 0 = 1e-3, with GPT-2's files 5e-5."""
    memory_learning_rate: float = 0.0
    """The same of the memory's parameters; 0 = 1e-2, with GPT-2's files 2.5e-4."""
    memory_gradient: int = 0
    """Segments that the loss reaches back through a long-term memory's writes."""
    document: str = "whole"
    """What the rows with a document read: whole, or the section that a turn refers to."""
    scored: str = "both"
    """Speakers whose utterances count: both, or readers, who saw the document."""
    reply_tokens: int = 50
    temperature: float = 1.0
    top_p: float = 0.9
    batch_size: int = 8
    """Conversations in one update."""
    reading: Reading = dataclasses.field(default_factory=Reading)
    data: str = ""
    """CMU-DoG's release or JSON lines; "" = the made-up sample."""
    init_from: str = ""
    """What all rows begin with. GPT-2's files: the paper's size and settings (SPEC §7)."""
    valid_conversations: int = 0
    test_conversations: int = 0
    replies: int = 200
    wordnet: str = ""
    cache: str = "runs/tokens"
    out: str = "runs/dialogue/compare"
    """Folder of the runs and the table."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the table."""

    model: str
    config: experiment.DialogueConfig
    folder: Path


def cells(cfg: CompareConfig) -> list[Cell]:
    """All rows, models innermost.

    Raises:
        ValueError: an unknown row, or a number of seeds or updates that cannot be.
    """
    for name, least in (("seeds", 1), ("updates", 2)):
        if getattr(cfg, name) < least:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: {least} or more")
    for name in cfg.models:
        if name not in CompareConfig.models:
            accepted = ", ".join(CompareConfig.models)
            raise ValueError(f"models: found {name}, accepted: {accepted}")
    if len(set(cfg.models)) < len(cfg.models):
        raise ValueError(f"models: found {' '.join(cfg.models)}, accepted: each row once")
    if not cfg.models:
        raise ValueError(f"models: found none, accepted: {', '.join(CompareConfig.models)}")
    return list(_cells(cfg))


def _cells(cfg: CompareConfig) -> Iterator[Cell]:
    published = bool(cfg.init_from) and not start.is_run(cfg.init_from)
    for seed in range(cfg.seeds):
        for name in cfg.models:
            plain = name.removesuffix(EMPTIED)
            given = experiment.PRESETS[f"paper-{plain}" if published else plain][1]
            rates = {"schedule": "linear", "warmup_steps": min(20, cfg.updates // 2)}
            of_preset = given.optim.learning_rate, given.optim.memory_learning_rate
            usual = of_preset if published else (1e-3, 1e-2)
            rates["learning_rate"] = cfg.learning_rate or usual[0]
            rates["memory_learning_rate"] = cfg.memory_learning_rate or usual[1]
            model, layout = given.model, dataclasses.replace(given.layout, scored=cfg.scored)
            if model.long_term is not None:
                model = dataclasses.replace(model, memory_gradient=cfg.memory_gradient)
            if layout.document != "none":
                layout = dataclasses.replace(layout, document=cfg.document)
            shared = ("data", "init_from", "batch_size", "reading", "valid_conversations",
                      "test_conversations", "replies", "reply_tokens", "temperature", "top_p",
                      "wordnet", "cache")  # fmt: skip
            config = dataclasses.replace(
                given,
                model=model,
                layout=layout,
                optim=dataclasses.replace(given.optim, steps=cfg.updates, **rates),
                loop=dataclasses.replace(given.loop, minutes=0.0, eval_every=cfg.updates),
                seed=seed,
                objective=Objective(empty_memory=name != plain),
                **{field: getattr(cfg, field) for field in shared},
            )
            yield Cell(name, config, Path(cfg.out) / f"{name}-{seed}")


def fill(table: Sequence[Cell], argv: Sequence[str]) -> None:
    """Run the cells one after the other: finished ones are kept, half-finished ones go on."""
    for number, cell in enumerate(table, start=1):
        print(f"[{number}/{len(table)}] {cell.folder.name}", flush=True)
        with cli.refusals():
            config = dialogue_task.resolved(cell.config)
            result = folders.open_run(cell.folder, config)
        if result is None:
            said = folders.provenance("dialogue", cell.model, argv)
            with cli.stops():
                training.run(dialogue_task.DIALOGUE, config, cell.folder, said)


def report(folder: Path, table: Sequence[Cell]) -> None:
    """Print the table and ten replies of every row; write it as markdown."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = {cell.folder.name.rsplit("-", 1)[0]: [] for cell in table}
    for cell in table:
        file = cell.folder / "result.json"
        if file.exists():
            made[cell.folder.name.rsplit("-", 1)[0]].append(json.loads(file.read_text()))
    rows = [dialogue_row(name, results) for name, results in made.items()]
    shown = Table(title="dialogue from one checkpoint", title_justify="left")
    for name in DIALOGUE:
        shown.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        shown.add_row(*row)
    console = Console(width=190)
    console.print(shown)
    for place in zip(*(results[0]["ten_replies"] for results in made.values() if results),
                     strict=False):  # fmt: skip
        console.print(
            f"\n[bold]{escape(place[0]['before'])}[/]\n  true: {escape(place[0]['true'])}"
        )
        for name, one in zip((n for n, results in made.items() if results), place, strict=True):
            console.print(f"  {name}: {escape(one['reply'])}")
    (folder / "table.md").write_text(markdown(DIALOGUE, rows) + "\n", encoding="utf-8")
    print(f"{folder}/table.md")


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.dialogue compare [--options]`."""
    program = "python -m experiments.dialogue compare"
    cfg = cli.options(program, __doc__, CompareConfig(), argv)
    with cli.refusals():
        table = cells(cfg)
        folder = folders.made(cfg.out)
        for cell in table[: len(cfg.models)]:  # the first seed of every row
            dialogue_task.check(dialogue_task.resolved(cell.config))
    fill(table, ["compare", *argv])
    report(folder, table)
