"""How well does a trained sorter sort sequences of another length?

    python -m experiments.sorting evaluate --length 64012 --test-sequences 96 --out OUT
    python -m experiments.sorting evaluate --run FOLDER --length 16012 --out OUT

The folder is a run, or one that `experiments.weights parameters` has made; without one it is the
trained sorter that comes with the project. Nothing is trained. The figures are on test sequences,
as trained and with the controls, beside what needs no learning.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from experiments.run import cli, devices, folders, training
from experiments.run.evaluated import state_of, written
from experiments.sorting.config import SortingConfig
from experiments.sorting.task import SORTING, Sorting, show
from inf_former_jax.fields import Checked, Natural, Required, Sample, Seed

_FIGURES = "evaluation.json"

#: The sorter that comes with the project, as `experiments.weights parameters` wrote it.
_TRAINED = Path(__file__).parent / "trained"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Which sorter is tested on what."""

    run: str = ""
    """Folder of a run of sorting, or of its parameters; "" = the trained sorter that comes with the
    project, experiments/sorting/trained."""
    length: Natural = 0
    """n, tokens to sort; 0 = as many as it was trained on."""
    test_sequences: Sample = 800
    batch_size: Natural = 0
    """Sequences that are read at once; 0 = the run's."""
    seed: Seed = 0
    """Of the sequences; no run was trained on test sequences of any seed."""
    any_size: bool = False
    """Try what seems too large for this machine's memory, by what training would need."""
    out: Annotated[str, Required("a folder for the result")] = ""
    """Folder of evaluation.json."""


def evaluate(cfg: EvaluateConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """The test figures of a sorter at a length.

    Raises:
        ValueError: no run of sorting, or a length that cannot be tested.
    """
    run, _, params, _ = training.load(SortingConfig, cfg.run, ("params",))
    asked = devices.on_this_machine(
        run,
        length=cfg.length or run.length,
        test_sequences=cfg.test_sequences,
        batch_size=cfg.batch_size or run.batch_size,
        seed=cfg.seed,
        tensorboard=False,
        any_size=cfg.any_size,
    )
    asked, _ = devices.settled(asked)
    training.check_room(SORTING, asked)
    SORTING.check(asked)
    place = training.site(asked, cfg.out)
    results = Sorting(asked, place).results(state_of(asked, params, place.mesh))
    settings = {"settings": folders.to_json(cfg), "trained": folders.to_json(run)}
    return {**provenance, **settings, "length": asked.length, **results}


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.sorting evaluate [--options]`."""
    cfg = cli.options("python -m experiments.sorting evaluate", __doc__, EvaluateConfig(), argv)
    cfg = dataclasses.replace(cfg, run=cfg.run or str(_TRAINED))
    devices.offer()
    file = Path(cfg.out) / _FIGURES
    result = written("sorting", cfg, argv, file, evaluate)
    show(f"sorting {result['length']:,} tokens, {result['preset']} as it is", result)
    print(file)
