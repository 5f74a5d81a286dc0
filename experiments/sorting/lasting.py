"""Does a memory that lasts matter? Sorting documents of more and more segments (SPEC §3, §5).

One small model sorts documents of 8 to 64 segments, with every way to contract its past. With a
fixed τ a segment written k writes ago has τ^k of its width left. With τ_k = k/(k+1) all segments
have the same width.
Cells are run one after the other; finished ones are kept and half-finished ones go on.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from experiments.run.grid import EMPTIED, Cell, Seeds
from experiments.sorting.compare import COMPARE, cell
from experiments.sorting.config import SortingConfig, small
from experiments.sorting.data import VOCAB
from inf_former_jax.fields import Checked, Count, NonEmpty, NonNegative, Range
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.require import require

_SIZES = {"segment_len": 32, "mem_len": 32}

#: One contraction for another, and the constants that retain most of 64 segments at this N
#: (`experiments.analysis choose --tokens 2048 --segment 32 --num-basis 128`, rounded).
_POWER = {"contraction": "power"}
_LASTING = {**_POWER, "widths": (0.0078,), "num_samples": 512}

#: What is changed of the memory in each row; else it has N = M = 128 and the paper's constants.
MEMORIES: dict[str, dict[str, Any]] = {
    "infinity-former": {},
    "infinity-former-tau-0.9": {"tau": 0.9},
    "infinity-former-power": _POWER,
    "infinity-former-lasting": _LASTING,
    "infinity-former-sticky": {"sticky": True},
    "infinity-former-sticky-drawn": {"sticky": True, "locations": "draw"},
    "infinity-former-lasting-sticky": {**_LASTING, "sticky": True},
}


@dataclasses.dataclass(frozen=True)
class LastingConfig(Checked):
    """Which cells of the table to fill."""

    models: NonEmpty[str] = (
        "transformer-xl",
        *MEMORIES,
        f"infinity-former-lasting{EMPTIED}",
    )
    """Rows; with -emptied, trained with its memory emptied before every segment."""
    segments: NonEmpty[Count] = (8, 16, 32, 64)
    """Segments of 32 tokens of a document; with the 20 answers in the last one."""
    seeds: Seeds = 2
    """Seeds 0, 1, … of each cell."""
    updates: Annotated[int, Range(2)] = 3000
    """Training steps of a run."""
    minutes: NonNegative = 0.0
    """Training time of a run, compile included; 0 = all updates."""
    out: str = "runs/sorting/lasting"
    """Folder of the runs, the table and the picture."""


def config_of(name: str) -> SortingConfig:
    """The row's model in its small size.

    Raises:
        ValueError: an unknown row.
    """
    if name == "transformer-xl":  # equal cost: a short-term memory twice as long
        return small(presets.transformer_xl(), **{**_SIZES, "mem_len": 64})
    base, rows = name.removesuffix(EMPTIED), ", ".join(LastingConfig.models)
    require(base in MEMORIES, "models", name, f"{rows}, and any memory{EMPTIED}")
    memory = LongTermConfig(**{"num_basis": 128, "num_samples": 128, **MEMORIES[base]})
    return small(presets.infinity_former(), **_SIZES, long_term=memory)


def cells(cfg: LastingConfig) -> list[Cell[SortingConfig]]:
    """All cells, models innermost, so that every stage of the table is a comparison.

    Raises:
        ValueError: an unknown model, or a number of segments or updates that cannot be.
    """
    table = []
    for segments in cfg.segments:
        for seed in range(cfg.seeds):
            for name in cfg.models:
                config = config_of(name)
                warmup = min(config.optim.warmup_steps, cfg.updates // 2)
                config = dataclasses.replace(
                    config,
                    optim=dataclasses.replace(config.optim, steps=cfg.updates, warmup_steps=warmup),
                    length=segments * _SIZES["segment_len"] - VOCAB,
                    batch_size=8,
                    seed=seed,
                    loop=dataclasses.replace(config.loop, minutes=cfg.minutes),
                )
                table.append(cell(name, config, Path(cfg.out) / str(segments)))
    return table


LASTING = dataclasses.replace(
    COMPARE,
    command="lasting",
    description=__doc__,
    options=LastingConfig(),
    cells=cells,
    title="sorting: contractions of the memory",
)
