"""A run of any experiment: train, or go on training, evaluate, write the result; load a run."""

import collections
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from optax import GradientTransformation

from experiments.run import batches, devices, folders, lower, room
from experiments.run.config import RunConfig
from experiments.run.experiment import Config, Experiment, Site, Task
from experiments.run.lower import LowerLayers
from inf_former_jax.data.batches import prefetch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models import all_segments
from inf_former_jax.models.convert import parameters_file
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.require import require
from inf_former_jax.training import metrics, optim, sharding, state, step
from inf_former_jax.training.checkpoint import Checkpoints
from inf_former_jax.training.loop import Reporter, progress_bar, train
from inf_former_jax.training.state import TrainState

#: The file of a folder that holds the parameters of a run alone (`experiments.weights`).
PARAMETERS = "parameters.safetensors"

#: Steps that are begun before the first one of them has ended.
_AT_ONCE = 8


def check(cfg: RunConfig) -> None:
    """Refuse at the door what would fail after minutes, whatever the task.

    Raises:
        ValueError: a batch that the mesh does not divide, a mesh that the devices do not form, a
            schedule that the model has not, operators that cannot be built, a memory to train
            alone without parameters or without a model, or TensorBoard without its package.
    """
    sharding.local_rows(cfg.batch_size, devices.mesh_of(cfg))
    if cfg.objective.schedule == "parallel":
        all_segments.check(cfg.model)
    operators(cfg.model)  # cached: the run takes these
    if cfg.keep_lower:
        lower.check(cfg.model, cfg.optim.trained)
        sequential = cfg.objective.schedule == "sequential"
        require(sequential, "keep_lower", "schedule parallel", "objective.schedule sequential")
    if cfg.optim.trained == "memory":
        found = "memory, which has no parameters here"
        require(room.of_memories(cfg.model) > 0, "optim.trained", found, "all")
        found = "memory without --init-from: the rest would stay as random as it is"
        begun = bool(getattr(cfg, "init_from", ""))
        require(begun, "optim.trained", found, "all, or a model to begin with")
    if cfg.tensorboard:
        metrics.summary_writer()


def check_room(experiment: Experiment[Config], cfg: Config) -> str:
    """Refuse a run that needs more memory than there is, before anything of it is made.

    Returns:
        How much it needs, and how much there is, in words.

    Raises:
        ValueError: it needs more, unless the config says that it may have any size.
    """
    needs = room.of_run(cfg, *experiment.size(cfg))
    if not cfg.any_size:
        room.check(needs, "smaller sizes, or --any-size to try")
    total = room.size(sum(needs.values()))
    return f"needs about {total} of memory, found {room.size(room.found())}"


def run(
    experiment: Experiment[Config], cfg: Config, folder: Path, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    clock = Clock()
    place = site(cfg, folder)
    clock.mark("operators")
    task = experiment.task(cfg, place)
    described = {name: provenance.get(name) for name in ("experiment", "preset", "commit")}
    final, seconds_saving = _train(cfg, place, task, clock, described)
    results = task.results(final)
    for label, figures in results.get("test", {}).items():
        metrics.check_figures(int(final.step), f"test ({label})", figures)
    rows = metrics.read_rows(folder / "metrics.jsonl")
    skipped = sum(row.get("skipped", 0) for row in rows)
    result = {
        **provenance,
        **task.facts,
        "settings": folders.to_json(cfg),
        "changes": folders.changes(folder),
        "parameters": _size(final.params),
        "steps": int(final.step),
        "tokens_per_second": _median_rate(rows),
        "seconds_saving": seconds_saving,
        **({"updates_left_out": skipped} if cfg.optim.skip_nonfinite else {}),
        "curve": _curve(rows, task.best),
        "memory_bytes_per_row": _memory_bytes(final.memory),
        "training_seconds": round(_seconds(rows), 1),
        **results,
        "seconds": clock.mark("end"),
        "seconds_until": clock.marks,
    }
    folders.write_result(folder, result)
    return result


def site(cfg: RunConfig, folder: str | Path) -> Site:
    """The mesh that a config asks for, with its model's operators on all devices, and a folder."""
    mesh = devices.mesh_of(cfg)
    return Site(Path(folder), mesh, sharding.everywhere(operators(cfg.model), mesh))


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


def _train(
    cfg: RunConfig, place: Site, task: Task, clock: Clock, described: Mapping[str, Any]
) -> tuple[TrainState, float]:
    """The trained state, and the seconds that the run waited for checkpoints.

    Args:
        described: what each checkpoint says of the run, beside its settings and best figure.
    """
    settings, higher = folders.to_json(cfg), task.higher_is_better
    about = {**described, "settings": settings, "best": task.best, "higher_is_better": higher}
    sign = 1 if task.higher_is_better else -1

    def best(row):
        return sign * row[task.best]

    def accept(folder, about):
        if "settings" in about:
            folders.check_step(about["settings"], cfg, folder)

    with (
        Checkpoints(place.folder / "checkpoints", cfg.checkpoint, best, about=about) as checkpoints,
        ThreadPoolExecutor(1) as pool,
    ):
        tx, mesh = optim.optimizer(cfg.optim), place.mesh
        shapes = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh)
        saved = checkpoints.restore(shapes, accept=accept)
        done = 0 if saved is None else int(saved.step)
        placed = sharding.shardings(shapes, mesh)
        skips = cfg.optim.skip_nonfinite
        given = cfg.model, tx, cfg.objective, placed, cfg.optim.trained, skips > 0
        train_step = step.make_train_step(*given)
        first = next(batches.placed(task.batch, cfg.batch_size, mesh, done))
        below = None
        if cfg.keep_lower:
            params = task.params if saved is None else saved.params
            below = LowerLayers(cfg.model, params, mesh, cfg.keep_lower)
            first = below.to_come(first)
        if done < cfg.optim.steps and jax.process_count() == 1:
            compiling = pool.submit(_compile, train_step, shapes, first, place.operators)
            train_step = _after(compiling, train_step)
        begin = _begin(cfg, place, task, tx, saved)
        clock.mark("state")
        every = batches.placed(task.batch, cfg.batch_size, mesh, 0 if below else done)
        if below is not None:
            every = below.added(every, cfg.batch_size, skipped=done)
        updates = prefetch(every)
        with (
            metrics.MetricsWriter(place.folder, cfg.tensorboard, done) as writer,
            contextlib.closing(updates),
        ):
            before = _seconds(metrics.read_rows(place.folder / "metrics.jsonl"))
            final = train(
                cfg.loop,
                begin,
                cfg.optim.steps,
                clock.first("first update", _few_at_once(train_step)),
                updates,
                place.operators,
                task.evaluate,
                Reporter(writer, progress_bar(), task.tokens_per_step, before, skips),
                checkpoints,
            )
        return final, round(checkpoints.seconds, 2)


