"""Which memory finds a key again, and from how far? (`experiments.run.memories`)"""

import dataclasses

from experiments.passkey.config import PRESETS, PasskeyConfig
from experiments.passkey.data import Sizes
from experiments.passkey.task import PASSKEY
from experiments.run import memories, probes
from experiments.run.memories import MemoriesConfig


def config_of(distance: int, cfg: MemoriesConfig) -> PasskeyConfig:
    """The CPU preset with keys up to `distance` segments away, 32 documents in an update."""
    given = PRESETS["infinity-former-lasting"][1]
    powers = tuple(2**i for i in range(distance.bit_length() - 1))
    task = Sizes(distances=(*powers, distance))
    optim = dataclasses.replace(given.optim, learning_rate=2e-3)
    return dataclasses.replace(given, task=task, optim=optim, batch_size=32, data=cfg.data)


MEMORIES = memories.grid(
    PASSKEY,
    config_of,
    memories.by_ridge(PRESETS, fixed="infinity-former", power="infinity-former-lasting"),
    MemoriesConfig(sizes=(8,), updates=1500),
    "segments",
    probes.columns("distances", "accuracy_by_distance"),
)
