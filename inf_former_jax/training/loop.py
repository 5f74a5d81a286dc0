"""The training loop: steps, rows of metrics, evaluations, checkpoints, progress; knows no task."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inf_former_jax.fields import Checked, Count, NonNegative
from inf_former_jax.training.checkpoint import Checkpoints
from inf_former_jax.training.metrics import (
    MetricsWriter,
    NonFiniteError,
    add,
    check_figures,
    check_finite,
    check_skips,
    ratios,
)
from inf_former_jax.training.objective import SUMS
from inf_former_jax.training.stalls import Stalls
from inf_former_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig(Checked):
    """How often the loop logs and evaluates, and how long it may run.

    No update depends on it, so all of it may change when a run goes on.

    Raises:
        ValueError: on construction, for a count below 1 or negative minutes.
    """

    log_every: Count = 50
    """Updates between rows of training metrics; every update is checked for NaN."""
    eval_every: Count = 500
    """Updates between evaluations on validation data."""
    minutes: NonNegative = 0.0
    """Stop after this many minutes of training, earlier runs and waiting for the compilation
    included; 0 = no limit. On several hosts the first one's clock decides, when a row is due."""


class Interrupted(RuntimeError):
    """A signal ended the run after a whole step; what it had is saved."""


#: What the system does of itself: the second signal of a kind ends the process at once.
_DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


class StopSignal(contextlib.AbstractContextManager):
    """Remembers SIGTERM and SIGINT instead of dying of them; the second one of a kind kills."""

    def __init__(self):
        self.received = ""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in _DEFAULTS:
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame):
        self.received = signal.Signals(number).name
        signal.signal(number, _DEFAULTS[number])


@dataclasses.dataclass
class Reporter:
    """Collects the metrics of steps and turns them into rows, with rates.

    Attributes:
        seconds: of training, compile included, carried over from before an interruption.
        most_skipped: how many updates in a row may have been left out (`OptimConfig`).
        stalls: times what the run waits for.
    """

    writer: MetricsWriter
    progress: Progress
    tokens_per_step: int
    seconds: float = 0.0
    most_skipped: int = 0

    def __post_init__(self):
        self.stalls = Stalls(self.tell)
        self._in_a_row = 0
        self._waiting: list[dict[str, Any]] = []
        self._since = time.perf_counter()
        self._task = None

    def start(self, done: int, total: int) -> None:
        """Open the progress bar."""
        self._task = self.progress.add_task(
            "train", completed=done, total=total, figures="compiling"
        )

    def add(self, metrics: dict[str, Any]) -> None:
        """Keep a step's metrics on the device, so that nothing waits for them."""
        self._waiting.append(metrics)

    def flush(self, step: int) -> None:
        """Check, average and write the metrics of the steps since the last flush, `step` last."""
        with self.stalls.waiting("figures of the device", step):
            steps = jax.device_get(self._waiting)
        total: dict[str, float] = {}
        for number, metrics in enumerate(steps, start=step - len(steps) + 1):
            check_finite(number, metrics)
            self._in_a_row = self._in_a_row + 1 if metrics.get("skipped") else 0
            check_skips(number, self._in_a_row, self.most_skipped)
            total = add(total, {name: metrics[name] for name in SUMS})
        passed = self.elapsed() - self.seconds
        self.seconds += passed
        whole = [metrics for metrics in steps if not metrics.get("skipped")]
        last = whole[-1] if whole else {}  # an update that was left out has no norms
        row = ratios(total) | {
            **{name: float(last[name]) for name in ("grad_norm", "memory_norm") if name in last},
            "seconds_per_step": passed / len(steps),
            "tokens_per_second": self.tokens_per_step * len(steps) / passed,
            "seconds": self.seconds,
        }
        if self.most_skipped:
            row["skipped"] = sum(int(metrics["skipped"]) for metrics in steps)
        self.write("train", step, row)
        self._waiting.clear()
        self.resume()

    def elapsed(self) -> float:
        """Seconds of training until now; evaluations do not count."""
        return self.seconds + time.perf_counter() - self._since

    def resume(self) -> None:
        """Restart the clock after time that is not a training step's."""
        self._since = time.perf_counter()

    def write(self, split: str, step: int, row: dict[str, float]) -> None:
        """Write and show the row of a split ("train", "valid") at a step."""
        self.writer.write(split, step, row)
        figures = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.3f}"
        figures = "no loss" if math.isnan(row["loss"]) else figures
        if "tokens_per_second" in row:
            figures += f" {row['tokens_per_second']:,.0f} tokens/s"
        if row.get("skipped"):
            figures += f", {row['skipped']} updates left out"
        if self._task is not None and split == "train":
            self.progress.update(self._task, completed=step, figures=figures)
        if split != "train" or not self.progress.console.is_terminal:
            self.tell(f"step {step:>6} {split}: {figures}")

    def tell(self, line: str) -> None:
        """Show a line; of several processes only the first one does."""
        if jax.process_index():
            return
        if not self.progress.console.is_terminal:
            print(line, flush=True)  # a log file must show what is going on
        else:
            self.progress.console.print(line, highlight=False)