def _compile(train_step: Any, *arguments: Any) -> None:
    """Compile the step beside what else is made, on the second core; its first call finds it."""
    train_step.lower(*arguments).compile()


def _after(compiling: Future[None], train_step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which waits until it is compiled, and raises what its compilation raised."""

    def waiting(*arguments):
        compiling.result()
        return train_step(*arguments)

    return waiting


def _few_at_once(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which waits for the one that was started _AT_ONCE steps before.

    CPU devices that sum over each other were seen to wait for ever with 32 steps or more begun.
    """
    begun: collections.deque[Any] = collections.deque()

    def waiting(*arguments):
        result = train_step(*arguments)
        begun.append(result[1])
        if len(begun) > _AT_ONCE:
            jax.block_until_ready(begun.popleft())
        return result

    return waiting


def _begin(
    cfg: RunConfig, place: Site, task: Task, tx: GradientTransformation, begin: TrainState | None
) -> TrainState:
    """The saved state, or a fresh one. Prints the model's size, its mesh and the updates."""
    mesh = place.mesh
    going_on = f"; going on after update {int(begin.step):,}" if begin is not None else ""
    if begin is None:
        begin = state.init_state(cfg.model, tx, cfg.batch_size, cfg.seed, mesh)
        if task.params is not None:
            placed = sharding.shardings(begin, mesh).params
            begin = begin._replace(params=jax.device_put(task.params, placed))
    print(
        f"{_size(begin.params):,} parameters; mesh {dict(mesh.shape)}; {cfg.optim.steps:,} updates "
        f"of {cfg.batch_size} {task.row}{going_on}"
    )
    whole = sharding.replicated(begin, mesh)
    if whole:
        print(f"replicated, since the mesh does not divide them: {', '.join(whole)}")
    return begin


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training until the last row."""
    return max((row.get("seconds") or 0.0 for row in rows), default=0.0)


def _median_rate(rows: Sequence[Mapping[str, Any]]) -> float:
    """Tokens a second, the median of all rows but the first, which has the compilation."""
    rates = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second") is not None]
    return round(statistics.median(rates[1:] or rates)) if rates else 0


def _curve(rows: Sequence[Mapping[str, Any]], best: str) -> list[list[float]]:
    """[step, the figure `best` on validation data, seconds of training] of each evaluation."""
    seconds = {row["step"]: row["seconds"] for row in rows if row.get("seconds") is not None}
    valid = [row for row in rows if row["split"] == "valid" and row.get(best) is not None]
    found = [(row["step"], row[best]) for row in valid if row["step"] in seconds]
    return [[step, figure, round(seconds[step], 2)] for step, figure in found]


def _memory_bytes(memory: Memory) -> int:
    """Bytes that one row of a model's memory occupies: constant, however long the document."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(memory)) // memory.seen.shape[0]


def load(
    kind: type[Config], folder: str | Path, parts: Sequence[str] = ("params", "memory")
) -> tuple[Config, Decoder, Any, Memory]:
    """(config, decoder, params, memory) of a run folder's newest whole checkpoint.

    On any number of devices; the run may be finished, stopped, or still going on. A folder that
    `experiments.weights parameters` has made holds no memory and no checkpoints.

    Args:
        kind: the experiment's class of configs.
        parts: which of params and memory are read and verified; the others come back as None.

    Raises:
        ValueError: the folder holds no run, or none of its checkpoints is whole; or the memory is
            asked for where there are parameters alone.
    """
    folder = Path(folder)
    cfg = folders.from_json(kind, folders.read_config(folder), folder / "config.json")
    saved, restored = folder / "checkpoints", None
    mesh, tx = sharding.make_mesh(), optim.optimizer(cfg.optim)
    target = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh)
    if (folder / PARAMETERS).is_file():
        alone = "memory" not in parts
        require(alone, str(folder), "parameters alone", "a run that has saved its memory")
        params: Any = parameters_file.load(folder / PARAMETERS, target.params)
        restored = target._replace(params=params, memory=None)
        return cfg, Decoder(cfg.model), restored.params, restored.memory
    if saved.is_dir():
        with Checkpoints(saved, cfg.checkpoint, read_only=True) as checkpoints:
            restored = checkpoints.restore(target, parts)
    if restored is None:
        raise ValueError(f"{folder}: found no checkpoint, accepted: a run that has saved one")
    return cfg, Decoder(cfg.model), restored.params, restored.memory
