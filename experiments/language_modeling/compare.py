"""Every model of the paper from one checkpoint on the same text: one table, one picture, resumable.

First a GPT-2 without memory is trained (or given by --init-from), then each row goes on from it
with equal steps. For each model with a memory there is a control *trained* with the memory emptied
before every segment (`-emptied`), beside the column in which the trained model's memory is emptied
at test time: what the memory adds is the difference to these. Finished cells are kept and
half-finished ones go on, so the same command can be stopped and repeated.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.language_modeling import config as lm
from experiments.language_modeling import plots as plots_text
from experiments.language_modeling import start
from experiments.language_modeling import task as language_modeling_task
from experiments.results.language import LANGUAGE, language_row
from experiments.run import cli, folders, training
from experiments.run.tables import markdown
from inf_former_jax.training.objective import Objective

EMPTIED = "-emptied"
_WITH_MEMORY = [name for name in lm.MODELS if name != "gpt2"]


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which cells of the table to fill."""

    models: tuple[str, ...] = (*lm.MODELS, *(f"{name}{EMPTIED}" for name in _WITH_MEMORY))
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    seeds: int = 2
    """Seeds 0, 1, … of each row: the order of the documents and what is grafted."""
    base_updates: int = 3000
    """Updates of the GPT-2 without memory that all rows begin with; none with --init-from."""
    updates: int = 1000
    """Updates of each row."""
    learning_rate: float = 1e-3
    """Peak rate of a row's updates; a linear decay to zero."""
    memory_learning_rate: float = 2e-3
    """The same of the memory's parameters."""
    batch_size: int = 8
    segments: int = 1
    """Segments of a row in one update."""
    piece: int = 0
    """Training documents of the rows are cut into pieces of so many segments; 0 = whole."""
    vocab_size: int = 2048
    """Tokens of the BPE trained on the text, without --init-from."""
    data: str = ""
    """Folder with train, valid and test; "" = Shakespeare's plays."""
    tokenizer: str = ""
    init_from: str = ""
    """GPT-2's files: the paper's size and settings (SPEC §6) instead of the CPU's."""
    valid_characters: int = 20_000
    """Of each validation document; 0 = all."""
    test_characters: int = 0
    """Of each test document; 0 = all."""
    cache: str = "runs/tokens"
    out: str = "runs/language_modeling/compare"
    """Folder of the runs, the table and the pictures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the table; the first one is the checkpoint that the others begin with."""

    model: str
    config: lm.LanguageModelingConfig
    folder: Path


def cells(cfg: CompareConfig) -> list[Cell]:
    """The base, if there is none given, and all rows, models innermost.

    Raises:
        ValueError: an unknown row, or a number of seeds or updates that cannot be.
    """
    for name, least in (("seeds", 1), ("updates", 2), ("base_updates", 2)):
        if getattr(cfg, name) < least:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: {least} or more")
    if not cfg.models:
        raise ValueError(f"models: found none, accepted: {', '.join(CompareConfig.models)}")
    return list(_cells(cfg))


def _cells(cfg: CompareConfig) -> Iterator[Cell]:
    base = Path(cfg.out) / "base"
    if not cfg.init_from:
        given = lm.PRESETS["gpt2"][1]
        steps = dataclasses.replace(given.optim, steps=cfg.base_updates,
                                    warmup_steps=min(100, cfg.base_updates // 2))  # fmt: skip
        yield Cell("gpt2", _common(cfg, given, steps), base)
    for seed in range(cfg.seeds):
        for name in cfg.models:
            plain = name.removesuffix(EMPTIED)
            if plain not in lm.MODELS or name == f"gpt2{EMPTIED}":
                accepted = ", ".join(CompareConfig.models)
                raise ValueError(f"models: found {name}, accepted: {accepted}")
            given = lm.PRESETS[f"paper-{plain}" if cfg.init_from else plain][1]
            rates = {"schedule": "linear", "warmup_steps": min(50, cfg.updates // 2)}
            if not cfg.init_from:
                rates["learning_rate"] = cfg.learning_rate
                rates["memory_learning_rate"] = cfg.memory_learning_rate
            steps = dataclasses.replace(given.optim, steps=cfg.updates, **rates)
            config = dataclasses.replace(
                _common(cfg, given, steps),
                init_from=cfg.init_from or str(base),
                piece=cfg.piece,
                seed=seed,
                objective=Objective(empty_memory=name != plain),
            )
            yield Cell(name, config, Path(cfg.out) / f"{name}-{seed}")


def _common(cfg, given, steps):
    """The fields that all cells share."""
    shared = ("data", "tokenizer", "cache", "valid_characters", "test_characters", "batch_size",
              "segments")  # fmt: skip
    model = given.model
    if not cfg.init_from:
        model = dataclasses.replace(model, vocab_size=cfg.vocab_size)
    return dataclasses.replace(
        given,
        model=model,
        optim=steps,
        loop=dataclasses.replace(given.loop, minutes=0.0),
        sample=0,
        **{name: getattr(cfg, name) for name in shared},
    )


def fill(table: Sequence[Cell], argv: Sequence[str]) -> None:
    """Run the cells one after the other: finished ones are kept, half-finished ones go on."""
    for number, cell in enumerate(table, start=1):
        print(f"[{number}/{len(table)}] {cell.folder.name}")
        with cli.refusals():
            config = start.resolved(cell.config)
            language_modeling_task.check(config)
            result = folders.open_run(cell.folder, config)
        if result is None:
            said = folders.provenance("language_modeling", cell.model, argv)
            with cli.stops():
                training.run(language_modeling_task.LANGUAGE_MODELING, config, cell.folder, said)


def report(folder: Path, table: Sequence[Cell]) -> None:
    """Print the table; write it as markdown, and draw the pictures."""
    from rich.console import Console
    from rich.table import Table

    made: dict[str, list[dict[str, Any]]] = {cell.folder.name.rsplit("-", 1)[0]: []
                                             for cell in table}  # fmt: skip
    for cell in table:
        file = cell.folder / "result.json"
        if file.exists():
            made[cell.folder.name.rsplit("-", 1)[0]].append(json.loads(file.read_text()))
    rows = [language_row(name, results) for name, results in made.items()]
    shown = Table(title="language models from one checkpoint", title_justify="left")
    for name in LANGUAGE:
        shown.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        shown.add_row(*row)
    Console(width=170).print(shown)
    (folder / "table.md").write_text(markdown(LANGUAGE, rows) + "\n", encoding="utf-8")
    plots_text.comparison(folder / "comparison.png", made)
    print(f"{folder}/table.md, {folder}/comparison.png")


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.language_modeling compare [--options]`."""
    program = "python -m experiments.language_modeling compare"
    cfg = cli.options(program, __doc__, CompareConfig(), argv)
    with cli.refusals():
        table = cells(cfg)
        folder = folders.made(cfg.out)
        language_modeling_task.check(start.resolved(table[0].config))
    fill(table, ["compare", *argv])
    report(folder, table)
