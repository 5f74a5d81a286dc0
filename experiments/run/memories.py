"""Every memory on one task: how it is written, read, contracted and steered (SPEC §3, §9).

A memory's name says what it is made of:

    ridge | intervals       written by the paper's regression, or as intervals on equal cells
    gaussian | gibbs        read at a place, or by content
    joined | mixed          by content in one softmax with the window, or by heads of both kinds
    fixed | power           τ = .75, or τ_k = k/(k+1)
      | doubling | kept     or in pairs of cells, or not at all: some cells are dropped. Both are
                            of intervals only
    uniform | sticky        contracted everywhere alike, or more gently where attention fell; of
                            what is kept, the newest, or what attention fell on
      | worth               of what is kept and read by content in all heads: what the model has
                            learned to keep

The row `window` has no memory. Its short-term memory is as much longer as a memory has functions,
so that attention has as many keys. -emptied trains a memory that is emptied before every segment.

Cells are run one after the other; finished ones are kept and half-finished ones go on. Every model
is also tested with its memory emptied before every segment, and with another document's memory.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from experiments.run import tables
from experiments.run.config import RunConfig
from experiments.run.experiment import Config, Experiment
from experiments.run.grid import EMPTIED, Cell, Grid, Results, Seeds
from inf_former_jax.fields import Checked, Count, Natural, NonEmpty, NonNegative, Range
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.presets import BY_CONTENT as CONTENT
from inf_former_jax.require import require
from inf_former_jax.training.objective import Objective

WRITES, READS = ("ridge", "intervals"), ("gaussian", "gibbs", "joined", "mixed")
CONTRACTIONS, STEERED = ("fixed", "power", "doubling", "kept"), ("uniform", "sticky", "worth")
NAMES = tuple(
    "-".join(parts)
    for parts in product(WRITES, READS, CONTRACTIONS, STEERED)
    if parts[0] == "intervals" or parts[2] not in ("doubling", "kept")
    if parts[2] != "doubling" or parts[3] == "uniform"
    if parts[3] != "worth" or (parts[2] == "kept" and parts[1] in ("gibbs", "joined"))
)

#: No memory, and a short-term memory that attends to as many more vectors.
WINDOW = "window"

#: What heads that read by content learn beside their projections.
BY_CONTENT = {name: getattr(CONTENT, name) for name in ("turn_queries", "age_bias", "unit_cells")}


def memory(name: str, ridge: Mapping[str, LongTermConfig], heads: int) -> LongTermConfig:
    """The memory of a name.

    Args:
        ridge: contraction → the task's memory that is written by ridge regression.
        heads: of a layer; half of them read by content in a mixed one.

    Raises:
        ValueError: no such name.
    """
    parts = "-".join(f"({'|'.join(part)})" for part in (WRITES, READS, CONTRACTIONS, STEERED))
    accepted = f"{parts}, with or without {EMPTIED}; or {WINDOW}"
    require(name in NAMES, "memories", name, accepted)
    write, read, contraction, steered = name.split("-")
    given = ridge[{"doubling": "power", "kept": "fixed"}.get(contraction, contraction)]
    changes = dict[str, Any](sticky=steered != "uniform", learn_worth=steered == "worth")
    if read == "gibbs":
        changes |= {"density": "gibbs", **BY_CONTENT}
    elif read == "joined":
        changes |= {"density": "gibbs", "joined": True, **BY_CONTENT}
    elif read == "mixed":
        changes |= {"content_heads": heads // 2, **BY_CONTENT}
    if write == "ridge":
        return dataclasses.replace(given, **changes)
    shape: dict[str, Any] = {"num_basis": given.num_basis, "min_var": given.min_var}
    shape |= {"functions": "rectangular", "fit": "intervals", "contraction": contraction}
    if changes["sticky"] and contraction != "kept":
        shape["num_samples"] = given.num_basis
    return LongTermConfig(**{**shape, **changes})


def by_ridge(
    presets: Mapping[str, tuple[str, RunConfig]], fixed: str, power: str
) -> dict[str, LongTermConfig]:
    """Contraction → the memory of the preset that has it."""
    named = {"fixed": fixed, "power": power}
    memories = {name: presets[preset][1].model.long_term for name, preset in named.items()}
    return {name: found for name, found in memories.items() if found is not None}


@dataclasses.dataclass(frozen=True)
class MemoriesConfig(Checked):
    """Which cells of the table to fill."""

    sizes: NonEmpty[Count]
    """Sizes of the task, which the table's second column names."""
    memories: NonEmpty[str] = tuple(name for name in NAMES if name.endswith("uniform"))
    """Rows, also window; with -emptied, trained with its memory emptied before every segment."""
    gradients: NonEmpty[Annotated[int, Range(0)]] = (0,)
    """k: how many segments back the gradient goes through the memory."""
    windows: tuple[Natural, ...] = ()
    """Lengths of the short-term memory in tokens; none = the task's own."""
    seeds: Seeds = 1
    """Seeds 0, 1, … of each cell."""
    updates: Annotated[int, Range(2)] = 800
    """Training steps of a run."""
    minutes: NonNegative = 0.0
    """Training time of a run, compile included; 0 = all updates."""
    data: str = ""
    """Folder of text, for a task that needs one."""
    out: str = "runs/memories"
    """Folder of the runs and the table."""


