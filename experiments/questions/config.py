"""Configuration and presets of the experiment."""

import dataclasses
from typing import Literal

from experiments.language_modeling import config as language_modeling
from experiments.language_modeling.config import TokenConfig
from experiments.questions.data import Sizes
from experiments.run.config import RunConfig
from inf_former_jax.fields import Count, Sample
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionsConfig(RunConfig, TokenConfig):
    """One run of the questions experiment."""

    model: ModelConfig
    """A fact helps only at the end: let `memory_gradient` reach from the answers back to it."""
    task: Sizes = dataclasses.field(
        default_factory=lambda: Sizes(people=2, questions=6, sentences=12)
    )
    taught: Literal["answers", "conversation"] = "answers"
    """What training takes loss of: the answers, or the questions after the first, too. A question
    names a person of the document, and the last name follows from the first by the same binding
    that an answer needs. Figures of validation and test are of answers alone."""
    batch_size: Count = 16
    """B, conversations in one update."""
    train_documents: Count = 4000
    """Documents of an epoch, always the same."""
    valid_documents: Sample = 100
    test_documents: Sample = 300


def small(name: str, **changes: int) -> QuestionsConfig:
    """A small model of language_modeling on segments of 64."""
    given = language_modeling.PRESETS[name][1]
    sizes = {"segment_len": 64, "max_position": 64, "vocab_size": 2048, **changes}
    return QuestionsConfig(
        model=dataclasses.replace(given.model, **sizes),
        optim=dataclasses.replace(given.optim, steps=6000, warmup_steps=100),
        loop=LoopConfig(eval_every=500, minutes=10.0),
    )


# The gradient reaches back over more segments than the default documents have.
PRESETS: dict[str, tuple[str, QuestionsConfig]] = {
    "infinity-lasting": (
        "GPT-2 with power contraction, CPU size: all segments of a document last alike.",
        small("gpt2-infinity-lasting", memory_gradient=64),
    ),
    "infinity": (
        "The same with the paper's fixed contraction, τ = .5.",
        small("gpt2-infinity", memory_gradient=64),
    ),
    "infinity-content": (
        "The same on 128 equal cells, written as intervals and read by content.",
        small("gpt2-infinity-content", memory_gradient=64),
    ),
    "no-memory": (
        "GPT-2 without a memory: what a question's own segment says.",
        small("gpt2"),
    ),
}
