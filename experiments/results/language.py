"""README's tables of language models, other texts and the passkey."""

import collections
import statistics
from collections.abc import Sequence

from experiments.run.tables import CONTROL, Result, groups, markdown, source, spread, updates

_SLID = "sliding window"

#: Decimals of each figure, which is small or large.
_DIGITS = {"perplexity": 2, "word_perplexity": 0, "bits_per_byte": 4}

LANGUAGE = ("model", "seeds", "valid", "test", "memory emptied", "a word", "bits a byte",
            "updates", "words/s", "parameters", "memory of a row")  # fmt: skip


def language_row(model: str, runs: Sequence[Result]) -> list[str]:
    """Cells by LANGUAGE of one model: perplexities a token, but where it says otherwise."""
    if not runs:
        return [model, "0"] + [""] * (len(LANGUAGE) - 2)

    def of(split, label, figure):
        found = [run[split][label][figure] for run in runs if label in run[split]]
        return spread(found, _DIGITS[figure]) if found else ""

    test = runs[0]["splits"]["test"]
    # Of what is read, padding is no words; the share that is none is in newer results.
    rate = statistics.median(run["tokens_per_second"] * run.get("fill", 1.0) for run in runs)
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


PAIRS = ("text", "model", "seeds", "below plain", "below itself emptied", "below trained emptied")


def pairs_table(results: list[Result]) -> str:
    """How much lower a memory's test perplexity is, by pairs of the same seed: mean ± deviation."""
    found = collections.defaultdict(dict)
    for run in results:
        settings = run["settings"]
        if settings["init_from"]:
            key = run["corpus"], settings.get("piece", 0), run["preset"]
            found[key][settings["seed"]] = run["test"]
    rows = []
    for (corpus, piece, model), of in found.items():
        if not all(CONTROL in test for test in of.values()):
            continue
        plain, trained = (
            found.get((corpus, piece, name), {}) for name in ("gpt2", f"{model}-emptied")
        )
        itself = {seed: {"as trained": test[CONTROL]} for seed, test in of.items()}
        cells = []
        for other in (plain, itself, trained):
            below = [
                other[seed]["as trained"]["perplexity"] - of[seed]["as trained"]["perplexity"]
                for seed in sorted(of.keys() & other.keys())
            ]
            cells.append(spread(below, 2) if below else "")
        name = f"{model}, pieces of {piece}" if piece else model
        rows.append([corpus, name, str(len(of)), *cells])
    return markdown(PAIRS, rows)


def language_table(results: list[Result]) -> str:
    """Language models by text: a row for each way to begin, to train and to remember."""
    rows = []
    for runs in groups(results):
        name = runs[0]["preset"]
        if not runs[0]["settings"]["init_from"]:
            name += ", from nothing"
        if piece := runs[0]["settings"].get("piece"):
            name += f", pieces of {piece}"
        rows.append([runs[0]["corpus"], *language_row(name, runs), source(runs)])
        if window := [run["test"][_SLID] for run in runs if _SLID in run["test"]]:
            figures = ("perplexity", "word_perplexity", "bits_per_byte")
            test, word, bits = (spread((one[n] for one in window), _DIGITS[n]) for n in figures)
            slid = [f"{name}, sliding window", str(len(runs)), "", test, "", word, bits]
            rows.append([runs[0]["corpus"], *slid, *[""] * (len(LANGUAGE) - len(slid)), ""])
    return markdown(("text", *LANGUAGE, "device, commit, date"), rows)


OTHER = ("text", "model", "seeds", "test", "memory emptied", "sliding window", "a word",
         "bits a byte", "device, commit, date")  # fmt: skip


def other_text_table(results: list[Result]) -> str:
    """Trained language models on a text that they were not trained on: perplexities a token."""
    found = collections.defaultdict(list)
    for result in results:
        found[result["corpus"], result["preset"].rsplit("-", 1)[0]].append(result)
    rows = []
    for (corpus, name), runs in found.items():
        tests = [run["test"] for run in runs]

        def of(label, figure, tests=tests):
            values = [test[label][figure] for test in tests if label in test]
            return spread(values, _DIGITS[figure]) if values else ""

        perplexities = [of(label, "perplexity") for label in ("as trained", CONTROL, _SLID)]
        others = [of("as trained", figure) for figure in ("word_perplexity", "bits_per_byte")]
        rows.append([corpus, name, str(len(runs)), *perplexities, *others, source(runs)])
    return markdown(OTHER, rows)


def passkey_table(results: list[Result]) -> str:
    """Digits of a passkey that are right, by how many segments ago it was stated."""
    distances = sorted({d for result in results for d in result["settings"]["task"]["distances"]})
    rows = []
    for result in results:
        for label, row in result["test"].items():
            by = dict(zip(row["distances"], row["accuracy_by_distance"], strict=True))
            cells = [f"{by[d]:.2f}" if d in by else "" for d in distances]
            rows.append([result["preset"], label, f"{result['steps']:,}", *cells, source([result])])
    return markdown(("model", "", "updates", *map(str, distances), "device, commit, date"), rows)
