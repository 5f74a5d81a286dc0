"""Training steps: of the sorting presets and a small GPT-2; and with gradients through the memory.

A step is `make_train_step` with the preset's optimiser and objective, on a batch of the preset's
task: generated sequences for sorting and recall, random tokens for the language model. Padding is
not counted as tokens.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.benchmark.literal import step_operations
from experiments.benchmark.timing import TINY, BenchmarkConfig, Case, compile_case, race
from experiments.language_modeling import config as language_modeling
from experiments.recall import config as recall
from experiments.recall import data as pairs
from experiments.run import devices
from experiments.sorting import config as sorting
from experiments.sorting.data import run_batch
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.streams import Streams
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import ModelConfig, operators
from inf_former_jax.require import require
from inf_former_jax.training import optim, schedules, sharding
from inf_former_jax.training.forward import LOSS, by_segment
from inf_former_jax.training.state import init_state
from inf_former_jax.training.step import make_train_step

SCHEDULES = ("sequential", "parallel")

#: What activations are computed in; behind +, by what local attention is fused.
DTYPES = ("float32", "bfloat16", "float32+xla", "bfloat16+xla", "bfloat16+cudnn")
TEXT = "gpt2-infinity-lasting"


def configs() -> dict[str, Any]:
    """Name → config: sorting's presets, "small" (5 segments of 128), recall's first, and TEXT.

    TEXT has 8 segments.
    """
    known = {name: config for name, (_, config) in sorting.PRESETS.items()}
    memory = known["infinity-former"].model.long_term
    small = sorting.small(presets.infinity_former(), segment_len=128, mem_len=128, long_term=memory)
    text = replace(language_modeling.PRESETS[TEXT][1], segments=8)
    small = replace(small, length=5 * 128 - 20, batch_size=8)
    return known | {"small": small, "recall": recall.PRESETS["infinity-former"][1], TEXT: text}


def default(platform: str) -> tuple[str, ...]:
    """All presets, those of paper size with one row; on an accelerator with their own, too."""
    papers = tuple(name for name in configs() if name.startswith("paper-"))
    names = tuple(f"{name}:1" if name in papers else name for name in configs())
    return names if platform == "cpu" else names + papers


def variants(cfg: BenchmarkConfig) -> list[tuple[str, str]]:
    """(preset, schedule) of every step that is asked for; compressed memories have one schedule."""
    quick = ("infinity-former", "transformer-xl") if cfg.quick else ()
    names = cfg.presets or quick or default(jax.default_backend())
    return [
        (name, schedule)
        for name, schedule in itertools.product(names, cfg.schedules)
        if schedule != "parallel" or not config(name, cfg.quick).model.compressed
    ]


def config(name: str, quick: bool) -> Any:
    """The preset NAME, or NAME:ROWS with so many rows; with `quick` of tiny shapes."""
    preset, colon, rows = name.partition(":")
    known = configs()
    right = preset in known and (not colon or (rows.isdecimal() and int(rows) > 0))
    require(right, "presets", name, f"{', '.join(known)}, each also as NAME:ROWS")
    found = known[preset]
    if quick:
        model = replace(found.model, **TINY, mem_len=32 if found.model.mem_len else 0)
        short: dict[str, Any] = {"length": 2 * 32 - 20}
        if preset == TEXT:
            short = {"segments": 2}
        elif preset == "recall":
            # Whose vocabulary is that of its task.
            model = replace(model, vocab_size=found.model.vocab_size)
            short = {"task": replace(found.task, segments=2)}
        found = replace(found, model=model, batch_size=2, **short)
    return replace(found, batch_size=int(rows)) if rows else found


def batches(preset: Any, rows: int) -> Callable[[np.ndarray], Batch]:
    """Numbers of `rows` rows → their batch, as the experiment makes it for its first update.

    Each row of a language model reads a document of its own, of random tokens, to its end.
    """
    if isinstance(preset, sorting.SortingConfig):
        return lambda numbers: run_batch(preset, "train", numbers)
    if isinstance(preset, recall.RecallConfig):
        task, length = preset.task, preset.model.segment_len
        return lambda numbers: pairs.batch(
            pairs.generate(preset.seed, "train", numbers, task, length), length
        )
    length = preset.segments * preset.model.segment_len + 1
    tokens = np.random.default_rng(0).integers(0, preset.model.vocab_size, rows * length)
    ones, names = np.ones(rows, np.int64), tuple(map(str, range(rows)))
    split = TokenizedSplit(tokens, np.arange(rows + 1) * length, names, ones, ones)
    streams = Streams(split, rows, preset.model.segment_len, preset.segments)
    return lambda numbers: streams.batch(0, numbers)


def mesh_of(rows: int) -> Mesh:
    """The devices that a run with so many rows takes by default."""
    return sharding.make_mesh(1, devices.best(rows, 1, jax.device_count()))


def tokens_of(batch: Batch) -> int:
    """The tokens of a batch that are no padding."""
    return batch.tokens.size if batch.valid is None else int(batch.valid.sum())


def begin(preset: Any, model: ModelConfig, tx: Any) -> tuple[Batch, tuple[Any, Any, Any], Mesh]:
    """(the batch on the host, what a step takes: state, batch, operators; where they are)."""
    rows = preset.batch_size
    mesh, make = mesh_of(rows), batches(preset, rows)
    state, batch = init_state(model, tx, rows, 0, mesh), sharding.place_batch(make, rows, mesh)
    ops = sharding.everywhere(operators(model), mesh)
    return make(np.arange(rows)), (state, batch, ops), mesh


def update(preset: Any, schedule: str, model: ModelConfig, times: int = 1) -> tuple[Case, Batch]:
    """(a training step, its batch of the preset's rows).

    Each run goes on from the state that the last one left, on the same batch.

    Args:
        times: as of `compile_case`.
    """
    tx, objective = optim.optimizer(preset.optim), replace(preset.objective, schedule=schedule)
    host, (state, batch, ops), mesh = begin(preset, model, tx)
    step = make_train_step(model, tx, objective, sharding.shardings(state, mesh))
    taken = branches_taken(host, schedule, model.memory_gradient, sharding.row_devices(mesh))
    within = kinds_within(host, model.memory_gradient)
    case = compile_case(step, state, batch, ops, taken=taken, within=within, times=times)
    held = {"state_mib": _mib(state), "operators_mib": _mib(ops)}

    def run():
        nonlocal state
        state, metrics = case.compiled(state, batch, ops)
        return metrics

    return case._replace(run=run, known={**case.known, **held}), host


def _mib(tree: Any) -> float:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 2**20


def branches_taken(
    batch: Batch, schedule: str, memory_gradient: int = 0, devices: int = 1
) -> list[tuple[int, ...]]:
    """How often an update takes each branch of its schedule's choices, in the program's order.

    A group of segments has a branch for each start of its gradient, and one more for padding
    (`schedules.branch_taken`). A smaller first group has a choice of its own, before the others'.

    Args:
        devices: those that share the rows. Each takes as many segments at once as suit its own.
    """
    kinds = by_segment(batch).kind
    size, starts_of = memory_gradient + 1, schedules.all_or_none
    if schedule == "parallel":
        of_one = jax.tree.map(lambda leaf: leaf[: len(leaf) // devices], batch)
        size, starts_of = schedules.segments_at_once(of_one), schedules.first_middle_last
    counts = []
    for length, groups in itertools.groupby(_groups(kinds, size), len):
        starts = starts_of(length)
        taken = [int(schedules.branch_taken(group, starts)) for group in groups]
        counts.append(tuple(taken.count(branch) for branch in range(len(starts) + 1)))
    return counts


def _groups(kinds: Any, size: int) -> list[Any]:
    """Groups of segments, counted from the end: the first one has what remains."""
    starts = [0, *range(len(kinds) % size, len(kinds), size)]
    groups = (kinds[start:stop] for start, stop in itertools.pairwise([*starts, len(kinds)]))
    return [group for group in groups if len(group)]


def kinds_within(batch: Batch, memory_gradient: int) -> tuple[int, ...]:
    """How often an update differentiates segments of padding, of context and with loss.

    They are those of groups that have loss somewhere, in which `ForwardPass.chain` chooses. Without
    a gradient through the memory a group is one segment, and there is no such choice.
    """
    if memory_gradient == 0:
        return ()
    groups = _groups(by_segment(batch).kind, memory_gradient + 1)
    inside = [int(kind) for group in groups if (group == LOSS).any() for kind in group]
    return tuple(np.bincount(inside, minlength=3).tolist())


def steps(cfg: BenchmarkConfig) -> dict[str, Any]:
    """One training step of every sorting preset, of recall and of a small GPT-2 with memory.

    Beside the floor of our products is that of the paper's formulas, each taken as it is, at the
    same rate. A form with fewer products lowers the first floor, but not the second. --presets
    takes NAME or NAME:ROWS; by default those of paper size have one row on a CPU: with the paper's
    8 rows they take up to minutes a step there.
    """
    cases, rows = {}, {}
    for (name, schedule), dtype in itertools.product(variants(cfg), cfg.dtypes):
        label, preset = (name, schedule, dtype), config(name, cfg.quick)
        dtype, _, fused_by = dtype.partition("+")
        fused = {"fused_attention": True, "fused_by": fused_by} if fused_by else {}
        model = replace(preset.model, dtype=dtype, **fused)
        cases[label], batch = update(preset, schedule, model, cfg.times)
        rows[label] = dict(zip(("preset", "schedule", "dtype"), label, strict=True))
        rows[label] |= {"batch": preset.batch_size, "tokens": tokens_of(batch)}
        rows[label]["literal_operations"] = step_operations(model, batch)
    timed, _, rates = race(cases, cfg)
    for label, row in rows.items():
        row |= timed[label]
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        row["literal_floor"] = row["floor"] * row["literal_operations"] / row["operations"]
        row["literal_share"] = row["literal_floor"] / row["seconds"]
    return {"rates": rates, "rows": list(rows.values())}


def memory_gradient(cfg: BenchmarkConfig) -> dict[str, Any]:
    """An update of 4 rows whose gradient goes back through the memory by k segments.

    On sorting the last segment has loss, on text all of them have.
    """
    names, found = {"sorting": "infinity-former:4"}, {}
    if not cfg.quick:
        names = {"language model": f"{TEXT}:4"} | names
    for task, name in names.items():
        preset, cases = config(name, cfg.quick), {}
        for k in (1,) if cfg.quick else (0, 1, 3, 7):
            model = replace(preset.model, memory_gradient=k)
            cases[str(k)], _ = update(preset, "sequential", model)
        segments = batches(preset, 1)(np.arange(1)).tokens.shape[1]
        found[f"{task}, {segments} segments"], _, _ = race(cases, cfg)
    return found
