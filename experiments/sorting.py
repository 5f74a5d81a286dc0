"""Sorting tokens by frequency (paper §4.1): does the model remember a whole sequence?

    python -m experiments.sorting [PRESET] [--options]

Trains on freshly generated sequences, then reports accuracy on 800 others: as trained, and with
the long-term memory emptied before every segment. Writes config, metrics, a figure and a picture
to `runs/sorting/PRESET-seed`.
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import cli, sorting_data
from inf_former_jax.data import sorting as task
from inf_former_jax.data.batches import prefetch
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig, operators
from inf_former_jax.training import metrics, optim, sharding, step
from inf_former_jax.training.loop import LoopConfig, Reporter, progress_bar, train


@dataclasses.dataclass(frozen=True)
class SortingConfig:
    """One run of the sorting experiment."""

    model: ModelConfig
    optim: optim.OptimConfig
    objective: step.Objective = dataclasses.field(default_factory=step.Objective)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    length: int = 1068
    """n, tokens to sort; with separator and answers n + 20 inputs."""
    batch_size: int = 16
    test_sequences: int = 800
    valid_sequences: int = 160
    seed: int = 0
    data: str = ""
    """Folder with train.txt, valid.txt and test.txt in the published format; "" = generate."""
    out: str = ""
    """Run folder; "" = runs/sorting/PRESET-seed."""
    mesh_model: int = 1
    """Devices along the mesh's model axis; the others split the batch."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra `tensorboard`)."""


def _small(model: ModelConfig, **changes) -> SortingConfig:
    """A model in the size of the CPU presets: 2 layers of width 64, 17 segments of 64."""
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "d_model": 64, "d_inner": 128}
    small = {**sizes, "segment_len": 64, "mem_len": 64, "dropout": 0.0}
    model = dataclasses.replace(model, **{**small, **changes})
    return SortingConfig(
        model,
        optim.OptimConfig(learning_rate=2e-3, steps=1600, warmup_steps=100),
        loop=LoopConfig(eval_every=200, minutes=8.0),
    )


_SMALL_MEMORY = LongTermConfig(num_basis=64, num_samples=64)


def _paper(length: int) -> SortingConfig:
    """The paper's settings (SPEC §5), for an accelerator."""
    return SortingConfig(
        presets.infinity_former(), optim.OptimConfig(), length=length, batch_size=8
    )


PRESETS: dict[str, tuple[str, SortingConfig]] = {
    "infinity-former": (
        "The ∞-former, CPU size: 1,068 tokens in 17 segments of 64, 15 writes to the memory.",
        _small(presets.infinity_former(), long_term=_SMALL_MEMORY),
    ),
    "infinity-former-sticky": (
        "The same with sticky memories.",
        _small(
            presets.infinity_former_sticky(),
            long_term=dataclasses.replace(_SMALL_MEMORY, sticky=True),
        ),
    ),
    "compressive": (
        "The Compressive Transformer at equal cost, CPU size: 64 short-term, 64 compressed.",
        _small(presets.compressive(), compressed=CompressedConfig(length=64)),
    ),
    "transformer-xl": (
        "Transformer-XL at equal cost, CPU size: short-term memory of 128.",
        _small(presets.transformer_xl(), mem_len=128),
    ),
    "vanilla": ("No memory at all, CPU size.", _small(presets.vanilla(), mem_len=0)),
    "paper-4k": ("The paper's ∞-former on 4,000 tokens.", _paper(4000)),
    "paper-8k": ("The paper's ∞-former on 8,000 tokens.", _paper(8000)),
    "paper-16k": ("The paper's ∞-former on 16,000 tokens.", _paper(16000)),
}


def _examples(cfg: SortingConfig) -> sorting_data.Examples:
    return sorting_data.Examples(cfg.seed, cfg.length, cfg.model.segment_len, cfg.data)


