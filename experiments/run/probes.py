"""What probes of the memory share: documents whose last segment asks what earlier ones said."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.run import plots, tables
from experiments.run.experiment import Site
from inf_former_jax.data.batches import Batch
from inf_former_jax.memory.state import Memory
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import metrics
from inf_former_jax.training.state import TrainState

#: Label → (accuracy over all questions, accuracies at the places; none if they are not known).
Accuracies = Mapping[str, tuple[float, Sequence[float | None]]]


def context_and_last(batch: Batch) -> tuple[Batch, Batch]:
    """The segments of each document but the last, and the last one, which asks."""
    context = jax.tree.map(lambda leaf: leaf[:, :-1], batch)
    return context, jax.tree.map(lambda leaf: leaf[:, -1:], batch)


def sums_by_place(
    read: Callable[..., tuple[Any, Memory]],
    answer: Callable[..., Mapping[str, Any]],
    state: TrainState,
    memory: Memory,
    site: Site,
    batches: Iterable[tuple[int, tuple[Batch, Mapping[int, Batch]]]],
) -> dict[int, dict[str, float]]:
    """Place (age or distance) → sums over the questions about it.

    The context of a batch is read once. The memory that it leaves is asked about one place at a
    time.

    Args:
        read: (params, memory, context, operators, key) → (its sums, memory).
        answer: (params, memory, questions, operators, key) → sums.
        memory: an empty one.
        batches: (first number, (context, place → the last segment with the questions about it)).
    """
    sums: dict[int, dict[str, float]] = collections.defaultdict(dict)
    for first, (context, questions) in batches:
        key, later = jax.random.split(jax.random.fold_in(state.key, first))
        _, remembered = read(state.params, memory, context, site.operators, key)
        for place, asked in questions.items():
            found = answer(state.params, remembered, asked, site.operators, later)
            sums[place] = metrics.add(sums[place], found)
    return sums


def lookup_windows(model: ModelConfig) -> dict[str, int]:
    """Label → segments back that an exact look-up through attention alone can reach."""
    window, layers = model.mem_len // model.segment_len, model.num_layers
    windows = {"exact look-up, short-term window": window}
    if layers > 1:
        windows[f"exact look-up, {layers} layers × window"] = window * layers
    return windows


def columns(places: str, accuracies: str) -> tables.Columns:
    """The columns of a table of runs: accuracy over all, at each place, and with memory emptied.

    Args:
        places, accuracies: where a result's test figures have them.
    """

    def by_place(label: str) -> Callable[[tables.Runs], str]:
        def cell(runs: tables.Runs) -> str:
            tests = [run["test"][label] for run in runs if label in run["test"]]
            if not tests:
                return ""
            by_run = zip(*(test[accuracies] for test in tests), strict=True)
            found = []
            for place, values in zip(tests[0][places], by_run, strict=True):
                known = [value for value in values if value is not None]
                if known:
                    found.append(f"{place}: {sum(known) / len(known):.2f}")
            return " ".join(found)

        return cell

    return {
        "seeds": tables.count,
        "accuracy": tables.tested(tables.TRAINED, "accuracy"),
        f"by {places.removesuffix('s')}": by_place(tables.TRAINED),
        "emptied": tables.tested(tables.CONTROL, "accuracy"),
        "emptied, by it": by_place(tables.CONTROL),
        "foreign": tables.tested(tables.FOREIGN, "accuracy"),
        "updates": tables.updates,
        "tokens/s": tables.rate,
    }


def report(
    folder: Path,
    title: str,
    header: str,
    places: Sequence[int],
    trained: Accuracies,
    baselines: Accuracies,
    figures: str = "result.json",
) -> None:
    """Print accuracies over all questions and at each place, and draw the picture.

    Args:
        header: what is right of what, "accuracy on the test documents, by age in segments".
        figures: the file in the folder that has them.
    """
    rows = [
        (label, f"{whole:.3f}", *("" if value is None else f"{value:.2f}" for value in values))
        for label, (whole, values) in {**trained, **baselines}.items()
    ]
    width = max(100, 70 + 7 * len(places))
    tables.show(title, (header, "all", *map(str, places)), rows, width)
    plots.accuracy_by_place(folder / "accuracy.png", title, places, trained, baselines)
    print(f"{folder}/{figures}, {folder}/accuracy.png")
