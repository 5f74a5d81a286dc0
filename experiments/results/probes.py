"""Tables of what is right by how long ago it was stated: recall, questions, the passkey."""

import collections
from collections.abc import Callable, Mapping, Sequence

from experiments.run.tables import SOURCE, Result, markdown, source

#: Settings that tell the sizes of a task apart; each task has some of them.
_SIZES = ("num_keys", "people", "sentences", "questions", "segments")


def _title(result: Result) -> str:
    """The task and its sizes: `4 keys, 2 questions, 5 segments, 16 tokens each`."""
    sizes = result["settings"]["task"]
    parts = [f"{sizes[name]} {name.removeprefix('num_')}" for name in _SIZES if name in sizes]
    return ", ".join([*parts, f"{result['settings']['model']['segment_len']} tokens each"])


def _cells(columns: Sequence[int], values: Mapping[int, float | None]) -> list[str]:
    """One cell a column; empty where nothing was measured."""
    found = [values.get(column) for column in columns]
    return ["" if value is None else f"{value:.2f}" for value in found]


def by_age_table(results: list[Result]) -> str:
    """Accuracy by age in segments, of trained models and of what needs no learning."""
    ages = sorted({age for one in results for test in one["test"].values() for age in test["ages"]})
    by_task: dict[str, list[Result]] = collections.defaultdict(list)
    for result in results:
        by_task[_title(result)].append(result)
    rows = []
    for title, runs in by_task.items():
        for run in runs:
            rows += [[title, *cells] for cells in _trained(run, ages)]
        rows += [[title, "", "", *cells, ""] for cells in _baselines(runs[0], ages)]
    header = ("task", "model", "k", "", "updates", "all", *map(str, ages), SOURCE)
    return markdown(header, rows)


def _trained(run: Result, ages: Sequence[int]) -> list[list[str]]:
    model, name = run["settings"]["model"], run["preset"]
    if (model["long_term"] or {}).get("locations") == "draw":
        name += ", drawn"
    rows = []
    for label, test in run["test"].items():
        by_age = dict(zip(test["ages"], test["accuracy_by_age"], strict=True))
        figures = [f"{run['steps']:,}", f"{test['accuracy']:.3f}", *_cells(ages, by_age)]
        rows.append([name, str(model["memory_gradient"]), label, *figures, source([run])])
    return rows


def _baselines(run: Result, ages: Sequence[int]) -> list[list[str]]:
    measured = next(iter(run["test"].values()))["ages"]
    rows = []
    for label, accuracy in run["baselines"].items():
        values = run.get("baselines_by_age", {}).get(label, [])
        by_age = dict(zip(measured, values, strict=False))
        rows.append([label, "", f"{accuracy:.3f}", *_cells(ages, by_age)])
    return rows


def passkey_table(results: list[Result]) -> str:
    """Digits of a passkey that are right, by how many segments ago it was stated."""
    return _by_distance(results, "updates", lambda run: (run["preset"], f"{run['steps']:,}"))


def given_table(results: list[Result]) -> str:
    """The same of models that were not trained for it, with what each was given."""

    def told(run: Result) -> tuple[str, str]:
        given = run["settings"]
        parts = [f"window {given['window']}", f"{given['sinks']} sinks"]
        if given["cells"]:
            parts.append(f"{given['cells']} cells" + " by age" * given["cells_by_age"])
        if given["cell_tau"]:
            parts.append(f"τ {given['cell_tau']:g}")
        # Older results have neither.
        kept = {"attended": "kept by attention", "newest": "a queue"}
        parts.append(kept.get(given.get("cells_kept", ""), ""))
        parts.append(given.get("dtype", ""))
        parts.append(given["memory"] and "trained memory")
        return run["preset"], ", ".join(filter(None, parts))

    return _by_distance(results, "given", told)


def _by_distance(
    results: list[Result], column: str, told: Callable[[Result], tuple[str, str]]
) -> str:
    """Rows of each run and control; `told` is (the model, what stands in the column)."""
    distances = sorted({d for result in results for d in result["settings"]["task"]["distances"]})
    rows = []
    for result in results:
        model, more = told(result)
        for label, test in result["test"].items():
            by_distance = dict(zip(test["distances"], test["accuracy_by_distance"], strict=True))
            cells = _cells(distances, by_distance)
            rows.append([model, label, more, *cells, source([result])])
    return markdown(("model", "", column, *map(str, distances), SOURCE), rows)
