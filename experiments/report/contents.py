"""What a folder holds that a page is about: a run, evaluations of a model, or both."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.catalogue import EXPERIMENTS
from experiments.run import folders
from experiments.run.experiment import Experiment
from inf_former_jax.files import json_text, read_json
from inf_former_jax.require import require
from inf_former_jax.training.metrics import read_rows

Fields = Mapping[str, Any]

#: Name of the file that a finished run has.
RESULT = "result.json"
_ACCEPTED = f"a run or an evaluation of {', '.join(EXPERIMENTS)}"


class Contents(NamedTuple):
    """What was found in a folder."""

    folder: Path
    experiment: Experiment[Any]
    config: Fields  # of the run; {} without one
    changes: list[str]  # what was changed when the run went on
    rows: list[dict[str, Any]]  # of metrics.jsonl
    results: Mapping[str, Fields]  # file name → RESULT of a finished run, then evaluations
    memory: Fields | None  # what `experiments.analysis memory` found


def read(folder: Path) -> Contents:
    """What is in the folder of a run or of an evaluation.

    Raises:
        ValueError: no such folder, neither of both, or a damaged file.
    """
    require(folder.exists(), str(folder), "nothing", _ACCEPTED)
    require(folder.is_dir(), str(folder), "a file", f"the folder of {_ACCEPTED}")
    results = {file.name: _evaluation(file) for file in sorted(folder.glob("evaluation*.json"))}
    config, changes = {}, []
    if (folder / "config.json").exists() or not results:
        config, changes = folders.read_config(folder), folders.changes(folder)
        if result := folders.read_result(folder):
            results = {RESULT: result, **results}
    experiment = _experiment(folder, config, results.values())
    memory = None
    if (folder / "memory.json").exists():
        memory = read_json(folder / "memory.json", "what experiments.analysis memory wrote")
    rows = read_rows(folder / "metrics.jsonl")
    return Contents(folder, experiment, config, changes, rows, results, memory)


def _evaluation(file: Path) -> Fields:
    found, accepted = read_json(file, "an evaluation"), "the result of an evaluation"
    named, settings = found.get("experiment"), found.get("settings")
    known = isinstance(named, str) and named in EXPERIMENTS
    require(known, f"{file}: experiment", repr(named), ", ".join(EXPERIMENTS))
    require(isinstance(settings, dict), f"{file}: settings", repr(settings), accepted)
    return found


def _experiment(folder: Path, config: Fields, results: Iterable[Fields]) -> Experiment[Any]:
    """The experiment that a result names; without one, the one whose config it is."""
    for result in results:
        if "experiment" in result:
            named = result["experiment"]
            known = isinstance(named, str) and named in EXPERIMENTS
            require(known, str(folder), f"a result of {named}", _ACCEPTED)
            return EXPERIMENTS[named]
    for one in EXPERIMENTS.values():
        kind = type(one.presets[one.default][1])
        with contextlib.suppress(ValueError):
            folders.from_json(kind, config)
            return one
    found = "a config of no experiment, or of another version"
    raise ValueError(f"{folder / 'config.json'}: found {found}, accepted: {_ACCEPTED}")


def flat(fields: Fields, prefix: str = "") -> dict[str, str]:
    """`model.long_term.tau` → its value as JSON, of all fields of a config."""
    found: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json_text(value)
    return found


def nearest_preset(contents: Contents) -> tuple[str, dict[str, str]]:
    """(name, fields as of `flat`) of a run's preset.

    Only a result says which preset a run had, and a table of models has names of its own. Otherwise
    it is the one that differs in the least fields.
    """
    presets = contents.experiment.presets.items()
    fields = {name: flat(folders.to_json(cfg)) for name, (_, cfg) in presets}
    own, named = flat(contents.config), contents.results.get(RESULT, {}).get("preset")
    if named not in fields:
        named = min(fields, key=lambda name: len(own.items() ^ fields[name].items()))
    return named, fields[named]
