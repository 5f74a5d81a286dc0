"""Controls of every model with a memory: it is tested with that memory emptied, or another's.

Both leave the short-term memory alone, and both read one own write: the pending one, before each
segment. So a memory counts from the distance at which the controls fail.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from jax.sharding import Mesh

from experiments.run.config import RunConfig
from experiments.run.tables import CONTROL, FOREIGN, TRAINED
from inf_former_jax.training import evaluation, sharding

Figures = TypeVar("Figures")

#: What becomes of the long-term or compressed memory before every segment: nothing; it is cleared;
#: or the segment reads that of another document.
Control = Literal["none", "emptied", "foreign"]

LABELS: Mapping[Control, str] = {"none": TRAINED, "emptied": CONTROL, "foreign": FOREIGN}


def trained(cfg: RunConfig) -> Control:
    """The control under which a model is trained, and so validated."""
    return "emptied" if cfg.objective.empty_memory else "none"


def eval_steps(
    cfg: RunConfig, mesh: Mesh, make: Callable[..., Any] = evaluation.make_eval_step
) -> dict[Control, Callable[..., Any]]:
    """An evaluation step under each control.

    Where a device has one row of a batch, there is no other row whose memory it could read.

    Args:
        make: `evaluation.make_eval_step` or `make_token_step`.
    """
    settings: dict[Control, dict[str, Any]] = {"none": {}, "emptied": {"empty_memory": True}}
    if cfg.batch_size > sharding.row_devices(mesh):
        settings["foreign"] = {"foreign_memory": True}
    return {control: make(cfg.model, mesh=mesh, **changes) for control, changes in settings.items()}


def each(
    cfg: RunConfig,
    figures: Callable[[Control], Figures],
    controls: Iterable[Control],
) -> dict[str, Figures]:
    """Label → figures of a trained model: as it was trained, and under the controls.

    The controls are for models that were trained with a memory beyond the window.

    Args:
        controls: those that the task has.
    """
    found = {TRAINED: figures(trained(cfg))}
    if (cfg.model.long_term or cfg.model.compressed) and trained(cfg) == "none":
        found |= {LABELS[name]: figures(name) for name in controls if name != "none"}
    return found
