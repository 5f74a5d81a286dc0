"""A soak: minutes of training, then minutes of streaming, in which memory and speed must be flat.

    python -m experiments.faults soak [--options]

The tiny sorter is trained by the code of any run, with its evaluations and checkpoints. Then four
rows read and say tokens without end, and two of them in turn begin anew. Meanwhile the bytes of
all live arrays, the process's memory and the seconds of a step are sampled. Their first fifth is
left out, in which caches fill.
"""

import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.faults.runs import TINY
from experiments.faults.slope import ERRORS, SMALL, slope
from experiments.results.faults import FIGURES, LOGGED, SOAK_HEADER, slopes
from experiments.run import cli, devices, folders, room, tables, training
from experiments.run.stopping import INTERRUPTED
from experiments.sorting import data
from experiments.sorting.config import SortingConfig
from experiments.sorting.task import SORTING, Sorting
from inf_former_jax import generate
from inf_former_jax.data.batches import Batch
from inf_former_jax.fields import Checked, Count, Positive
from inf_former_jax.models.decoder import operators
from inf_former_jax.training.metrics import read_rows

#: The part of the samples that is left out, at the beginning.
_FILLING = 0.2

#: The run: without an end, at one learning rate.
_ENDLESS = ("--optim.steps", "2000000000", "--optim.schedule", "constant")
_ENDLESS += ("--loop.log-every", str(LOGGED), "--loop.eval-every", "400")

#: After so many updates all programs are compiled, but for those of an evaluation.
_COMPILED = 40

#: Rows of the stream, tokens that are read and said in a turn, and turns after which two rows begin
#: anew.
_ROWS, _READ, _SAID, _TURNS = 4, 40, 10, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoakConfig(Checked):
    """How long."""

    minutes: Positive = 10.0
    """Minutes of training, and as many of streaming."""
    every: Positive = 1.0
    """Seconds between two samples of the memory."""
    checkpoint_every: Count = 100
    """Updates between checkpoints, each of which leaves some memory in use."""
    out: str = "runs/soak"
    """Folder of soak.json and soak.png, and of the run."""


class Samples:
    """Figures by their time.

    Args:
        every: seconds between two samples at least.
        minutes: from the first sample to the last.
    """

    def __init__(self, every: float, minutes: float):
        self._every, self._seconds, self._over = every, 60 * minutes, False
        self.times: list[float] = []
        self.figures: dict[str, list[float]] = {"live": [], "process": []}

    def take(self, **figures: float) -> bool:
        """Take a sample, if it is time for one; True once, when the minutes are over."""
        now = time.monotonic()
        if self.times and now - self.times[-1] < self._every:
            return False
        self.times.append(now)
        figures |= {"live": float(sum(array.nbytes for array in jax.live_arrays()))}
        figures |= {"process": float(room.host_bytes())}
        for name, figure in figures.items():
            self.figures.setdefault(name, []).append(figure)
        before, self._over = self._over, now - self.times[0] >= self._seconds
        return self._over and not before

    def series(self) -> dict[str, tuple[list[float], list[float]]]:
        """Figure → (seconds from the first sample on, figures), without what fills caches."""
        return {name: settled(self.times, values) for name, values in self.figures.items()}


def settled(times: Sequence[float], figures: Sequence[float]) -> tuple[list[float], list[float]]:
    """(seconds since the first, figures) without the first fifth of the time."""
    first, last = (times[0], times[-1]) if times else (0.0, 0.0)
    begin = first + _FILLING * (last - first)
    kept = [(t - first, y) for t, y in zip(times, figures, strict=True) if t >= begin]
    return [t for t, _ in kept], [y for _, y in kept]


