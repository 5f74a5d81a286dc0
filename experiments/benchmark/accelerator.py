"""What a lent accelerator says of every option that no device has shown to be better yet.

    python -m experiments.benchmark.accelerator [--minutes 8] [--out FOLDER]

First results are held against the published arrays in float32. Then each option is timed in turns
with the default, those of most worth first. A measure has a limited time; when all of it is over,
the others are named as not measured. Each runs in a process that a failed kernel or a full memory
may end without ending the rest. A file NN.json is written as soon as a measure is done.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.processes import ROOT, Child
from experiments.benchmark.steps import begin, config, update
from experiments.benchmark.timing import BenchmarkConfig, Case, compile_case, race, ratio
from experiments.run import cli, folders, tables
from inf_former_jax.fields import Checked, Count, Range
from inf_former_jax.files import write_text
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.read import expected_value
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.step import make_train_step

#: An option is used if it is so many times as fast, or takes so much of the default's temporaries.
FASTER, SMALLER = 1.03, 0.8


@dataclasses.dataclass(frozen=True)
class AcceleratorConfig(Checked):
    """How long to measure, and where to."""

    minutes: Annotated[float, Range(0, ends="(]")] = 8.0
    """Of all measures together."""
    longest: Annotated[float, Range(0, ends="(]")] = 100.0
    """Seconds after which a measure is given up."""
    repeats: Count = 7
    """Turns of an option and the default."""
    quick: bool = False
    """Tiny shapes: that it runs, not how fast."""
    out: str = "runs/accelerator"
    """Folder of NN.json, verdicts.md and verdicts.txt."""


class Trial(NamedTuple):
    """An option, what it is tried on, and what is changed for it."""

    option: str
    preset: str
    tried: Mapping[str, Any] = {}
    default: Mapping[str, Any] = {}


HALF = {"dtype": "bfloat16"}
FUSED = {"fused_attention": True}
PAPER, TEXT, SMALL = "paper-4k", "gpt2-infinity-lasting", "infinity-former"
READ, GOLDEN = "read", "f32"
PARALLEL = "objective.schedule=parallel"

#: Those of most worth first.
TRIALS = (
    Trial("float32 parity with the published arrays", GOLDEN),
    *(Trial(PARALLEL, name, {"schedule": "parallel"}) for name in (PAPER, TEXT, SMALL)),
    Trial("model.dtype=bfloat16", PAPER, HALF),
    Trial("model.fused-by=cudnn, bfloat16", PAPER, HALF | FUSED | {"fused_by": "cudnn"}, HALF),
    Trial("model.fused-attention, float32", PAPER, FUSED),
    Trial("long_term.read=kernel", PAPER, {"read": "kernel"}),
    Trial("model.fused-attention, bfloat16", PAPER, HALF | FUSED, HALF),
    *(Trial(f"model.query-chunk={n}", PAPER, {"query_chunk": n}) for n in (1024, 512, 128)),
    *(Trial(f"a read in chunks of {n}", READ, {"chunk": n}, {"chunk": 256}) for n in (1024, 64)),
    Trial("model.remat", PAPER, {"remat": True}),
    Trial(PARALLEL, "paper-16k:1", {"schedule": "parallel"}),
    Trial("long_term.read=kernel", TEXT, {"read": "kernel"}),
    Trial("model.dtype=bfloat16", TEXT, HALF),
)


def changed(model: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """The model with these of its fields; `read` is one of its long-term memory."""
    fields = {name: value for name, value in changes.items() if name not in ("schedule", "read")}
    if "read" in changes:
        assert model.long_term is not None
        fields["long_term"] = dataclasses.replace(model.long_term, read=changes["read"])
    return dataclasses.replace(model, **fields)


def reading(chunk: int, quick: bool) -> tuple[Case, float]:
    """A read of paper size and its gradient, in chunks of queries, and its sum."""
    memory, model = config(PAPER, False).model.long_term, config(PAPER, quick).model
    shape = (1 if quick else 8, model.num_heads, model.segment_len)
    keys = jax.random.split(jax.random.key(0), 2)
    mean = jax.random.uniform(keys[0], shape)
    values = jax.random.normal(keys[1], (*shape[:2], memory.num_basis, model.head_dim))

    def total(mean, values):
        density = GaussianDensity(mean, jnp.full_like(mean, 0.01))
        return (expected_value(memory.basis, density, values, chunk) ** 2).sum()

    case = compile_case(jax.jit(jax.value_and_grad(total, (0, 1))), mean, values)
    return case, float(case.run()[0])


def gradient(preset: str, quick: bool, changes: Mapping[str, Any]) -> np.ndarray:
    """A batch's gradient by all parameters, as what plain descent takes off them."""
    cfg = config(preset, quick)
    model, tx = changed(cfg.model, changes), optax.sgd(1.0)
    _, (state, batch, ops), _ = begin(cfg, model, tx)
    before = jax.device_get(state.params)
    after, _ = make_train_step(model, tx, cfg.objective)(state, batch, ops)
    taken = jax.tree.map(np.subtract, before, jax.device_get(after.params))
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(taken)])


def parity() -> dict[str, Any]:
    """The published arrays, on this device in float32 (conftest.py would choose the CPU)."""
    tests = ["tests/memory/test_golden.py", "tests/models/test_golden.py", "-k", "f32"]
    command = [sys.executable, "-m", "pytest", "--noconftest", "-qx", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=75)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    return {"measured": said, "verdict": "the same" if not done.returncode else "not the same"}


