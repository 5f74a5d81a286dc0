"""One run of any experiment: train or go on training, evaluate, write the result; knows no task."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
from jax.sharding import Mesh

from experiments.run import folders
from experiments.run.config import RunConfig
from inf_former_jax.data.batches import Batch, prefetch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import parallel
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import metrics, optim, sharding, state, step
from inf_former_jax.training.checkpoint import Checkpoints
from inf_former_jax.training.loop import Reporter, progress_bar, train
from inf_former_jax.training.state import TrainState

Config = TypeVar("Config", bound=RunConfig)


class Task(Protocol):
    """What a run has to know of its task.

    Attributes:
        row: what one row of a batch is, for people: "sequences of 1,068 tokens".
        tokens_per_step: of an update, for rates.
        best: the figure of `evaluate` whose best state is kept; its course is the run's curve.
        higher_is_better: whether the largest of `best` is kept, or the smallest.
    """

    row: str
    tokens_per_step: int
    best: str
    higher_is_better: bool

    def batches(self, begin: int) -> Iterator[Batch]:
        """Global batches on their devices, one an update, from update `begin` on."""

    def evaluate(self, now: TrainState) -> dict[str, float]:
        """Figures of a state on validation data; loss and accuracy are among them."""

    def results(self, final: TrainState) -> dict[str, Any]:
        """What the result says of the trained state, as JSON has it: test figures, baselines."""


def check(cfg: RunConfig) -> None:
    """Refuse at the door what would fail after minutes, whatever the task.

    Raises:
        ValueError: a batch that the mesh does not divide, a mesh that the devices do not form, a
            schedule that the model has not, operators that cannot be built, or TensorBoard without
            its package.
    """
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size: found {cfg.batch_size}, accepted: 1 or more")
    sharding.local_rows(cfg.batch_size, sharding.make_mesh(cfg.mesh_model))
    if cfg.objective.schedule == "parallel":
        parallel.check(cfg.model)
    operators(cfg.model)  # cached: the run takes these
    if cfg.tensorboard:
        metrics.summary_writer()


def run(
    cfg: RunConfig,
    folder: Path,
    provenance: dict[str, Any],
    make_task: Callable[[Mesh, Any], Task],
    params: Any = None,
) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder.

    Args:
        make_task: (mesh, operators on its devices) → the task.
        params: what a run that is not resumed begins with; None = fresh ones.
    """
    clock = Clock()
    mesh = sharding.make_mesh(cfg.mesh_model)
    ops = sharding.everywhere(operators(cfg.model), mesh)
    clock.mark("operators")
    task = make_task(mesh, ops)
    final, waited = _train(cfg, folder, mesh, ops, task, clock, params)
    rows = metrics.read_rows(folder / "metrics.jsonl")
    result = provenance | {
        "settings": folders.to_json(cfg),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(final.params)),
        "steps": int(final.step),
        "tokens_per_second": _median_rate(rows),
        "seconds_saving": waited,
        "curve": _curve(rows, task.best),
        "memory_bytes_per_row": memory_bytes(final.memory),
        "training_seconds": round(max((row.get("seconds", 0.0) for row in rows), default=0.0), 1),
        **task.results(final),
        "seconds": clock.mark("end"),
        "seconds_until": clock.marks,
    }
    folders.write_json(folder / "result.json", result)
    return result


def controls(cfg: RunConfig) -> dict[str, bool]:
    """Label → whether the memory is emptied before every segment: what a trained model is asked.

    The control is for models with a memory beyond the window that were trained with it.
    """
    asked = {"as trained": cfg.objective.empty_memory}
    if (cfg.model.long_term or cfg.model.compressed) and not cfg.objective.empty_memory:
        asked["memory emptied before every segment"] = True
    return asked


