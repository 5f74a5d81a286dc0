"""What probes of the memory share: documents whose last segment asks what earlier ones said."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from experiments.run import tables
from experiments.run.experiment import Site
from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training.state import TrainState

Questions = TypeVar("Questions")


def context_and_last(batch: Batch) -> tuple[Batch, Batch]:
    """The segments of each document but the last, and the last one, which asks."""
    context = jax.tree.map(lambda leaf: leaf[:, :-1], batch)
    return context, jax.tree.map(lambda leaf: leaf[:, -1:], batch)


def after_context(
    eval_step: Callable[..., tuple[Any, Memory]],
    state: TrainState,
    memory: Memory,
    site: Site,
    batches: Iterable[tuple[int, tuple[Batch, Questions]]],
) -> Iterator[tuple[Memory, Questions, Any]]:
    """(memory, questions, key) of each batch, whose context has been read into the memory.

    Args:
        eval_step: reads a batch, see `evaluation.make_eval_step`.
        memory: an empty one.
        batches: (first number, (context, questions)), see `batches.counted_batches`.
    """
    for first, (context, questions) in batches:
        key, later = jax.random.split(jax.random.fold_in(state.key, first))
        _, remembered = eval_step(state.params, memory, context, site.operators, key)
        yield remembered, questions, later


def lookup_windows(model: ModelConfig) -> dict[str, int]:
    """Label → segments back that an exact look-up through attention alone can reach."""
    window, layers = model.mem_len // model.segment_len, model.num_layers
    windows = {"exact look-up, short-term window": window}
    if layers > 1:
        windows[f"exact look-up, {layers} layers × window"] = window * layers
    return windows


def show(
    title: str,
    header: str,
    places: Sequence[int],
    rows: Mapping[str, tuple[float, Sequence[float | None]]],
) -> None:
    """Print accuracies over all questions and at each age or distance.

    Args:
        rows: label → (over all, at each of the places or at none; None where nothing is asked).
    """
    cells = [
        (label, f"{whole:.3f}", *("" if value is None else f"{value:.2f}" for value in values))
        for label, (whole, values) in rows.items()
    ]
    width = max(100, 70 + 7 * len(places))
    tables.show(title, (header, "all", *map(str, places)), cells, width)