def grid(
    experiment: Experiment[Config],
    config_of: Callable[[int, MemoriesConfig], Config],
    ridge: Mapping[str, LongTermConfig],
    options: MemoriesConfig,
    label: str,
    columns: tables.Columns,
) -> Grid[Config]:
    """`python -m experiments.NAME memories`: a table of memories on an experiment's task.

    Args:
        config_of: from a size to the task's config, with any memory.
        ridge: contraction → the task's memory that is written by ridge regression.
        options: the default ones.
        label: header of the sizes.
    """

    def cells(cfg: MemoriesConfig) -> Sequence[Cell[Config]]:
        windows = cfg.windows or (None,)
        shapes = product(cfg.sizes, windows, range(cfg.seeds), cfg.gradients, cfg.memories)
        found = [cell(cfg, *shape) for shape in shapes]
        # A window is the same whatever gradient goes through a memory.
        return list({one.folder: one for one in found}.values())

    def cell(
        cfg: MemoriesConfig, size: int, window: int | None, seed: int, gradient: int, name: str
    ) -> Cell[Config]:
        config = config_of(size, cfg)
        model = config.model
        if window is not None:
            model = dataclasses.replace(model, mem_len=window)
        if name == WINDOW:
            longer = model.mem_len + ridge["power"].num_basis
            changes = {"long_term": None, "memory_gradient": 0, "mem_len": longer}
        else:
            used = memory(name.removesuffix(EMPTIED), ridge, model.num_heads)
            changes = {"long_term": used, "memory_gradient": gradient}
        model = dataclasses.replace(model, **changes)
        reach = model.memory_gradient
        warmup = min(config.optim.warmup_steps, cfg.updates // 2)
        config = dataclasses.replace(
            config,
            model=model,
            seed=seed,
            optim=dataclasses.replace(config.optim, steps=cfg.updates, warmup_steps=warmup),
            loop=dataclasses.replace(config.loop, minutes=cfg.minutes),
            objective=Objective(empty_memory=name.endswith(EMPTIED)),
        )
        return Cell(
            row=(name, f"{size:,}", str(model.mem_len), str(reach)),
            title=f"{name}, {label} {size:,}, window {model.mem_len}, k = {reach}, seed {seed}",
            preset=name,
            config=config,
            folder=Path(cfg.out) / f"{size}-{model.mem_len}" / f"{name}-{reach}-{seed}",
        )

    def finish(folder: Path, found: Results) -> None:
        print(f"{folder}/table.md")

    return Grid(
        experiment=experiment,
        command="memories",
        description=__doc__,
        options=dataclasses.replace(options, out=f"runs/{experiment.name}/memories"),
        cells=cells,
        title=f"{experiment.name}: memories on the same data",
        labels=("memory", label, "window", "k"),
        columns=columns,
        width=150,
        finish=finish,
    )
