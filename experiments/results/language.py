"""Tables of language models: perplexities, gains by pairs of runs, and another text."""

import collections
import re
import statistics
from collections.abc import Callable, Mapping

from experiments.run import tables
from experiments.run.tables import CONTROL, SOURCE, TRAINED, Columns, Result, Runs

_WINDOW = "sliding window"

#: Decimals of each figure.
_DIGITS = {"perplexity": 2, "word_perplexity": 0, "bits_per_byte": 4}


def _tested(label: str, figure: str, split: str = "test") -> Callable[[Runs], str]:
    return tables.tested(label, figure, _DIGITS[figure], split)


def _words_per_second(runs: Runs) -> str:
    # Padding is not words. Results that say which share is not padding count it in their rate.
    rate = statistics.median(run["tokens_per_second"] * run.get("fill", 1.0) for run in runs)
    test = runs[0]["splits"]["test"]
    return f"{rate * test['words'] / test['tokens']:,.0f}"


#: Perplexities are a token unless the column says otherwise.
COLUMNS: Columns = {
    "seeds": tables.count,
    "valid": _tested(TRAINED, "perplexity", split="valid"),
    "test": _tested(TRAINED, "perplexity"),
    "memory emptied": _tested(CONTROL, "perplexity"),
    "a word": _tested(TRAINED, "word_perplexity"),
    "bits a byte": _tested(TRAINED, "bits_per_byte"),
    "updates": tables.updates,
    "words/s": _words_per_second,
    "parameters": tables.parameters,
    "memory of a row": tables.memory_of_a_row,
}


def language_table(results: list[Result]) -> str:
    """Language models by text: a row for each way to begin, to train and to remember."""
    rows = []
    for runs in tables.groups(results):
        corpus, name = runs[0]["corpus"], runs[0]["preset"]
        if not runs[0]["settings"]["init_from"]:
            name += ", from nothing"
        if piece := runs[0]["settings"].get("piece"):
            name += f", pieces of {piece}"
        rows.append([corpus, name, *tables.cells(COLUMNS, runs), tables.source(runs)])
        if count := sum(_WINDOW in run["test"] for run in runs):
            test, word, bits = (_tested(_WINDOW, figure)(runs) for figure in _DIGITS)
            cells = [f"{name}, sliding window", str(count), "", test, "", word, bits]
            rows.append([corpus, *cells, *[""] * (len(COLUMNS) + 1 - len(cells)), ""])
    return tables.markdown(("text", "model", *COLUMNS, SOURCE), rows)


_PAIRS = ("text", "model", "seeds", "below plain", "below itself emptied", "below trained emptied")


def pairs_table(results: list[Result]) -> str:
    """How much lower a memory's test perplexity is, by pairs of the same seed: mean ± deviation."""
    # (corpus, piece, model) → label → seed → perplexity
    found: dict[tuple, dict[str, dict[int, float]]] = collections.defaultdict(dict)
    for run in results:
        settings = run["settings"]
        if settings["init_from"]:
            key = run["corpus"], settings.get("piece", 0), run["preset"]
            for label, test in run["test"].items():
                found[key].setdefault(label, {})[settings["seed"]] = test["perplexity"]
    rows = []
    for (corpus, piece, model), labels in found.items():
        trained, emptied = labels[TRAINED], labels.get(CONTROL, {})
        if trained.keys() != emptied.keys():
            continue
        others = [found.get((corpus, piece, name), {}) for name in ("gpt2", f"{model}-emptied")]
        plain, trained_emptied = (other.get(TRAINED, {}) for other in others)
        gains = [_gain(trained, other) for other in (plain, emptied, trained_emptied)]
        name = f"{model}, pieces of {piece}" if piece else model
        rows.append([corpus, name, str(len(trained)), *gains])
    return tables.markdown(_PAIRS, rows)


def _gain(perplexities: Mapping[int, float], others: Mapping[int, float]) -> str:
    """How far perplexities are below others of the same seed; "" without a pair."""
    seeds = sorted(perplexities.keys() & others.keys())
    gains = [others[seed] - perplexities[seed] for seed in seeds]
    return tables.spread(gains, 2) if gains else ""


def other_text_table(results: list[Result]) -> str:
    """Trained language models on a text that they were not trained on: perplexities a token."""
    by_model: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in results:  # older ones have the folder's name, which ends with the seed
        by_model[result["corpus"], re.sub(r"-\d+$", "", result["preset"])].append(result)
    columns: Columns = {
        **{name: COLUMNS[name] for name in ("seeds", "test", "memory emptied")},
        "sliding window": _tested(_WINDOW, "perplexity"),
        **{name: COLUMNS[name] for name in ("a word", "bits a byte")},
        SOURCE: tables.source,
    }
    rows = ([*key, *tables.cells(columns, runs)] for key, runs in by_model.items())
    return tables.markdown(("text", "model", *columns), rows)
