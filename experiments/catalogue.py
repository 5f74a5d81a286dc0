"""All experiments by name, for what is the same of each of them."""

from collections.abc import Mapping
from typing import Any

from experiments.dialogue.task import DIALOGUE
from experiments.language_modeling.task import LANGUAGE_MODELING
from experiments.passkey.task import PASSKEY
from experiments.questions.task import QUESTIONS
from experiments.recall.task import RECALL
from experiments.run.experiment import Experiment
from experiments.sorting.task import SORTING

#: Name → what its package offers.
EXPERIMENTS: Mapping[str, Experiment[Any]] = {
    one.name: one for one in (SORTING, RECALL, PASSKEY, QUESTIONS, LANGUAGE_MODELING, DIALOGUE)
}
