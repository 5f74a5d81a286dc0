"""The training loop: steps, rows of metrics, evaluations, progress; knows no task."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inf_former_jax.training.metrics import MetricsWriter, add, check_finite, ratios
from inf_former_jax.training.step import SUMS, TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often the loop looks up.

    Raises:
        ValueError: on construction, for a count below 1 or negative minutes.
    """

    log_every: int = 50
    """Updates between rows of training metrics; every update is checked for NaN."""
    eval_every: int = 500
    """Updates between evaluations on validation data."""
    minutes: float = 0.0
    """Stop after this many minutes of training, compile included; 0 = no limit."""

    def __post_init__(self):
        for name in ("log_every", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, accepted: 1 or more")
        if self.minutes < 0:
            raise ValueError(f"minutes: found {self.minutes}, accepted: 0 (no limit) or more")


@dataclasses.dataclass
class Reporter:
    """Collects the metrics of steps and turns them into rows, with rates."""

    writer: MetricsWriter
    progress: Progress
    tokens_per_step: int

    def __post_init__(self):
        self._waiting: list[dict[str, Any]] = []
        self._rates: list[float] = []
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
        steps = jax.device_get(self._waiting)
        total = None
        for number, metrics in enumerate(steps, start=step - len(steps) + 1):
            check_finite(number, metrics)
            total = add(total, {name: metrics[name] for name in SUMS})
        seconds = (time.perf_counter() - self._since) / len(steps)
        row = ratios(total) | {
            "grad_norm": float(steps[-1]["grad_norm"]),
            "seconds_per_step": seconds,
            "tokens_per_second": self.tokens_per_step / seconds,
        }
        self._rates.append(row["tokens_per_second"])
        self.writer.write("train", step, row)
        self._show("train", step, row)
        self._waiting.clear()
        self.resume()

    def evaluated(self, step: int, row: dict[str, float]) -> None:
        """Write the figures of an evaluation."""
        self.writer.write("valid", step, row)
        self._show("valid", step, row)

    def resume(self) -> None:
        """Restart the clock after time that is not a training step's."""
        self._since = time.perf_counter()

    def median_rate(self) -> float:
        """Tokens a second, the median of all rows but the first, which has the compilation."""
        return statistics.median(self._rates[1:] or self._rates)

    def _show(self, split, step, row):
        figures = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.3f}"
        if "tokens_per_second" in row:
            figures += f" {row['tokens_per_second']:,.0f} tokens/s"
        if self._task is not None and split == "train":
            self.progress.update(self._task, completed=step, figures=figures)
        line = f"step {step:>6} {split}: {figures}"
        if not self.progress.console.is_terminal:
            print(line, flush=True)  # a log file must show what is going on
        elif split != "train":
            self.progress.console.print(line, highlight=False)


def progress_bar(console: Console | None = None) -> Progress:
    """A bar with figures and an estimate of the time left; plain lines where nobody watches."""
    columns = (
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
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
) -> TrainState:
    """Run updates until `steps` or the time limit; the last state is evaluated and returned.

    Args:
        batches: global batches on their devices, one an update.
        operators: passed on to `train_step`.
        evaluate: ratios of a state on validation data.

    Raises:
        NonFiniteError: naming the first step whose loss, gradient or memory is not finite.
    """
    end = time.perf_counter() + 60 * cfg.minutes if cfg.minutes else float("inf")
    done = int(state.step)
    reporter.start(done, steps)
    with reporter.progress:
        while done < steps:
            state, metrics = train_step(state, next(batches), operators)
            reporter.add(metrics)
            done += 1
            last = done == steps or time.perf_counter() > end
            evaluated = last or done % cfg.eval_every == 0
            if evaluated or done % cfg.log_every == 0:
                reporter.flush(done)
            if evaluated:
                reporter.evaluated(done, evaluate(state))
                reporter.resume()
            if last:
                break
    return state
