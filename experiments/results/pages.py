"""The pages that hold tables, and the tables that they hold."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from experiments.results import (
    analysis,
    benchmark,
    dialogue,
    distances,
    faults,
    language,
    memories,
    precision,
    probes,
    sharding,
    sorting,
)
from experiments.results.summary import SOURCES, summary_table
from experiments.run.tables import Result
from inf_former_jax.files import read_json

ROOT = Path(__file__).parents[2]

#: Name in a page's marker → how the results are shown. The first word of the name is their folder.
TABLES: dict[str, Callable[[list[Result]], str]] = {
    "sorting": sorting.sorting_table,
    "compare": sorting.comparison_table,
    "lasting": sorting.comparison_table,
    "lengths": sorting.lengths_table,
    "memory_gradient": sorting.gradient_table,
    "retention": analysis.retention_table,
    "stream": analysis.stream_table,
    "choose": analysis.choice_table,
    "functions": analysis.functions_table,
    "language_modeling": language.language_table,
    "language_modeling pairs": language.pairs_table,
    "other_text": language.other_text_table,
    "distances": distances.distances_table,
    "passkey": probes.passkey_table,
    "passkey_given": probes.given_table,
    "recall": probes.by_age_table,
    "dialogue": dialogue.dialogue_table,
    "dialogue_given": dialogue.given_table,
    "questions": probes.by_age_table,
    "benchmark": benchmark.benchmark_table,
    "memories sorting": partial(memories.memories_table, "sorting"),
    "memories recall": partial(memories.memories_table, "recall"),
    "memories passkey": partial(memories.memories_table, "passkey"),
    "memories questions": partial(memories.memories_table, "questions"),
    "precision": precision.precision_table,
    "faults": faults.faults_table,
    "soak": faults.soak_table,
    "scaling": sharding.scaling_table,
    "agree": sharding.agree_table,
}

_TABLE = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(root: Path = ROOT) -> list[Path]:
    """Every page that may hold a table."""
    folders = [*root.glob("docs/**/*.md"), *root.glob("experiments/*/README.md")]
    return [root / "README.md", *sorted(folders)]


def load(folder: str, root: Path = ROOT) -> list[Result]:
    """The results in a folder of results/, in order of file name."""
    files = sorted((root / "results" / folder).glob("*.json"))
    return [read_json(file, "the result of a run") for file in files]


def table(name: str, root: Path = ROOT) -> str:
    """One table in markdown.

    Raises:
        ValueError: no table has this name.
    """
    if name == "summary":
        return summary_table({folder: load(folder, root) for folder in SOURCES})
    if name not in TABLES:
        raise ValueError(f"table: found {name}, accepted: summary, {', '.join(TABLES)}")
    return TABLES[name](load(name.split()[0], root))


def render(text: str, root: Path = ROOT) -> str:
    """A page's text with every table made anew."""

    def made_anew(match: re.Match[str]) -> str:
        return f"{match[1]}{table(match[2], root)}\n{match[3]}"

    return _TABLE.sub(made_anew, text)


def render_all(texts: Mapping[Path, str], root: Path = ROOT) -> dict[Path, str]:
    """Every page with its tables made anew.

    Raises:
        ValueError: a table is on no page, or a page asks for a table that does not exist.
    """
    placed = {name for text in texts.values() for _, name, _ in _TABLE.findall(text)}
    if missing := TABLES.keys() - placed:
        raise ValueError(f"pages: found no place for {', '.join(sorted(missing))}, accepted: one")
    return {page: render(text, root) for page, text in texts.items()}
