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
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.processes import ROOT
from experiments.benchmark.steps import batches, config, mesh_of, update
from experiments.benchmark.timing import BenchmarkConfig, Case, compile_case, race, ratio
from experiments.run import cli, folders, tables
from inf_former_jax.fields import Checked, Range
from inf_former_jax.files import write_text
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.read import expected_value
from inf_former_jax.models.decoder import ModelConfig, operators
from inf_former_jax.training import sharding
from inf_former_jax.training.state import init_state
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
    repeats: int = 7
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
PAPER, TEXT, SMALL, READ, GOLDEN = (
    "paper-4k",
    "gpt2-infinity-lasting",
    "infinity-former",
    "read",
    "f32",
)
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
    *(Trial(f"model.query-chunk={n}", PAPER, {"query_chunk": n}) for n in (1024, 512, 256)),
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


def training(preset: str, quick: bool, changes: Mapping[str, Any]) -> tuple[Case, float]:
    """A training step with these changes, and its first loss."""
    cfg = config(preset, quick)
    case, _ = update(cfg, changes.get("schedule", "sequential"), changed(cfg.model, changes))
    return case, float(case.run()["loss"])


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
    model, rows = changed(cfg.model, changes), cfg.batch_size
    mesh, tx = mesh_of(rows), optax.sgd(1.0)
    state = init_state(model, tx, rows, 0, mesh)
    before = jax.device_get(state.params)
    batch = sharding.place_batch(batches(cfg, rows), rows, mesh)
    ops = sharding.everywhere(operators(model), mesh)
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


@functools.lru_cache(maxsize=2)  # those in float32 and in bfloat16 are kept on the device
def _default(preset: str, quick: bool, changes: str) -> tuple[Case, float]:
    return _case(preset, quick, json.loads(changes))


def _case(preset: str, quick: bool, changes: Mapping[str, Any]) -> tuple[Case, float]:
    if preset == READ:
        return reading(changes["chunk"], quick)
    return training(preset, quick, changes)


def measure(trial: Trial, repeats: int, quick: bool) -> dict[str, Any]:
    """What was measured of a trial, in words and numbers, and the verdict."""
    if trial.preset == GOLDEN:
        return parity()
    default, expected = _default(trial.preset, quick, json.dumps(trial.default))
    tried, found = _case(trial.preset, quick, trial.tried)
    rows, seconds, rates = race(
        {"default": default, "tried": tried}, BenchmarkConfig(quick=quick, repeats=repeats)
    )
    faster = ratio(seconds["default"], seconds["tried"])
    room = tried.known["temporaries_mib"] / max(default.known["temporaries_mib"], 1e-9)
    error = abs(found - expected) / max(abs(expected), 1e-9)
    said = (
        f"{faster:.2f} × as fast: {1e3 * rows['tried']['seconds']:.1f} for "
        f"{1e3 * rows['default']['seconds']:.1f} ms; {room:.2f} of the temporaries; first loss "
        f"differs by {error:.0e}"
    )
    more = {}
    if "fused_by" in trial.tried:
        by_xla = gradient(trial.preset, quick, {**trial.tried, "fused_by": "xla"})
        gap = np.linalg.norm(gradient(trial.preset, quick, trial.tried) - by_xla)
        more["deviation"] = float(gap / np.linalg.norm(by_xla))
        said += f"; its gradient differs from that by xla by {more['deviation']:.0e}"
    return {
        "measured": said,
        "verdict": verdict(faster, room, bool(np.isfinite(found))),
        **{"faster": faster, "room": room, "error": error, "rates": rates, "rows": rows},
        **more,
    }


def verdict(faster: float, room: float, finite: bool) -> str:
    """Whether to use an option, by its speed and by its temporaries beside the default's."""
    if finite and faster >= FASTER:
        return "use"
    return "use where memory is short" if finite and room <= SMALLER else "do not use"


class Child:
    """A process that measures trials by number, and may die of one."""

    def __init__(self, cfg: AcceleratorConfig):
        command = [sys.executable, "-m", "experiments.benchmark.accelerator", "--child"]
        self._process = subprocess.Popen(
            [*command, str(cfg.repeats), str(int(cfg.quick))],
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout
        self._asked, self._answers = self._process.stdin, self._process.stdout

    def measure(self, number: int, seconds: float) -> dict[str, Any] | None:
        """What the trial with this number found, or why it did not; None = neither in time."""
        begin, answer = time.monotonic(), b""
        try:
            self._asked.write(f"{number}\n".encode())
            self._asked.flush()
        except OSError:  # it ended after its last answer
            return None
        while not answer.endswith(b"\n"):
            left = begin + seconds - time.monotonic()
            if not select.select([self._answers], [], [], max(0.0, left))[0]:
                return None
            if not (read := os.read(self._answers.fileno(), 2**16)):
                return None
            answer += read
        return json.loads(answer)

    def close(self) -> str:
        """End the process, and say how it had ended before, if it had."""
        try:
            said = f"the process ended with status {self._process.wait(0.5)}"
        except subprocess.TimeoutExpired:
            said = "took too long"
        self._process.kill()
        self._process.wait()
        self._asked.close()
        self._answers.close()
        return said


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
    cfg: AcceleratorConfig,
    write: Callable[[int, dict[str, Any]], None],
    trials: Sequence[Trial] = TRIALS,
) -> list[dict[str, Any]]:
    """Every trial in turn, as long as there is time; `write` takes each as soon as it is known."""
    begin, rows, running = time.monotonic(), [], None
    for number, trial in enumerate(trials):
        left = 60 * cfg.minutes - (time.monotonic() - begin)
        row: dict[str, Any] = {"option": trial.option, "preset": trial.preset}
        if left < min(cfg.longest, 6 * cfg.minutes):
            rows.append(row | {"measured": "no time was left", "verdict": "not measured"})
            write(number, rows[-1])
            continue
        running = running or Child(cfg)
        start = time.monotonic()
        found = running.measure(number, min(left, cfg.longest))
        if found is None:
            found = {"measured": running.close(), "verdict": "not available"}
            running = None
        rows.append(row | found | {"seconds": time.monotonic() - start})
        write(number, rows[-1])
    if running:
        running.close()
    return rows


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

    def write(number: int, row: dict[str, Any]) -> None:
        folders.write_json(folder / f"{number:02}.json", origin | {"found": {"accelerator": row}})
        print(f"{row['option']}, {row['preset']}: {row['measured']}: {row['verdict']}", flush=True)

    rows = measure_all(cfg, write)
    header = ("option", "measured on", "measured", "verdict")
    cells = [[str(row[name]) for name in ("option", "preset", *header[2:])] for row in rows]
    write_text(folder / "verdicts.md", tables.markdown(header, cells) + "\n")
    write_text(folder / "verdicts.txt", "\n".join("\t".join(row) for row in cells) + "\n")
    tables.show(str(origin["device"]), header, cells, 160)


if __name__ == "__main__":
    main()
