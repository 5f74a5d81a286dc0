"""A memory is trained alone only where it has parameters, and a model to belong to."""

import dataclasses

import pytest

from experiments.dialogue.config import PRESETS as DIALOGUE
from experiments.dialogue.task import check as check_dialogue
from experiments.language_modeling.config import PRESETS
from experiments.run import training
from experiments.sorting.config import PRESETS as SORTING

REST = r"memory without --init-from: the rest would stay as random as it is"


@pytest.mark.parametrize(
    ("cfg", "found"),
    [
        (SORTING["infinity-former"][1], REST),
        (PRESETS["gpt2-infinity"][1], REST),
        (dataclasses.replace(PRESETS["gpt2"][1], init_from="x"), "memory, which has no parameters"),
        (SORTING["transformer-xl"][1], "memory, which has no parameters"),
    ],
)
def test_what_trains_nothing_is_refused(cfg, found):
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, trained="memory"))
    with pytest.raises(ValueError, match=rf"^optim.trained: found {found}"):
        training.check(cfg)


def test_dialogue_has_embeddings_that_learn():
    given = DIALOGUE["infinity-lasting"][1]
    optim = dataclasses.replace(given.optim, trained="memory")
    cfg = dataclasses.replace(given, optim=optim, init_from="x", batch_size=8)
    with pytest.raises(ValueError, match=r"^optim.trained: found memory: the embeddings that tell"):
        check_dialogue(cfg)
