"""Does a language model find a passkey, without being trained to?

It is a run of language_modeling, or a published GPT-2 or Llama. A run of this experiment is taken,
too, to ask it at other distances than it was trained at. The model reads the task's documents with
its own tokeniser, with the window and the cells that it is given, and with the controls of every
run.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from experiments.language_modeling.given import (
    EvaluatedConfig,
    evaluated,
    kind_of,
    settings_of,
)
from experiments.passkey.config import PasskeyConfig
from experiments.passkey.data import Sizes
from experiments.passkey.task import Passkey, show
from experiments.run import cli, devices, folders, training
from experiments.run.evaluated import state_of, written
from inf_former_jax.fields import Count, Required, Sample, Seed

_FIGURES = "evaluation.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluatedConfig):
    """Which model is asked for which keys."""

    data: Annotated[str, Required("a folder of text with test")] = ""
    """Required: folder of text with the split test."""
    cache: str = "runs/tokens"
    """Folder to keep the tokens in; "" = in memory only."""
    task: Sizes = dataclasses.field(default_factory=lambda: Sizes(distances=(1, 2, 4, 8)))
    test_documents: Sample = 16
    """Test documents; each is asked at every distance."""
    batch_size: Count = 2
    """Documents that are read at once."""
    seed: Seed = 0
    out: Annotated[str, Required("a folder for the result")] = ""
    """Folder of evaluation.json and accuracy.png."""


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """The test figures of a run of the task, under its controls.

    Raises:
        ValueError: as `evaluated`, or texts that are not found or too short.
    """
    run, params, _ = evaluated(cfg, cfg.batch_size, kind_of(cfg.run, PasskeyConfig, "task"))
    if isinstance(run, PasskeyConfig):
        trained, wanted = (dataclasses.asdict(one.task) for one in (run, cfg))
        others = folders.differences(trained, wanted, "task.")
        # Easily forgotten: a run that learned to tell keys apart is else asked for a single one.
        for change in others:
            print(f"asked otherwise than it was trained: {change}")
    asked = PasskeyConfig(
        model=run.model,
        optim=run.optim,
        objective=run.objective,
        data=cfg.data,
        tokenizer=run.tokenizer if isinstance(run, PasskeyConfig) else cfg.run,
        cache=cfg.cache,
        task=cfg.task,
        batch_size=cfg.batch_size,
        test_documents=cfg.test_documents,
        seed=cfg.seed,
        devices=run.devices,
        keep_lower=run.keep_lower,
    )
    place = training.site(asked, cfg.out)
    results = Passkey(asked, place).results(state_of(asked, params, place.mesh))
    return provenance | settings_of(cfg) | results


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.passkey evaluate [--options]`."""
    program = "python -m experiments.passkey evaluate"
    cfg = cli.options(program, __doc__ or "", EvaluateConfig(), argv)
    devices.offer()
    result = written("passkey", cfg, argv, Path(cfg.out) / _FIGURES, evaluate)
    show(f"passkey, {result['preset']} as it is", Path(cfg.out), result, _FIGURES)
