"""Which memory recalls facts best, and how many? (`experiments.run.memories`)"""

import dataclasses

from experiments.recall.config import PRESETS, RecallConfig
from experiments.recall.data import Sizes
from experiments.recall.task import RECALL
from experiments.run import memories, probes
from experiments.run.memories import MemoriesConfig


def config_of(keys: int, cfg: MemoriesConfig) -> RecallConfig:
    """The CPU preset with a pair in each of as many segments as there are keys.

    The last segment has room for 8 questions at most; half of the pairs are asked for.
    """
    given = PRESETS["infinity-former"][1]
    sizes = Sizes(num_keys=keys, segments=keys + 1, questions=min(8, keys, max(2, keys // 2)))
    model = dataclasses.replace(given.model, vocab_size=max(32, sizes.num_tokens))
    return dataclasses.replace(given, model=model, task=sizes)


MEMORIES = memories.grid(
    RECALL,
    config_of,
    memories.by_ridge(PRESETS, fixed="infinity-former", power="infinity-former-lasting"),
    MemoriesConfig(sizes=(4,)),
    "keys",
    probes.columns("ages", "accuracy_by_age"),
)
