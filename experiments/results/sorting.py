"""Tables of sorting, of other tasks by accuracy, and of the analysis of the memory."""

import statistics
from collections.abc import Iterable, Sequence

from experiments.run.tables import CONTROL, Result, groups, markdown, source, spread, updates


def _emptied(runs: Sequence[Result]) -> str:
    tests = [run["test"] for run in runs]
    accuracies = [test[CONTROL]["accuracy"] for test in tests if CONTROL in test]
    return spread(accuracies) if accuracies else ""


SORTING = ("preset", "tokens", "seeds", "accuracy", "memory emptied",
           "counts in layers × window", "parameters", "updates", "tokens/s", "minutes",
           "device, commit, date")  # fmt: skip


def sorting_table(results: list[Result]) -> str:
    """Accuracy by preset and length: as trained, memory emptied, and what needs no learning."""
    return markdown(SORTING, map(_sorting_row, groups(results)))


def _sorting_row(runs: list[Result]) -> list[str]:
    window = next(key for key in runs[0]["baselines"] if "layers × window" in key)
    return [
        f"`{runs[0]['preset']}`",
        f"{runs[0]['settings']['length']:,}",
        str(len({run["settings"]["seed"] for run in runs})),
        spread(run["test"]["as trained"]["accuracy"] for run in runs),
        _emptied(runs),
        spread(run["baselines"][window] for run in runs),
        f"{runs[0]['parameters']:,}",
        updates(runs),
        f"{statistics.median(run['tokens_per_second'] for run in runs):,.0f}",
        f"{statistics.median(run['seconds'] for run in runs) / 60:.1f}",
        source(runs),
    ]


COMPARISON = ("model", "tokens", "seeds", "accuracy", "emptied", "loss", "updates", "tokens/s",
              "s/update", "parameters", "memory of a row")  # fmt: skip


def comparison_row(model: str, length: int, runs: Sequence[Result]) -> list[str]:
    """Cells by COMPARISON of one model at one length; empty ones if nothing has run."""
    if not runs:
        return [model, f"{length:,}", "0"] + [""] * (len(COMPARISON) - 3)
    rate = statistics.median(run["tokens_per_second"] for run in runs)
    return [
        model,
        f"{length:,}",
        str(len(runs)),
        spread(run["test"]["as trained"]["accuracy"] for run in runs),
        _emptied(runs),
        spread(run["test"]["as trained"]["loss"] for run in runs),
        updates(runs),
        f"{rate:,.0f}",
        f"{runs[0]['settings']['batch_size'] * (length + 20) / rate:.3f}",
        f"{runs[0]['parameters']:,}",
        f"{runs[0]['memory_bytes_per_row'] / 1024:,.0f} KiB",
    ]


def comparison_table(results: list[Result]) -> str:
    """Every model on the same data, and where the figures come from."""
    rows = []
    for runs in sorted(groups(results), key=lambda runs: runs[0]["settings"]["length"]):
        length = runs[0]["settings"]["length"]
        rows.append([*comparison_row(runs[0]["preset"], length, runs), source(runs)])
    return markdown((*COMPARISON, "device, commit, date"), rows)


def gradient_table(results: list[Result]) -> str:
    """Models whose gradient goes k segments back through the memory, k in the first column."""
    rows = []
    for runs in groups(results):
        settings = runs[0]["settings"]
        row = comparison_row(runs[0]["preset"], settings["length"], runs)
        rows.append([str(settings["model"]["memory_gradient"]), *row, source(runs)])
    return markdown(("k", *COMPARISON, "device, commit, date"), rows)


PRECISION = ("task", "preset", "computes in", "seeds", "while it trains", "test", "memory emptied",
             "tokens/s", "device, commit, date")  # fmt: skip


def precision_table(results: list[Result]) -> str:
    """Runs that differ in the dtype they compute in: how far each one has got, and the end."""
    rows = []
    for runs in sorted(groups(results), key=lambda runs: (runs[0]["experiment"], _dtype(runs))):
        figure = "perplexity" if runs[0]["experiment"] == "language_modeling" else "accuracy"
        rate = statistics.median(run["tokens_per_second"] for run in runs)
        rows.append([
            runs[0]["experiment"].replace("_", " "), f"`{runs[0]['preset']}`", _dtype(runs),
            str(len(runs)), _curves(runs, figure),
            *(_by_control(runs, label, figure) for label in ("as trained", CONTROL)),
            f"{rate:,.0f}", source(runs),
        ])  # fmt: skip
    return markdown(PRECISION, rows)


def _dtype(runs):
    return runs[0]["settings"]["model"]["dtype"]


def _by_control(runs, label, figure):
    tests = [run["test"][label][figure] for run in runs if label in run["test"]]
    return f"{figure} {spread(tests)}" if tests else ""


def _curves(runs, figure):
    """`updates: validation` of all seeds; a language model's curve is of its loss."""
    name = "loss" if figure == "perplexity" else figure
    points = zip(*(run["curve"] for run in runs), strict=True)
    said = (f"{of[0][0]}: {spread(value for _, value, *_ in of)}" for of in points)
    return f"{name} at {', '.join(said)}"


def _spell(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def retention_table(results: list[Result]) -> str:
    """R² of a segment's mean by its age: by the best linear read-out and by the best density."""
    ages = sorted({age for result in results for age in result["settings"]["ages"]})
    rows = []
    for result in results:
        settings = result["settings"]
        for contraction, curves in result["retention"].items():
            for read, values in curves.items():
                cells = [f"{values[age]:.2f}" if age < len(values) else "" for age in ages]
                memory = [str(settings["num_basis"]), _spell(settings["widths"])]
                mean = f"{statistics.mean(values):.3f}"
                rows.append([*memory, contraction, read, *cells, mean, source([result])])
    header = ("N", "widths", "contraction", "read by", *map(str, ages), "mean")
    return markdown((*header, "device, commit, date"), rows)


STREAM = ("contraction", "writes: rms of the coefficients", "largest ever", "bound",
          "float32's worst error", "device, commit, date")  # fmt: skip


def stream_table(results: list[Result]) -> str:
    """Coefficients along a stream of writes, and how far float32's signal is from float64's."""
    rows = []
    for result in results:
        for contraction, of in result["found"].items():
            sizes = ", ".join(f"{mark}: {size:.4f}" for mark, size in of["rms"].items())
            worst = [f"{of['largest']:.3f}", f"{of['bound']:.2f}", f"{of['error']:.1e}"]
            rows.append([contraction, sizes, *worst, source([result])])
    return markdown(STREAM, rows)


CHOICE = ("tokens", "segment", "N", "memories tried", "best density", "its worst", "published",
          "configuration", "device, commit, date")  # fmt: skip


def choice_table(results: list[Result]) -> str:
    """What a search for constants found: mean R² by one density over all segments, and the code."""
    rows = []
    for result in results:
        settings, best = result["settings"], result["best"][0]
        sizes = [f"{settings[name]:,}" for name in ("tokens", "segment", "num_basis")]
        scores = (best["density"], best["worst"], result["published"]["density"])
        figures = [str(result["tried"]), *(f"{score:.3f}" for score in scores)]
        rows.append([*sizes, *figures, f"`{best['config']}`", source([result])])
    return markdown(CHOICE, rows)
