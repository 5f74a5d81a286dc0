"""Tables of what is right by how long ago it was stated: recall, questions, the passkey."""

import collections
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.tables import SOURCE, Result, markdown, source, trained_by

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
    if run["settings"].get("taught") == "conversation":  # older results do not have it
        name += ", taught the questions, too"
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
    alone = [[result] for result in results]
    return _by_distance(alone, "updates", lambda run: (run["preset"], f"{run['steps']:,}"))


def given_table(results: list[Result]) -> str:
    """The same of pretrained models, with what each was given, or trained for it.

    A run and evaluations of it are one row.
    """

    def told(run: Result) -> tuple[str, str]:
        given, trained = run["settings"], trained_by(run, "task")
        if trained is not None:
            updates = f"{trained['optim']['steps']} updates"
            far = f"at distances {' '.join(map(str, trained['task']['distances']))}"
            how = "trained emptied by " if trained["objective"]["empty_memory"] else ""
            parts = [*remembering(trained["model"]), f"{how}{updates} {far}"]
            parts += [f"seed {trained['seed']}", *_asked(given["task"]), documents(run)]
            return Path(trained["init_from"]).name, ", ".join(parts)
        parts = [f"segments of {given['segment_len']}"] if given["segment_len"] else []
        parts += [f"window {given['window']}", f"{given['sinks']} sinks"]
        if given["cells"]:
            parts.append(f"{given['cells']} cells" + " by age" * given["cells_by_age"])
        if given["cell_tau"]:
            parts.append(f"τ {given['cell_tau']:g}")
        # Older results have neither.
        kept = {"attended": "kept by attention", "newest": "a queue"}
        parts.append(kept.get(given.get("cells_kept", ""), ""))
        parts.append(given.get("dtype", ""))
        parts.append(given["memory"] and "trained memory")
        parts += [*_asked(given["task"]), documents(run)]
        return run["preset"], ", ".join(filter(None, parts))

    def documents(run: Result) -> str:
        return f"{next(iter(run['test'].values()))['documents']} documents"

    groups: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in results:
        groups[told(result)].append(result)
    return _by_distance(list(groups.values()), "given", told)


def remembering(model: dict[str, Any]) -> list[str]:
    """Segments, window and cells, if it has any, of a model."""
    parts = [f"segments of {model['segment_len']}", f"window {model['mem_len']}"]
    cells = model["long_term"]
    if cells is None:
        return parts
    kept = "kept by attention" if cells["sticky"] else "a queue"
    # Older results do not have it.
    kept = "kept by worth" if cells.get("learn_worth") else kept
    how = cells["contraction"]
    if how == "kept":
        new, length = round(cells["num_basis"] * (1 - cells["tau"])), model["segment_len"]
        how = kept if new >= length else f"{kept}, means of {length // new} tokens"
    return [*parts, f"{cells['num_basis']} cells, {how}"]


def _asked(task: dict[str, Any]) -> list[str]:
    """What was asked for, if it was not a single key. Older results do not say."""
    others, fact = task.get("others", 0), task.get("kind") == "fact"
    among = f" among {others + 1}" if others else ""
    return [f"a fact{among}"] if fact else [f"a key{among}"] if others else []


def _by_distance(
    groups: Sequence[Sequence[Result]], column: str, told: Callable[[Result], tuple[str, str]]
) -> str:
    """Rows of each model and control: digits of a key, or whole answers about a fact.

    Args:
        groups: results of one model each, at different distances.
        told: a result -> (its model, what stands in the column).
    """
    every = [result for group in groups for result in group]
    distances = sorted({d for result in every for d in result["settings"]["task"]["distances"]})
    rows = []
    for group in groups:
        model, more = told(group[0])
        # Tokens of an answer follow from the ones before, digits of a key do not.
        fact = group[0]["settings"]["task"].get("kind") == "fact"
        figure = "keys_by_distance" if fact else "accuracy_by_distance"
        for label in dict.fromkeys(label for result in group for label in result["test"]):
            tests = [result["test"][label] for result in group if label in result["test"]]
            found: dict[int, float] = {}
            for test in tests:
                found |= dict(zip(test["distances"], test[figure], strict=True))
            rows.append([model, label, more, *_cells(distances, found), source(group)])
    return markdown(("model", "", column, *map(str, distances), SOURCE), rows)
