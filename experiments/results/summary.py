"""README's table: a row a task, the best of our models beside the best of everything else."""

import statistics
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from experiments.run.memories import NAMES, WINDOW
from experiments.run.tables import CONTROL, TRAINED, Result, groups, markdown, spread, tested


class Task(NamedTuple):
    """A row: the results that it is made of, and the figure that they are judged by."""

    folder: str
    text: str
    figure: str = "accuracy"
    settings: Mapping[str, object] = {}
    """Only results with these settings count."""
    untrained: Mapping[str, float] = {}
    """Baselines that the results do not hold."""
    sizes: Mapping[str, object] | None = None
    """Of the task, by which results of `experiments.run.memories` count, too; None = none do."""


#: Folder of experiments/ → its row.
TASKS = {
    "sorting": Task("compare", "1,068 tokens by frequency", settings={"length": 1068}),
    "recall": Task("recall", "a value by its key, 1 to 4 segments back", sizes={"num_keys": 4}),
    "passkey": Task(
        "passkey",
        "a number in a novel, 1 to 64 segments back",
        untrained={"chance": 0.1},
        sizes={"distances": [1, 2, 4, 8, 16, 32, 64]},
    ),
    "questions": Task(
        "questions", "on a fact stated once, 1 to 4 segments back", sizes={"sentences": 4}
    ),
    "language_modeling": Task("language_modeling", "novels", "perplexity", {"piece": 32}),
    "dialogue": Task("dialogue", "about a document", "perplexity"),
}
SOURCES = (*(task.folder for task in TASKS.values()), "memories")


class Candidate(NamedTuple):
    """A way to do a task: its figure, the table's cell, and the same with the memory emptied."""

    value: float
    cell: str
    control: str = ""


def summary_table(results: Mapping[str, list[Result]]) -> str:
    """Each task: our best model, the best baseline, and our model with its memory emptied.

    Args:
        results: by folder of results/; those of SOURCES are needed.
    """
    rows = []
    for name, task in TASKS.items():
        kept = [
            result
            for result in results[task.folder]
            if task.settings.items() <= result["settings"].items()
        ]
        kept += _memories(name, task, results.get("memories", []))
        best = min if task.figure == "perplexity" else max
        ours = best(_trained(task.figure, kept, ours=True))
        baseline = best([*_trained(task.figure, kept, ours=False), *_untrained(task, kept)])
        title = f"[{name.replace('_', ' ')}](experiments/{name}/README.md): {task.text}"
        rows.append([title, task.figure, ours.cell, baseline.cell, ours.control])
    header = ("task", "figure", "∞-former", "best baseline", "∞-former, memory emptied")
    return markdown(header, rows)


def _memories(name: str, task: Task, results: list[Result]) -> list[Result]:
    """The results of other memories on the same task."""
    if task.sizes is None:
        return []
    mine = [result for result in results if result["experiment"] == name]
    return [one for one in mine if task.sizes.items() <= one["settings"]["task"].items()]


def _trained(figure: str, results: list[Result], ours: bool) -> Iterator[Candidate]:
    """Models, over their seeds: ours, or the others. `-emptied` models belong to neither."""
    digits = 2 if figure == "perplexity" else 3
    for runs in groups(results):
        name = runs[0]["preset"]
        if name.endswith("-emptied") or ("infinity" in name or name in NAMES) != ours:
            continue
        control = tested(CONTROL, figure, digits)(runs)
        for label, note in {TRAINED: "", "sliding window": ", sliding window"}.items():
            if cell := tested(label, figure, digits)(runs):
                mean = statistics.mean(run["test"][label][figure] for run in runs)
                yield Candidate(mean, f"{cell} ({name}{note})", control)


def _untrained(task: Task, results: list[Result]) -> Iterator[Candidate]:
    """What needs no learning, except "full counts", which sees the whole sequence."""
    yield from (Candidate(value, f"{value} ({name})") for name, value in task.untrained.items())
    for runs in groups(results):
        if runs[0]["preset"] == WINDOW:
            continue  # its window is longer than that of the others
        for name in runs[0].get("baselines", {}):
            if name != "full counts":
                values = [run["baselines"][name] for run in runs]
                yield Candidate(statistics.mean(values), f"{spread(values)} ({name})")
