"""One run of the sorting experiment: train or go on training, evaluate, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from experiments import runs, sorting_data
from inf_former_jax.data import sorting as task
from inf_former_jax.data.batches import prefetch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import metrics, optim, sharding, state, step
from inf_former_jax.training.checkpoint import Checkpoints
from inf_former_jax.training.loop import Reporter, progress_bar, train

if TYPE_CHECKING:
    from experiments.sorting import SortingConfig


def examples_of(cfg: SortingConfig) -> sorting_data.Examples:
    """The sequences that a config asks for."""
    return sorting_data.Examples(
        cfg.seed, cfg.length, cfg.model.segment_len, cfg.data, cfg.train_sequences
    )


def load_run(folder: str | Path) -> tuple[SortingConfig, Decoder, Any, Memory]:
    """(config, decoder, params, memory) of a run folder's newest whole checkpoint.

    On any number of devices; the run may be finished, stopped, or still going on.

    Raises:
        ValueError: the folder holds no run, or none of its checkpoints is whole.
    """
    cfg, saved = _load(folder, ("params", "memory"))
    return cfg, Decoder(cfg.model), saved.params, saved.memory


def load_params(folder: str | Path) -> Any:
    """The parameters alone, read as `load_run` does."""
    return _load(folder, ("params",))[1].params


def load_memory(folder: str | Path) -> Memory:
    """The memory alone, read as `load_run` does."""
    return _load(folder, ("memory",))[1].memory


def _load(folder, parts):
    from experiments.sorting import SortingConfig

    folder = Path(folder)
    cfg = runs.from_json(SortingConfig, runs.read_config(folder))
    saved, restored = folder / "checkpoints", None
    if saved.is_dir():
        mesh, tx = sharding.make_mesh(), optim.optimizer(cfg.optim)
        target = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh)
        with Checkpoints(saved, cfg.checkpoint) as checkpoints:
            restored = checkpoints.restore(target, parts)
    if restored is None:
        raise ValueError(f"{folder}: found no checkpoint, accepted: a run that has saved one")
    return cfg, restored


def run(cfg: SortingConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on training, evaluate, and write metrics and result into the run folder."""
    clock = Clock()
    mesh = sharding.make_mesh(cfg.mesh_model)
    ops = sharding.everywhere(operators(cfg.model), mesh)
    clock.mark("operators")
    evaluator = sorting_data.Evaluator(cfg.model, examples_of(cfg), cfg.batch_size, mesh)
    final, of_training = _train(cfg, folder, mesh, ops, evaluator, clock)
    rows = metrics.read_rows(folder / "metrics.jsonl")
    result = provenance | {
        "settings": runs.to_json(cfg),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(final.params)),
        "steps": int(final.step),
        **of_training,
        "curve": _curve(rows),
        "memory_bytes_per_row": memory_bytes(final.memory),
        "training_seconds": round(max((row.get("seconds", 0.0) for row in rows), default=0.0), 1),
        "test": _test(cfg, final, ops, evaluator),
        "baselines": sorting_data.baselines(cfg.model, examples_of(cfg), cfg.test_sequences),
        "seconds": clock.mark("end"),
        "seconds_until": clock.marks,
    }
    runs.write_json(folder / "result.json", result)
    return result


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


def _train(cfg, folder, mesh, ops, evaluator, clock):
    """The trained state, the median tokens/s, and the seconds that checkpoints took."""
    tx = optim.optimizer(cfg.optim)
    with Checkpoints(folder / "checkpoints", cfg.checkpoint, _accuracy) as checkpoints:
        begin = checkpoints.restore(state.abstract_state(cfg.model, tx, cfg.batch_size, mesh))
        resumed = begin is not None
        if not resumed:
            begin = state.init_state(cfg.model, tx, cfg.batch_size, cfg.seed, mesh)
        _announce(cfg, begin, mesh, resumed)
        done = int(begin.step)
        clock.mark("state")
        train_step = clock.first(
            "first update",
            step.make_train_step(cfg.model, tx, cfg.objective, sharding.shardings(begin, mesh)),
        )

        def evaluate(now):
            empty = cfg.objective.empty_memory
            return evaluator(now.params, ops, now.key, "valid", cfg.valid_sequences, empty)

        batches = prefetch(
            sorting_data.training_batches(examples_of(cfg), cfg.batch_size, mesh, done)
        )
        with (
            metrics.MetricsWriter(folder, cfg.tensorboard, done) as writer,
            contextlib.closing(batches),
        ):
            rows = metrics.read_rows(folder / "metrics.jsonl")
            before = max((row.get("seconds", 0.0) for row in rows), default=0.0)
            per_step = cfg.batch_size * (cfg.length + task.VOCAB)
            reporter = Reporter(writer, progress_bar(), per_step, before)
            final = train(
                cfg.loop, begin, cfg.optim.steps, train_step, batches, ops, evaluate, reporter,
                checkpoints,
            )  # fmt: skip
        waited = round(checkpoints.seconds, 2)
    return final, {"tokens_per_second": round(reporter.median_rate()), "seconds_saving": waited}


def _curve(rows):
    """[step, validation accuracy, seconds of training] of each evaluation."""
    seconds = {row["step"]: row["seconds"] for row in rows if "seconds" in row}
    valid = [row for row in rows if row["split"] == "valid"]
    return [[row["step"], row["accuracy"], round(seconds[row["step"]], 2)] for row in valid]


def memory_bytes(memory: Memory) -> int:
    """Bytes that one row of a model's memory occupies: constant, however long the document."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(memory)) // memory.seen.shape[0]


def _accuracy(row):
    return row["accuracy"]


def _announce(cfg, begin, mesh, resumed):
    count = sum(leaf.size for leaf in jax.tree.leaves(begin.params))
    print(
        f"{count:,} parameters; mesh {dict(mesh.shape)}; {cfg.optim.steps:,} updates of "
        f"{cfg.batch_size} sequences of {cfg.length:,} tokens"
        + (f"; going on after update {int(begin.step):,}" if resumed else "")
    )
    whole = sharding.replicated(begin, mesh)
    if whole:
        print(f"replicated, since the mesh does not divide them: {', '.join(whole)}")


def _test(cfg, final, ops, evaluator):
    """Figures on the test sequences: as trained, and with the memory emptied."""
    controls = {"as trained": cfg.objective.empty_memory}
    if (cfg.model.long_term or cfg.model.compressed) and not cfg.objective.empty_memory:
        controls["memory emptied before every segment"] = True
    return {
        label: evaluator(final.params, ops, final.key, "test", cfg.test_sequences, empty)
        for label, empty in controls.items()
    }


def report(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Print the table of a finished run, and draw its picture."""
    from rich.console import Console
    from rich.table import Table

    from experiments import plots

    table = Table(title=f"sorting, {name}, {result['steps']:,} updates", title_justify="left")
    table.add_column("on the test sequences")
    table.add_column("accuracy", justify="right")
    points = {label: row["accuracy"] for label, row in result["test"].items()}
    for label, value in (points | result["baselines"]).items():
        table.add_row(label, f"{value:.3f}")
    Console().print(table)
    plots.accuracy_curve(
        folder / "accuracy.png", f"Sorting, {name}", result["curve"], result["baselines"], points
    )
    until = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["seconds_until"].items())
    print(f"seconds from the start until: {until}")
    print(f"{folder}/result.json, {folder}/accuracy.png")
