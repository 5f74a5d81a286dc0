"""Which memory binds facts to names, and how many? (`experiments.run.memories`)"""

import dataclasses

from experiments.questions.config import PRESETS, QuestionsConfig
from experiments.questions.data import Sizes
from experiments.questions.task import QUESTIONS
from experiments.run import memories, probes
from experiments.run.memories import MemoriesConfig


def config_of(people: int, cfg: MemoriesConfig) -> QuestionsConfig:
    """The birthplaces of some people, in a text twice as long as it needs to be.

    The text itself has no loss: what it writes is trained by a gradient through the memory only.
    """
    given = PRESETS["infinity-lasting"][1]
    return dataclasses.replace(
        given,
        model=dataclasses.replace(given.model, segment_len=16, query_chunk=16),
        task=Sizes(people=people, questions=2, sentences=2 * people, relations=("birthplace",)),
        batch_size=64,
        train_documents=60_000,
    )


MEMORIES = memories.grid(
    QUESTIONS,
    config_of,
    memories.by_ridge(PRESETS, fixed="infinity", power="infinity-lasting"),
    MemoriesConfig(sizes=(2,), gradients=(64,), updates=2000),
    "people",
    probes.columns("ages", "accuracy_by_age"),
)
