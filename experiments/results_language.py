"""README's table of language models."""

import statistics
from collections.abc import Sequence

from experiments.tables import CONTROL, Result, groups, markdown, source, spread, updates

LANGUAGE = ("model", "seeds", "valid", "test", "memory emptied", "a word", "bits a byte",
            "updates", "words/s", "parameters", "memory of a row")  # fmt: skip


def language_row(model: str, runs: Sequence[Result]) -> list[str]:
    """Cells by LANGUAGE of one model: perplexities a token, but where it says otherwise."""
    if not runs:
        return [model, "0"] + [""] * (len(LANGUAGE) - 2)

    def of(split, label, figure):
        found = [run[split][label][figure] for run in runs if label in run[split]]
        return spread(found) if found else ""

    test = runs[0]["splits"]["test"]
    rate = statistics.median(run["tokens_per_second"] for run in runs)
    return [
        model,
        str(len(runs)),
        of("valid", "as trained", "perplexity"),
        of("test", "as trained", "perplexity"),
        of("test", CONTROL, "perplexity"),
        of("test", "as trained", "word_perplexity"),
        of("test", "as trained", "bits_per_byte"),
        updates(runs),
        f"{rate * test['words'] / test['tokens']:,.0f}",
        f"{runs[0]['parameters']:,}",
        f"{runs[0]['memory_bytes_per_row'] / 1024:,.0f} KiB",
    ]


def language_table(results: list[Result]) -> str:
    """Language models by text: a row for each way to begin, to train and to remember."""
    rows = []
    for runs in groups(results):
        name = runs[0]["preset"]
        if not runs[0]["settings"]["init_from"]:
            name += ", which the others begin with"
        rows.append([runs[0]["corpus"], *language_row(name, runs), source(runs)])
        if window := [
            run["test"]["sliding window"] for run in runs if "sliding window" in run["test"]
        ]:
            figures = ("perplexity", "word_perplexity", "bits_per_byte")
            test, word, bits = (spread(one[name] for one in window) for name in figures)
            slid = [f"{name}, sliding window", str(len(runs)), "", test, "", word, bits]
            rows.append([runs[0]["corpus"], *slid, *[""] * (len(LANGUAGE) - len(slid)), ""])
    return markdown(("text", *LANGUAGE, "device, commit, date"), rows)
