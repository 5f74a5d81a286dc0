"""How well does a language model talk about a document, without being trained to?

It is a run of this experiment or of language_modeling, or a published GPT-2 or Llama that was tuned
on conversations. A model without types reads the conversations by its chat template. It has the
window, the cells and the trained memory that it is given. Each reads the test conversations with
the controls of every run, and answers.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.dialogue.config import DataConfig, DialogueConfig
from experiments.dialogue.corpus import corpus_of
from experiments.dialogue.stream import Layout
from experiments.dialogue.task import (
    Dialogue,
    batches,
    check_replies,
    describe,
    facts,
    is_release,
    show,
)
from experiments.language_modeling.config import TextConfig
from experiments.language_modeling.given import (
    EvaluatedConfig,
    evaluated,
    kind_of,
    settings_of,
)
from experiments.run import cli, devices, training
from experiments.run.evaluated import state_of, written
from inf_former_jax.fields import Count, Required, Seed

_FIGURES = "evaluation.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluatedConfig, DataConfig):
    """Which model reads and answers which conversations."""

    run: Annotated[str, Required("a run folder, or one of a GPT-2 or Llama")] = ""
    """A run folder of experiments.dialogue or language_modeling, or a Hugging Face folder of a
    GPT-2 or a Llama."""
    document: Literal["whole", "none"] = "whole"
    """What a model that is no run of dialogue reads before the first turn: the document, or
    nothing."""
    batch_size: Count = 8
    """Conversations that are read at once."""
    seed: Seed = 0
    """Of the replies."""
    cache: str = "runs/tokens"
    out: Annotated[str, Required("a folder for the result")] = ""
    """Folder of evaluation.json and replies.json."""


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """The test figures of a model, under its controls, and the scores of its replies.

    Raises:
        ValueError: as `evaluated`, a model without types or a chat template, or as the data's
            reading.
    """
    run, params, _ = evaluated(cfg, cfg.batch_size, kind_of(cfg.run, DialogueConfig, "layout"))
    asked = dialogue_of(run, cfg.run, cfg.document)
    names = [field.name for field in dataclasses.fields(DataConfig)]
    data = {name: getattr(cfg, name) for name in names}
    asked = dataclasses.replace(
        asked, **data, batch_size=cfg.batch_size, seed=cfg.seed, cache=cfg.cache
    )
    check_replies(asked)
    corpus = corpus_of(asked)
    batches(asked, corpus)
    describe(corpus, is_release(asked))
    place = training.site(asked, cfg.out)
    results = Dialogue(asked, corpus, place).tested(state_of(asked, params, place.mesh))
    return provenance | facts(corpus) | settings_of(cfg) | results


def dialogue_of(run: TextConfig, folder: str, document: Literal["whole", "none"]) -> DialogueConfig:
    """The config of a conversation with a model from a folder.

    A run of dialogue has its own. Any other model reads by its chat template.
    """
    if isinstance(run, DialogueConfig):
        return dataclasses.replace(run, init_from="", tokenizer=folder)
    return DialogueConfig(
        model=run.model,
        optim=run.optim,
        objective=run.objective,
        devices=run.devices,
        keep_lower=run.keep_lower,
        tokenizer=folder,
        layout=Layout(document=document, marks="template"),
    )


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.dialogue evaluate [--options]`."""
    program = "python -m experiments.dialogue evaluate"
    cfg = cli.options(program, __doc__ or "", EvaluateConfig(), argv)
    devices.offer()
    file = Path(cfg.out) / _FIGURES
    result = written("dialogue", cfg, argv, file, evaluate)
    show(f"{result['corpus']}, {result['preset']} as it is", result)
    print(file)
