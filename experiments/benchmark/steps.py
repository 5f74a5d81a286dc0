"""Training steps of the sorting presets and of a small GPT-2 with memory, beside their floors.

A step is `make_train_step` with the preset's optimiser and objective, on a batch of the preset's
task: generated sequences for sorting, random tokens in the streams of a language model.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmark import update as benchmark_update
from experiments.benchmark.timing import Machine, floors, interleaved
from experiments.language_modeling import config as language_modeling
from experiments.sorting import config as sorting
from experiments.sorting import task as sorting_task
from inf_former_jax.data.batches import Batch
from inf_former_jax.data.splits import TokenizedSplit
from inf_former_jax.data.streams import Streams
from inf_former_jax.models import parallel, presets
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.training import optim

SCHEDULES = ("sequential", "parallel")

#: What activations are computed in; behind +, by what local attention is fused.
DTYPES = ("float32", "bfloat16", "float32+xla", "bfloat16+xla", "bfloat16+cudnn")

#: Beside the sorting presets: the CPU size at B 8 and 5 segments of 128, and a GPT-2 that reads 8.
SMALL, TEXT = "small", "gpt2-infinity-lasting"

#: Those of paper size have 8 rows: minutes an update on a CPU, which so has one row of them.
_PAPER = tuple(name for name in sorting.PRESETS if name.startswith("paper-"))


def configs() -> dict[str, Any]:
    """Name → config of everything that this can measure."""
    memory = sorting.PRESETS["infinity-former"][1].model.long_term
    small = sorting.small(presets.infinity_former(), segment_len=128, mem_len=128, long_term=memory)
    text = dataclasses.replace(language_modeling.PRESETS[TEXT][1], segments=8)
    return {name: config for name, (_, config) in sorting.PRESETS.items()} | {
        SMALL: dataclasses.replace(small, length=5 * 128 - 20, batch_size=8), TEXT: text,
    }  # fmt: skip


def default(platform: str) -> tuple[str, ...]:
    """All presets at B 1 where they are the paper's; on an accelerator also with their own rows."""
    own = tuple(name for name in configs() if name not in _PAPER)
    papers = tuple(f"{name}:1" for name in _PAPER)
    return own + papers if platform == "cpu" else own + papers + _PAPER


def check(names: Sequence[str], schedules: Sequence[str], dtypes: Sequence[str]) -> None:
    """Refuse what is not there.

    Raises:
        ValueError: a name that is no preset or PRESET:ROWS, a schedule, or a dtype.
    """
    for option, found, known in (("schedules", schedules, SCHEDULES), ("dtypes", dtypes, DTYPES)):
        for of in found:
            if of not in known:
                raise ValueError(f"{option}: found {of}, accepted: {', '.join(known)}")
    for of in names:
        name, colon, rows = of.partition(":")
        if name not in configs() or (colon and not (rows.isdecimal() and int(rows))):
            accepted = f"{', '.join(configs())}, each also as NAME:ROWS"
            raise ValueError(f"presets: found {of}, accepted: {accepted}")


def config(name: str, quick: bool) -> Any:
    """The preset NAME, or NAME:ROWS with so many rows; with `quick` of tiny shapes."""
    name, _, rows = name.partition(":")
    found = configs()[name]
    if quick:
        # A segment of sorting has to hold the 20 answers.
        sizes = benchmark_update.TINY | {"segment_len": 32}
        sizes |= {"mem_len": 32 if found.model.mem_len else 0}
        model = dataclasses.replace(found.model, **sizes)
        short = {"segments": 2} if name == TEXT else {"length": 2 * 32 - 20}
        found = dataclasses.replace(found, model=model, batch_size=2, **short)
    return dataclasses.replace(found, batch_size=int(rows)) if rows else found


def batches(cfg: Any, rows: int) -> Callable[[np.ndarray], Batch]:
    """Numbers of `rows` rows → their batch, as the experiment makes it for its first update.

    A language model's rows each read a document of their own, of random tokens, to its end.
    """
    if isinstance(cfg, sorting.SortingConfig):
        examples = sorting_task.examples_of(cfg)
        return lambda numbers: examples.batch("train", numbers)
    length = cfg.segments * cfg.model.segment_len + 1
    tokens = np.random.default_rng(0).integers(0, cfg.model.vocab_size, rows * length)
    ones, names = np.ones(rows, np.int64), tuple(map(str, range(rows)))
    split = TokenizedSplit(tokens, np.arange(rows + 1) * length, names, ones, ones)
    of = Streams(split, rows, cfg.model.segment_len, cfg.segments)
    return lambda numbers: of.batch(0, numbers)


def computing(model: ModelConfig, dtype: str) -> ModelConfig:
    """The model that computes in one of DTYPES."""
    dtype, _, by = dtype.partition("+")
    fused = {"fused_attention": True, "fused_by": by} if by else {}
    return dataclasses.replace(model, dtype=dtype, **fused)


def prepare(cfg: Any, schedule: str, dtype: str) -> benchmark_update.Update:
    """A preset's update, its batch of `cfg.batch_size` rows on each device."""
    model = computing(cfg.model, dtype)
    objective = dataclasses.replace(cfg.objective, schedule=schedule)
    make = batches(cfg, cfg.batch_size * jax.device_count())
    return benchmark_update.prepare(
        model, optim.optimizer(cfg.optim), objective, make, cfg.batch_size
    )


def of_model(cfg: Any, asked: Sequence[str]) -> Sequence[str]:
    """Those of the asked schedules that the model has."""
    try:
        parallel.check(cfg.model)
    except ValueError:
        return [schedule for schedule in asked if schedule != "parallel"]
    return asked


def steps(
    names: Sequence[str], schedules: Sequence[str], dtypes: Sequence[str], repeats: int, size: int,
    quick: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A row for each preset, schedule that its model has, and dtype; all take turns.

    Args:
        size: of the products that tell this machine's rate.
    """
    updates, rows = {}, []
    for name in names:
        cfg = config(name, quick)
        for schedule in of_model(cfg, schedules):
            for dtype in dtypes:
                updates[name, schedule, dtype] = prepare(cfg, schedule, dtype)
    kinds = sorted({kind for of in updates.values() for kind in of.operations})
    machine = Machine(size, kinds)
    runs = {label: of.run for label, of in updates.items()}
    seconds = interleaved(machine.variants | runs, repeats)
    rates = machine.rates(seconds)
    for (name, schedule, dtype), of in updates.items():
        taken = seconds[name, schedule, dtype]
        median = statistics.median(taken)
        row = {
            "preset": name, "schedule": schedule, "dtype": dtype,
            "batch": config(name, quick).batch_size, "tokens": of.tokens, "seconds": median,
            "least": min(taken), "tokens_per_second": of.tokens / median,
            "temporaries_mib": of.temporaries / 2**20, "trace": of.trace, "compile": of.compile,
            "program_bytes": of.program,
        }  # fmt: skip
        rows.append(row | floors(median, of.operations, of.moved, rates))
    return {"rates": rates, "rows": rows}
