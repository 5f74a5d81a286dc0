"""Which memory sorts best? (`experiments.run.memories`)"""

import dataclasses

from experiments.results.sorting import COMPARISON
from experiments.run import memories
from experiments.run.memories import MemoriesConfig
from experiments.sorting.config import PRESETS, SortingConfig
from experiments.sorting.task import SORTING


def config_of(length: int, cfg: MemoriesConfig) -> SortingConfig:
    """The CPU preset on sequences of `length` tokens, 8 in an update."""
    return dataclasses.replace(PRESETS["infinity-former"][1], length=length, batch_size=8)


MEMORIES = memories.grid(
    SORTING,
    config_of,
    memories.by_ridge(PRESETS, fixed="infinity-former", power="infinity-former-lasting"),
    MemoriesConfig(sizes=(1068,), updates=1600),
    "tokens",
    COMPARISON,
)
