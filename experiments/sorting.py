"""Sorting tokens by frequency (paper §4.1): does the model remember a whole sequence?

    python -m experiments.sorting [PRESET] [--options]

Trains on freshly generated sequences, then reports accuracy on 800 others: as trained, and with
the long-term memory emptied before every segment. Writes config, metrics, a figure and a picture
to `runs/sorting/PRESET-seed`.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from inf_former_jax.data import sorting as task
from inf_former_jax.data.batches import prefetch
from inf_former_jax.memory import state as memories
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
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    length: int = 1068
    """n, tokens to sort; with separator and answers n + 20 inputs."""
    batch_size: int = 16
    kl_weight: float = 1e-6
    """λ_KL."""
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
    return SortingConfig(model, optim.OptimConfig(learning_rate=2e-3, steps=3000, warmup_steps=100))


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
    "transformer-xl": (
        "Transformer-XL at equal cost, CPU size: short-term memory of 128.",
        _small(presets.transformer_xl(), mem_len=128),
    ),
    "vanilla": ("No memory at all, CPU size.", _small(presets.vanilla(), mem_len=0)),
    "paper-4k": ("The paper's ∞-former on 4,000 tokens.", _paper(4000)),
    "paper-8k": ("The paper's ∞-former on 8,000 tokens.", _paper(8000)),
    "paper-16k": ("The paper's ∞-former on 16,000 tokens.", _paper(16000)),
}


class Examples:
    """The task's sequences by split and number: generated, or read from files."""

    def __init__(self, cfg: SortingConfig):
        self._cfg = cfg
        self._files: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if cfg.data:
            for split in task.SPLITS:
                self._files[split] = task.read(Path(cfg.data) / f"{split}.txt", cfg.length)

    def __call__(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [B, n], answers [B, 20]); files are read round and round."""
        if not self._cfg.data:
            return task.generate(self._cfg.seed, split, indices, self._cfg.length)
        tokens, answers = self._files[split]
        return tokens[indices % len(tokens)], answers[indices % len(tokens)]

    def batch(self, split: str, indices: np.ndarray) -> Any:
        """The examples as a `Batch` of the model's segments."""
        return task.batch(*self(split, indices), self._cfg.model.segment_len)


def _training_batches(cfg: SortingConfig, examples: Examples, mesh) -> Iterator[Any]:
    """Batch after batch: global row r of update s is example s·B + r of the training split."""
    for number in itertools.count():
        first = number * cfg.batch_size

        def make(rows, first=first):
            return examples.batch("train", first + rows)

        yield sharding.place_batch(make, cfg.batch_size, mesh)


def _evaluator(
    cfg: SortingConfig, examples: Examples, split: str, count: int, mesh, empty_memory: bool = False
) -> Callable[[Any, Any, Any], dict[str, float]]:
    """`(params, operators, key) -> ratios` over the first `count` sequences of a split."""
    eval_step = step.make_eval_step(cfg.model, empty_memory)

    def make(rows, first):
        numbers = first + rows
        batch = examples.batch(split, np.minimum(numbers, count - 1))
        return batch._replace(weights=batch.weights * (numbers < count)[:, None, None])

    def evaluate(params, ops, key):
        memory = memories.init(cfg.model, cfg.batch_size)
        memory = sharding.place_batch(lambda rows: _rows(memory, rows), cfg.batch_size, mesh)
        total = None
        for first in range(0, count, cfg.batch_size):
            batch = sharding.place_batch(
                lambda rows, first=first: make(rows, first), cfg.batch_size, mesh
            )
            total = metrics.add(total, eval_step(params, memory, batch, ops, key)[0])
        return metrics.ratios(total)

    return evaluate


def _rows(tree, rows):
    import jax

    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def baselines(cfg: SortingConfig, examples: Examples) -> dict[str, float]:
    """Accuracies that need no learning, on the test sequences (SPEC §5): what to compare with."""
    tokens, answers = examples("test", np.arange(cfg.test_sequences))
    model = cfg.model

    def counts(layers):
        window = task.visible_tokens(cfg.length, model.segment_len, model.mem_len, layers)
        return task.baseline_accuracy(tokens, answers, window)

    return {
        "elimination alone": task.elimination_accuracy(),
        "exact counts, short-term window": counts(1),
        f"exact counts, {model.num_layers} layers × window": counts(model.num_layers),
        "full counts": task.baseline_accuracy(tokens, answers, cfg.length),
    }


def run(cfg: SortingConfig, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate, and write metrics, result and picture into the run folder."""
    examples = Examples(cfg)
    mesh = sharding.make_mesh(cfg.mesh_model)
    tx = optim.optimizer(cfg.optim)
    ops = sharding.everywhere(operators(cfg.model), mesh)
    state = step.init_state(cfg.model, tx, cfg.batch_size, cfg.seed, mesh)
    _announce(cfg, state, mesh)
    placed = sharding.shardings(state, mesh)
    train_step = step.make_train_step(cfg.model, tx, cfg.kl_weight, placed)
    validate = _evaluator(cfg, examples, "valid", cfg.valid_sequences, mesh)
    curve: list[tuple[int, float]] = []

    def evaluate(state):
        row = validate(state.params, ops, state.key)
        curve.append((int(state.step), row["accuracy"]))
        return row

    batches = prefetch(_training_batches(cfg, examples, mesh))
    with metrics.MetricsWriter(folder, cfg.tensorboard) as writer:
        reporter = Reporter(writer, progress_bar(), cfg.batch_size * (cfg.length + task.VOCAB))
        state = train(
            cfg.loop, state, cfg.optim.steps, train_step, batches, ops, evaluate, reporter
        )
    batches.close()
    result = provenance | {
        "settings": cli.to_json(cfg),
        "curve": curve,
        "steps": int(state.step),
        "test": _test(cfg, examples, state, ops, mesh),
        "baselines": baselines(cfg, examples),
    }
    cli.save_result(folder, result)
    return result


def _announce(cfg, state, mesh):
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{count:,} parameters; mesh {dict(mesh.shape)}; {cfg.optim.steps:,} updates of "
          f"{cfg.batch_size} sequences of {cfg.length:,} tokens")  # fmt: skip
    whole = sharding.replicated(state, mesh)
    if whole:
        print(f"replicated, since the mesh does not divide them: {', '.join(whole)}")


def _test(cfg, examples, state, ops, mesh):
    """Accuracy on the test sequences: as trained, and with the memory emptied."""
    controls = {"as trained": False}
    if cfg.model.long_term is not None:
        controls["memory emptied before every segment"] = True
    rows = {}
    for label, empty in controls.items():
        test = _evaluator(cfg, examples, "test", cfg.test_sequences, mesh, empty)
        rows[label] = test(state.params, ops, state.key)
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
    print(f"{folder}/result.json, {folder}/accuracy.png")


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.sorting [PRESET] [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    name, cfg = cli.parse(
        "python -m experiments.sorting", __doc__, PRESETS, "infinity-former", argv
    )
    folder = Path(cfg.out or f"runs/sorting/{name}-{cfg.seed}")
    with cli.refusals():
        Examples(cfg).batch("test", np.arange(1))
        sharding.local_rows(cfg.batch_size, sharding.make_mesh(cfg.mesh_model))
        result = cli.open_run(folder, cfg)
    if result is None:
        result = run(cfg, folder, cli.provenance(argv, "experiments.sorting"))
    else:
        print(f"{folder} holds the finished run; --out for another folder")
    report(name, folder, result)


if __name__ == "__main__":
    main()
