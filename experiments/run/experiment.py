"""What a task offers to a run, and what a run gives to its task."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from jax.sharding import Mesh

from experiments.run.config import RunConfig
from inf_former_jax.data.batches import Batch
from inf_former_jax.training.state import TrainState

Config = TypeVar("Config", bound=RunConfig)


class Site(NamedTuple):
    """Where a run takes place."""

    folder: Path
    mesh: Mesh
    operators: Any  # the model's operators, on every device of the mesh


class Task(Protocol):
    """What a run has to know of its task.

    Attributes:
        row: what one row of a batch is, for people: "sequences of 1,068 tokens".
        tokens_per_step: tokens of an update, for rates.
        best: the figure of `evaluate` whose best state is kept; its course is the run's curve.
        higher_is_better: whether the largest of `best` is kept, or the smallest.
        params: what a run that is not resumed begins with; None = fresh parameters.
        facts: what the result says of the data.
    """

    row: str
    tokens_per_step: int
    best: str
    higher_is_better: bool
    params: Any = None
    facts: Mapping[str, Any] = MappingProxyType({})

    def batch(self, update: int, rows: np.ndarray) -> Batch:
        """Rows, by their numbers 0..B-1, of the batch of an update (0, 1, …), on the host."""
        ...

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Figures of a state on validation data; loss and accuracy are among them."""
        ...

    def results(self, state: TrainState) -> dict[str, Any]:
        """What the result says of the trained state, as JSON has it: test figures, baselines."""
        ...


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Config]):
    """What the package of a task offers to the command line, to a run and to a table of runs.

    Attributes:
        name: of the package: `python -m experiments.NAME`, runs/NAME.
        presets: name → (what it is, config).
        default: the preset that is taken if none is named.
        task: makes the task of a config at a site.
        check: raises ValueError for a config that cannot be run, before anything is written.
        report: prints the table of a finished run and draws its pictures, from the preset's name,
            the run folder and the result.
        size: (segments of a row in one update, bytes of the data that are made in advance), both at
            least, before any of it is made.
        complete: the config with what its options imply, such as the sizes of given parameters.
    """

    name: str
    presets: Mapping[str, tuple[str, Config]]
    default: str
    task: Callable[[Config, Site], Task]
    check: Callable[[Config], None]
    report: Callable[[str, Path, Mapping[str, Any]], None]
    size: Callable[[Config], tuple[int, int]]
    complete: Callable[[Config], Config] = lambda cfg: cfg