def case_of(preset: str, quick: bool, changes: Mapping[str, Any]) -> tuple[Case, float]:
    """(a read, or a training step, with these changes; its sum, or its first loss)."""
    if preset == READ:
        return reading(changes["chunk"], quick)
    cfg = config(preset, quick)
    case, _ = update(cfg, changes.get("schedule", "sequential"), changed(cfg.model, changes))
    return case, float(case.run()["loss"])


@functools.lru_cache(maxsize=2)  # those in float32 and in bfloat16 are kept on the device
def _default(preset: str, quick: bool, changes: str) -> tuple[Case, float]:
    return case_of(preset, quick, json.loads(changes))


def measure(trial: Trial, repeats: int, quick: bool) -> dict[str, Any]:
    """What was measured of a trial, in words and numbers, and the verdict."""
    if trial.preset == GOLDEN:
        return parity()
    default, expected = _default(trial.preset, quick, json.dumps(trial.default))
    tried, found = case_of(trial.preset, quick, trial.tried)
    cases, cfg = {"default": default, "tried": tried}, BenchmarkConfig(quick=quick, repeats=repeats)
    rows, seconds, rates = race(cases, cfg)
    faster = ratio(seconds["default"], seconds["tried"])
    room = tried.known["temporaries_mib"] / max(default.known["temporaries_mib"], 1e-9)
    error = abs(found - expected) / max(abs(expected), 1e-9)
    new, old = (1e3 * rows[name]["seconds"] for name in ("tried", "default"))
    said = f"{faster:.2f} × as fast: {new:.1f} for {old:.1f} ms; {room:.2f} of the temporaries"
    said += f"; first loss differs by {error:.0e}"
    row = {"faster": faster, "room": room, "error": error, "rates": rates, "rows": rows}
    if "fused_by" in trial.tried:
        by_xla = gradient(trial.preset, quick, {**trial.tried, "fused_by": "xla"})
        gap = np.linalg.norm(gradient(trial.preset, quick, trial.tried) - by_xla)
        row["deviation"] = float(gap / np.linalg.norm(by_xla))
        said += f"; its gradient differs from that by xla by {row['deviation']:.0e}"
    return row | {"measured": said, "verdict": verdict(faster, room, bool(np.isfinite(found)))}


def verdict(faster: float, room: float, finite: bool) -> str:
    """Whether to use an option, by its speed and by its temporaries beside the default's."""
    if finite and faster >= FASTER:
        return "use"
    return "use where memory is short" if finite and room <= SMALLER else "do not use"


def start(cfg: AcceleratorConfig) -> Child:
    """A process that measures trials by number, and may die of one."""
    command = "-m", "experiments.benchmark.accelerator", "--child", str(cfg.repeats)
    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return Child(*command, str(int(cfg.quick)), env=env)


def end(running: Child) -> str:
    """End a process, and say how it had ended before, if it had."""
    try:
        return f"the process ended with status {running.process.wait(0.5)}"
    except subprocess.TimeoutExpired:
        return "took too long"
    finally:
        running.close()


def child(repeats: int, quick: bool) -> None:
    """Measure the trials whose numbers come in, a line of JSON each."""
    jax.config.update("jax_disable_most_optimizations", quick)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        for line in sys.stdin:
            try:
                found = measure(TRIALS[int(line)], repeats, quick)
            except Exception as error:  # of a kernel, a library, or for want of memory: a result
                why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                found = {"measured": why, "verdict": "not available"}
            answers.write(json.dumps(found) + "\n")
            answers.flush()


def measure_all(
    cfg: AcceleratorConfig, trials: Sequence[Trial] = TRIALS
) -> Iterator[dict[str, Any]]:
    """A row of every trial in turn, as soon as it is known, as long as there is time."""
    begin, running = time.monotonic(), None
    for number, trial in enumerate(trials):
        asked = time.monotonic()
        left = 60 * cfg.minutes - (asked - begin)
        row: dict[str, Any] = {"option": trial.option, "preset": trial.preset}
        if left < min(cfg.longest, 6 * cfg.minutes):
            yield row | {"measured": "no time was left", "verdict": "not measured"}
            continue
        running = running or start(cfg)
        running.ask(number)
        if said := running.answer(min(left, cfg.longest)):
            row |= json.loads(said)
        else:
            row |= {"measured": end(running), "verdict": "not available"}
            running = None
        yield row | {"seconds": time.monotonic() - asked}
    if running:
        running.close()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--child"]:
        return child(int(argv[1]), bool(int(argv[2])))
    program = "python -m experiments.benchmark.accelerator"
    cfg = cli.options(program, __doc__, AcceleratorConfig(), argv)
    with cli.refusals():
        folder = Path(folders.make(cfg.out))
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the device's memory is the child's
    origin = folders.provenance("accelerator", "", argv) | {"settings": folders.to_json(cfg)}

    rows = []
    for row in measure_all(cfg):
        path = folder / f"{len(rows):02}.json"
        folders.write_json(path, origin | {"found": {"accelerator": row}})
        print(f"{row['option']}, {row['preset']}: {row['measured']}: {row['verdict']}", flush=True)
        rows.append(row)
    header = ("option", "measured on", "measured", "verdict")
    cells = [[str(row[name]) for name in ("option", "preset", *header[2:])] for row in rows]
    write_text(folder / "verdicts.md", tables.markdown(header, cells) + "\n")
    write_text(folder / "verdicts.txt", "\n".join("\t".join(row) for row in cells) + "\n")
    tables.show(str(origin["device"]), header, cells, 160)


if __name__ == "__main__":
    main()
