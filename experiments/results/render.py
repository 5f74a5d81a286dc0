"""The tables of README, rendered from results/."""

import json
import re
from pathlib import Path

from experiments.results.benchmark import benchmark_table
from experiments.results.dialogue import by_age_table, dialogue_table
from experiments.results.language import (
    language_table,
    other_text_table,
    pairs_table,
    passkey_table,
)
from experiments.results.sorting import (
    choice_table,
    comparison_table,
    gradient_table,
    precision_table,
    retention_table,
    sorting_table,
    stream_table,
)
from experiments.run.tables import Result

ROOT = Path(__file__).parents[2]


def load(experiment: str, root: Path = ROOT) -> list[Result]:
    """The results of an experiment, in order of file name."""
    files = sorted((root / "results" / experiment).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


TABLES = {
    "sorting": sorting_table,
    "compare": comparison_table,
    "lasting": comparison_table,
    "memory_gradient": gradient_table,
    "retention": retention_table,
    "stream": stream_table,
    "choose": choice_table,
    "language_modeling": language_table,
    "language_modeling pairs": pairs_table,
    "other_text": other_text_table,
    "passkey": passkey_table,
    "recall": by_age_table,
    "dialogue": dialogue_table,
    "questions": by_age_table,
    "benchmark": benchmark_table,
    "precision": precision_table,
}


def render(text: str, root: Path = ROOT) -> str:
    """README's text with every table made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end -->)"
        results = load(name.split()[0], root)
        made = table(results)
        text, places = re.subn(
            pattern, lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL
        )
        if results and not places:
            raise ValueError(f"README.md: found no place for results/{name}, accepted: its markers")
    return text