class Clock:
    """Seconds from its making until each marked event, the first time it happens."""

    def __init__(self):
        self._begun, self.marks = time.perf_counter(), {}

    def mark(self, event: str) -> float:
        """The event's seconds."""
        return self.marks.setdefault(event, round(time.perf_counter() - self._begun, 2))

    def first(self, event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose first call is waited for and marked."""

        def marked(*arguments):
            result = function(*arguments)
            if event not in self.marks:
                jax.block_until_ready(result)
                self.mark(event)
            return result

        return marked


def _train(cfg, folder, mesh, ops, task, clock, params):
    """The trained state, and the seconds that checkpoints took."""
    tx, sign = optim.optimizer(cfg.optim), 1 if task.higher_is_better else -1

    def best(row):
        return sign * row[task.best]

    with Checkpoints(folder / "checkpoints", cfg.checkpoint, best) as checkpoints:
        begin = checkpoints.restore(state.abstract_state(cfg.model, tx, cfg.batch_size, mesh))
        resumed = begin is not None
        if not resumed:
            begin = state.init_state(cfg.model, tx, cfg.batch_size, cfg.seed, mesh)
            if params is not None:
                placed = sharding.shardings(begin, mesh).params
                begin = begin._replace(params=jax.device_put(params, placed))
        _announce(cfg, begin, mesh, task, resumed)
        done = int(begin.step)
        clock.mark("state")
        train_step = clock.first(
            "first update",
            step.make_train_step(cfg.model, tx, cfg.objective, sharding.shardings(begin, mesh)),
        )
        batches = prefetch(task.batches(done))
        with (
            metrics.MetricsWriter(folder, cfg.tensorboard, done) as writer,
            contextlib.closing(batches),
        ):
            rows = metrics.read_rows(folder / "metrics.jsonl")
            before = max((row.get("seconds", 0.0) for row in rows), default=0.0)
            reporter = Reporter(writer, progress_bar(), task.tokens_per_step, before)
            final = train(
                cfg.loop, begin, cfg.optim.steps, train_step, batches, ops, task.evaluate,
                reporter, checkpoints,
            )  # fmt: skip
        waited = round(checkpoints.seconds, 2)
    return final, waited


def _median_rate(rows):
    """Tokens a second, the median of all rows but the first, which has the compilation."""
    rates = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    return round(statistics.median(rates[1:] or rates)) if rates else 0


def _announce(cfg, begin, mesh, task, resumed):
    count = sum(leaf.size for leaf in jax.tree.leaves(begin.params))
    print(
        f"{count:,} parameters; mesh {dict(mesh.shape)}; {cfg.optim.steps:,} updates of "
        f"{cfg.batch_size} {task.row}"
        + (f"; going on after update {int(begin.step):,}" if resumed else "")
    )
    whole = sharding.replicated(begin, mesh)
    if whole:
        print(f"replicated, since the mesh does not divide them: {', '.join(whole)}")


def _curve(rows, best):
    """[step, the figure `best` on validation data, seconds of training] of each evaluation."""
    seconds = {row["step"]: row["seconds"] for row in rows if "seconds" in row}
    valid = [row for row in rows if row["split"] == "valid"]
    return [[row["step"], row[best], round(seconds[row["step"]], 2)] for row in valid]


def memory_bytes(memory: Memory) -> int:
    """Bytes that one row of a model's memory occupies: constant, however long the document."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(memory)) // memory.seen.shape[0]


def load(
    kind: type[Config], folder: str | Path, parts: Sequence[str] = ("params", "memory")
) -> tuple[Config, Decoder, Any, Memory]:
    """(config, decoder, params, memory) of a run folder's newest whole checkpoint.

    On any number of devices; the run may be finished, stopped, or still going on.

    Args:
        kind: the experiment's class of configs.
        parts: which of params and memory are read and verified; the others come back as None.

    Raises:
        ValueError: the folder holds no run, or none of its checkpoints is whole.
    """
    folder = Path(folder)
    cfg = folders.from_json(kind, folders.read_config(folder))
    saved, restored = folder / "checkpoints", None
    if saved.is_dir():
        mesh, tx = sharding.make_mesh(), optim.optimizer(cfg.optim)
        target = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh)
        with Checkpoints(saved, cfg.checkpoint, read_only=True) as checkpoints:
            restored = checkpoints.restore(target, parts)
    if restored is None:
        raise ValueError(f"{folder}: found no checkpoint, accepted: a run that has saved one")
    return cfg, Decoder(cfg.model), restored.params, restored.memory