def progress_bar(console: Console | None = None) -> Progress:
    """A bar with figures and an estimate of the time left; plain lines where nobody watches."""
    figures, left = TextColumn("{task.fields[figures]}"), TextColumn("left")
    columns = BarColumn(), MofNCompleteColumn(), figures, left, TimeRemainingColumn()
    console = console or Console()
    return Progress(*columns, console=console, disable=not console.is_terminal)


def train(
    cfg: LoopConfig,
    state: TrainState,
    steps: int,
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Any],
    operators: Any,
    evaluate: Callable[[TrainState], dict[str, float]],
    reporter: Reporter,
    checkpoints: Checkpoints | None = None,
) -> TrainState:
    """Run updates until `steps` or the time limit; the last state is evaluated and returned.

    Args:
        batches: global batches on their devices, one an update, from the state's step on.
        operators: passed on to `train_step`.
        evaluate: ratios of a state on validation data.
        checkpoints: where to save every so often, at the end, and when a signal ends the run.

    Raises:
        NonFiniteError: naming the first step whose loss, gradient or new state is not finite, or
            whose evaluation is not, and the last good checkpoint.
        Interrupted: SIGTERM or SIGINT, after the step was finished, evaluated if that was due, and
            saved.
    """
    step = int(state.step)
    if step and _agreed(_time_over(cfg, reporter.seconds))[0]:
        return state  # training had ended; what follows it was not done yet
    reporter.start(step, steps)
    with StopSignal() as stop, reporter.progress:
        while step < steps:
            with reporter.stalls.waiting("the reader", step):
                batch = next(batches)
            with reporter.stalls.waiting("the device", step):  # of which few steps wait at once
                state, metrics = train_step(state, batch, operators)
            reporter.add(metrics)
            step += 1
            over, stopped, overdue = _due(cfg, step, reporter, stop, checkpoints)
            last = over or step == steps
            evaluating = last or step % cfg.eval_every == 0
            saving = None
            if checkpoints and (last or stopped or overdue or step % checkpoints.every == 0):
                saving = checkpoints
            figures = None
            with _naming_checkpoint(checkpoints):
                if evaluating or saving or stopped or step % cfg.log_every == 0:
                    reporter.flush(step)
                if evaluating:
                    figures = evaluate(state)
                    check_figures(step, "validation", figures)
            if figures is not None:
                reporter.write("valid", step, figures)
            if saving:
                with reporter.stalls.waiting("a checkpoint", step):
                    saving.save(step, state, figures)
            if evaluating or saving:
                reporter.resume()
            if last or stopped:
                break
        if checkpoints:
            checkpoints.wait()
        if _agreed(bool(stop.received))[0]:  # also while the last step was evaluated and saved
            raise Interrupted(f"{stop.received or 'a signal'} after step {step}")
    return state


def _due(
    cfg: LoopConfig,
    step: int,
    reporter: Reporter,
    stop: StopSignal,
    checkpoints: Checkpoints | None,
) -> tuple[bool, bool, bool]:
    """Whether the time is over, a signal came, a checkpoint is overdue: the same on every host."""
    if jax.process_count() > 1 and step % cfg.log_every:
        return False, False, False
    overdue = checkpoints is not None and checkpoints.overdue()
    over = _time_over(cfg, reporter.elapsed())
    over, stopped, overdue = _agreed(over, bool(stop.received), overdue)
    return over, stopped, overdue


def _time_over(cfg: LoopConfig, seconds: float) -> bool:
    return bool(cfg.minutes) and seconds > 60 * cfg.minutes


def _agreed(*flags: bool) -> tuple[bool, ...]:
    """The same on every process: which flags any one of them has."""
    if jax.process_count() == 1:
        return flags
    return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


@contextlib.contextmanager
def _naming_checkpoint(checkpoints: Checkpoints | None) -> Iterator[None]:
    try:
        yield
    except NonFiniteError as error:
        if checkpoints is None:
            raise
        steps = checkpoints.steps()
        kept = f"the last good checkpoint is of step {steps[-1]}" if steps else "no checkpoint yet"
        raise NonFiniteError(f"{error}; {kept}") from None
