"""A trained model is evaluated by a command of its own: its state, and its result in a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.run import cli, folders
from experiments.run.config import RunConfig
from inf_former_jax.memory.state import init
from inf_former_jax.training import sharding
from inf_former_jax.training.state import TrainState


class Evaluation(Protocol):
    """The config of an evaluation."""

    @property
    def run(self) -> str:
        """Folder of the model."""
        ...


Evaluated = TypeVar("Evaluated", bound=Evaluation)


def state_of(cfg: RunConfig, params: Any, mesh: Mesh) -> TrainState:
    """The state that a task evaluates, of parameters that are not trained; on every device."""
    step, key = jnp.zeros((), jnp.int32), jax.random.key(cfg.seed)
    return TrainState(step, sharding.everywhere(params, mesh), (), init(cfg.model, 1), key)


def written(
    experiment: str,
    cfg: Evaluated,
    argv: Sequence[str],
    file: Path,
    evaluate: Callable[[Evaluated, dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """The result of an evaluation, which is written into a file; refusals end the program.

    Args:
        experiment: whose command it is, `python -m experiments.NAME evaluate`.
        file: where the result goes. One of other settings is never written over.
        evaluate: (config, provenance) → the result.
    """
    with cli.refusals():
        folders.read_config(Path(cfg.run))
        folders.make(file.parent)
        preset = folders.preset_of(Path(cfg.run))
        provenance = folders.provenance(experiment, preset, ["evaluate", *argv])
        folders.check_free(file, cfg)
        result = evaluate(cfg, provenance)
    folders.write_json(file, result)
    return result