def run(cfg: SortingConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate, and write metrics and result into the run folder."""
    begun = time.perf_counter()
    mesh = sharding.make_mesh(cfg.mesh_model)
    tx = optim.optimizer(cfg.optim)
    ops = sharding.everywhere(operators(cfg.model), mesh)
    state = step.init_state(cfg.model, tx, cfg.batch_size, cfg.seed, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    _announce(cfg, state, mesh, parameters)
    state, curve, rate = _train(cfg, folder, mesh, tx, ops, state)
    result = provenance | {
        "settings": cli.to_json(cfg),
        "parameters": parameters,
        "steps": int(state.step),
        "tokens_per_second": rate,
        "curve": curve,
        "test": _test(cfg, state, ops, mesh),
        "baselines": sorting_data.baselines(cfg.model, _examples(cfg), cfg.test_sequences),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    cli.save_result(folder, result)
    return result


def _announce(cfg, state, mesh, parameters):
    print(
        f"{parameters:,} parameters; mesh {dict(mesh.shape)}; {cfg.optim.steps:,} updates of "
        f"{cfg.batch_size} sequences of {cfg.length:,} tokens"
    )
    whole = sharding.replicated(state, mesh)
    if whole:
        print(f"replicated, since the mesh does not divide them: {', '.join(whole)}")


def _train(cfg, folder, mesh, tx, ops, state):
    """The trained state, (step, validation accuracy) along the way, and the median tokens/s."""
    placed = sharding.shardings(state, mesh)
    train_step = step.make_train_step(cfg.model, tx, cfg.objective, placed)
    validate = sorting_data.evaluator(
        cfg.model, _examples(cfg), cfg.batch_size, mesh, cfg.objective.empty_memory
    )
    curve = []

    def evaluate(state):
        row = validate(state.params, ops, state.key, "valid", cfg.valid_sequences)
        curve.append((int(state.step), row["accuracy"]))
        return row

    batches = prefetch(sorting_data.training_batches(_examples(cfg), cfg.batch_size, mesh))
    with metrics.MetricsWriter(folder, cfg.tensorboard) as writer, contextlib.closing(batches):
        reporter = Reporter(writer, progress_bar(), cfg.batch_size * (cfg.length + task.VOCAB))
        state = train(
            cfg.loop, state, cfg.optim.steps, train_step, batches, ops, evaluate, reporter
        )
    return state, curve, round(reporter.median_rate())


def _test(cfg, state, ops, mesh):
    """Figures on the test sequences: as trained, and with the memory emptied."""
    controls = {"as trained": cfg.objective.empty_memory}
    if (cfg.model.long_term or cfg.model.compressed) and not cfg.objective.empty_memory:
        controls["memory emptied before every segment"] = True
    rows = {}
    for label, empty in controls.items():
        test = sorting_data.evaluator(cfg.model, _examples(cfg), cfg.batch_size, mesh, empty)
        rows[label] = test(state.params, ops, state.key, "test", cfg.test_sequences)
    return rows


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
    print(
        f"{result['seconds']:.0f} s, compile included; {folder}/result.json, {folder}/accuracy.png"
    )


def _check(cfg: SortingConfig) -> None:
    """Refuse at the door what would fail after minutes, or silently."""
    if cfg.model.vocab_size < task.NUM_TOKENS:
        raise ValueError(
            f"model.vocab_size: found {cfg.model.vocab_size}, accepted: {task.NUM_TOKENS} or more"
        )
    for name in ("batch_size", "test_sequences", "valid_sequences"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name}: found {getattr(cfg, name)}, accepted: 1 or more")
    for split in task.SPLITS:
        _examples(cfg).batch(split, np.arange(1))
    sharding.local_rows(cfg.batch_size, sharding.make_mesh(cfg.mesh_model))
    if cfg.tensorboard:
        metrics.summary_writer()


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.sorting [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    name, cfg = cli.parse(
        "python -m experiments.sorting", __doc__, PRESETS, "infinity-former", argv
    )
    folder = Path(cfg.out or f"runs/sorting/{name}-{cfg.seed}")
    cfg = dataclasses.replace(cfg, out=str(folder))
    with cli.refusals():
        _check(cfg)
        result = cli.open_run(folder, cfg)
    if result is None:
        with cli.stops():
            result = run(cfg, folder, cli.provenance("sorting", name, argv))
    else:
        print(f"{folder} holds the finished run; --out for another folder")
    report(name, folder, result)


if __name__ == "__main__":
    main()