def trained(cfg: SoakConfig, folder: Path, argv: Sequence[str]) -> dict[str, Any]:
    """Train for the minutes: figure → series. The steps' seconds are those of the run's rows.

    SIGTERM ends the run, as it ends any, so that the minutes begin when all is compiled.
    """
    samples = Samples(cfg.every, cfg.minutes)

    class Sampled(Sorting):
        def batch(self, update: int, rows: np.ndarray) -> Batch:
            if update > _COMPILED and samples.take():
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(update, rows)

    every = "--checkpoint.every", str(cfg.checkpoint_every)
    preset, config = cli.parse(SORTING, None, [*TINY, *_ENDLESS, *every])
    experiment = dataclasses.replace(SORTING, task=cast(Any, Sampled))
    try:
        cli.start(experiment, preset, config, folder, argv, "faults")
    except SystemExit as stopped:
        if stopped.code != INTERRUPTED:
            raise
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row["split"] == "train"]
    rows = [row for row in rows if row["step"] > _COMPILED]
    seconds = [row["seconds"] for row in rows], [row["seconds_per_step"] for row in rows]
    return samples.series() | {"step": settled(*seconds)}


def streamed(cfg: SoakConfig, folder: Path) -> dict[str, Any]:
    """Read and say tokens for the minutes: figure → series. A step is a turn's mean token."""
    config, decoder, params, _ = training.load(SortingConfig, folder, ("params",))
    samples = Samples(cfg.every, cfg.minutes)
    constants, fresh = jax.device_put(operators(config.model)), generate.start(decoder, _ROWS)
    state, key = fresh, jax.random.key(0)
    for turn, prompt in enumerate(_prompts()):
        begin = time.perf_counter()
        given = prompt, _SAID, jax.random.fold_in(key, turn)
        _, state = generate.generate(decoder, params, state, *given, operators=constants)
        jax.block_until_ready(state)
        if samples.take(step=(time.perf_counter() - begin) / (_READ + _SAID)):
            return samples.series()
        if turn % _TURNS == 0:
            begun_anew = np.arange(_ROWS) % 2 == turn // _TURNS % 2
            state = _reset(state, fresh, jnp.asarray(begun_anew))
    raise AssertionError("prompts have no end")


def _prompts() -> Iterator[np.ndarray]:
    """Tokens to sort, [_ROWS, _READ], without end."""
    for turn in range(2**31):
        rows = np.arange(turn * _ROWS, (turn + 1) * _ROWS)
        yield data.generate(0, "test", rows, _READ)[0].astype(np.int32)


@jax.jit
def _reset(state: Any, fresh: Any, rows: Any) -> Any:
    """The state, of which some rows are fresh."""

    def chosen(new: Any, old: Any) -> Any:
        return jnp.where(rows.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(chosen, fresh, state)


def main(argv: Sequence[str]) -> None:
    """The command line: `python -m experiments.faults soak [--options]`."""
    program = "python -m experiments.faults soak"
    cfg = cli.options(program, __doc__, SoakConfig(), argv)
    with cli.refusals():
        folder = folders.make(cfg.out)
        path = folder / "soak.json"
        folders.check_free(path, cfg)
        run = folders.numbered(folder / "run")
    devices.offer()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "training": functools.partial(trained, cfg, run, argv),
        "streaming": functools.partial(streamed, cfg, run),
    }
    with cli.refusals():
        series = {part: compute() for part, compute in parts.items()}
        found = {part: {name: slope(*one) for name, one in series[part].items()} for part in series}
        origin = folders.provenance("faults", "soak", ["soak", *argv])
        content = {**origin, "settings": folders.to_json(cfg), "series": series}
        as_json = {
            part: {name: one.to_json() for name, one in found[part].items()} for part in found
        }
        folders.write_json(path, {**content, "slopes": as_json})
        from experiments.faults import plots

        plots.soak(folder / "soak.png", series, found)
    growing = report(as_json)
    print(f"{path}, {folder / 'soak.png'}")
    if growing:
        raise SystemExit(1)


def report(found: dict[str, dict[str, Any]]) -> list[str]:
    """Print the slopes, as JSON has them; the names of figures that are not flat."""
    title = f"flat: below {ERRORS:g} standard errors, or below {100 * SMALL:g} % in all"
    tables.show(title, SOAK_HEADER, slopes(found), 120)
    return [
        f"{part}: {FIGURES[name][0]}"
        for part, figures in found.items()
        for name, one in figures.items()
        if not one["flat"]
    ]
