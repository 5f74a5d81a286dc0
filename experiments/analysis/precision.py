"""Does a memory with more functions sort better? Accuracy beside the signal's error (paper §4.1).

    python -m experiments.analysis precision [--options]

Trains small ∞-formers to sort, which differ in N at one length, and in the length at one N. The
basis has the paper's widths whatever N is, or one width as narrow as N allows
(`experiments.analysis.signal`). Of each trained model it measures how well its memory's signal
gives back the hidden states that were written. Cells are run one after the other; finished ones are
kept and half-finished ones go on.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.analysis import signal, signal_plots
from experiments.results.analysis import FUNCTIONS
from experiments.run import folders
from experiments.run.grid import Cell, Grid, Results, Seeds
from experiments.sorting.config import PRESETS, SortingConfig
from experiments.sorting.data import VOCAB
from experiments.sorting.task import SORTING
from inf_former_jax import files
from inf_former_jax.fields import Basis, Checked, Count, NonEmpty, NonNegative, Range
from inf_former_jax.memory import state
from inf_former_jax.require import require

#: Test sequences of which a run's signal is measured.
_SEQUENCES = 8


@dataclasses.dataclass(frozen=True)
class PrecisionConfig(Checked):
    """Which cells of the table to fill."""

    num_basis: NonEmpty[Basis] = (16, 32, 64, 128, 256, 512, 1024)
    """N of the memories that sort `length` tokens."""
    length: Count = 1068
    """Tokens that they sort; each length with its answer inside one segment."""
    lengths: tuple[Count, ...] = (300, 556, 1068, 2092)
    """Tokens that a memory of `at` functions sorts."""
    at: Basis = 64
    """N of the memory that sorts all lengths."""
    widths: NonEmpty[Literal["published", "narrow"]] = ("published", "narrow")
    """.01 and .05 whatever N is, or one width: 1/N, or the distance of two vectors of a write if
    that is more."""
    seeds: Seeds = 1
    """Seeds 0, 1, … of each cell."""
    updates: Annotated[int, Range(2)] = 800
    """Training steps of a run."""
    minutes: NonNegative = 0.0
    """Training time of a run, compile included; 0 = all updates."""
    out: str = "runs/analysis/precision"
    """Folder of the runs, the table and the picture."""


def cells(cfg: PrecisionConfig) -> list[Cell[SortingConfig]]:
    """All cells, seeds outermost: each N at one length, then each length at one N.

    Raises:
        ValueError: a number of functions, a length or a number of updates that cannot be.
    """
    sizes = [(number, cfg.length) for number in cfg.num_basis]
    sizes += [(cfg.at, length) for length in cfg.lengths]
    shapes = [
        (seed, *size, widths)
        for seed in range(cfg.seeds)
        for size in dict.fromkeys(sizes)
        for widths in cfg.widths
    ]
    return [_cell(cfg, *shape) for shape in shapes]


def _cell(
    cfg: PrecisionConfig, seed: int, num_basis: int, length: int, widths: str
) -> Cell[SortingConfig]:
    given = PRESETS["infinity-former"][1]
    model, warmup = given.model, min(given.optim.warmup_steps, cfg.updates // 2)
    assert model.long_term is not None
    window = state.fifo_len(model)
    writes = -(-(length + VOCAB) // model.segment_len) - window // model.segment_len
    found, accepted = f"{length}, all in the short-term memory", f"{window - VOCAB + 1} or more"
    require(writes >= 1, "length", found, accepted)
    memory = signal.with_functions(model.long_term, num_basis, widths, writes, model.segment_len)
    config = dataclasses.replace(
        given,
        model=dataclasses.replace(model, long_term=memory),
        length=length,
        seed=seed,
        optim=dataclasses.replace(given.optim, steps=cfg.updates, warmup_steps=warmup),
        loop=dataclasses.replace(given.loop, minutes=cfg.minutes),
    )
    return Cell(
        row=(str(num_basis), widths, f"{length:,}"),
        title=f"N = {num_basis}, {widths} widths, {length:,} tokens, seed {seed}",
        preset=f"{widths}-{num_basis}",
        config=config,
        folder=Path(cfg.out) / str(length) / f"{num_basis}-{widths}-{seed}",
    )


def measure(run: Path) -> dict[str, Any]:
    """The errors of a finished run's own memory (`own_signal.json` there), measured once.

    Raises:
        ValueError: the file holds something else.
    """
    path = run / "own_signal.json"
    if not path.is_file():
        folders.write_json(path, {"signal": signal.look(run, (), _SEQUENCES, 1)})
    accepted = "the figures of a signal; delete it, and they are measured again"
    found = files.read_json(path, accepted)
    require(found.keys() == {"signal"}, str(path), ", ".join(found), accepted)
    return found


def finish(folder: Path, found: Results) -> None:
    """Draw the picture, and write the results with the figures of their signals."""
    results = [result for finished in found.values() for result in finished]
    for result in results:
        settings = result["settings"]
        name = f"{settings['length']}-{result['preset']}-{settings['seed']}.json"
        folders.write_json(folder / name, result)
    if results:
        signal_plots.precision(folder / "precision.png", results)
    print(f"{folder}/table.md, {folder}/precision.png, and a JSON file of each run")


PRECISION = Grid(
    experiment=SORTING,
    command="precision",
    description=__doc__,
    options=PrecisionConfig(),
    cells=cells,
    title="sorting: accuracy and the error of the signal",
    labels=("N", "widths", "tokens"),
    columns=FUNCTIONS,
    width=150,
    finish=finish,
    program="analysis",
    measure=measure,
)
