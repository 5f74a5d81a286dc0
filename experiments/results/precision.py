"""The table of runs that compute in float32 or in bfloat16, everything else alike."""

from experiments.run import tables
from experiments.run.tables import CONTROL, SOURCE, TRAINED, Columns, Result, Runs


def _dtype(runs: Runs) -> str:
    return runs[0]["settings"]["model"]["dtype"]


def _figure(runs: Runs) -> str:
    return "perplexity" if runs[0]["experiment"] == "language_modeling" else "accuracy"


def _curve(runs: Runs) -> str:
    """Validation figures over all seeds, by update; a language model's is its loss."""
    figure = _figure(runs).replace("perplexity", "loss")
    evaluations = zip(*(run["curve"] for run in runs), strict=True)
    points = (
        f"{seeds[0][0]}: {tables.spread(point[1] for point in seeds)}" for seeds in evaluations
    )
    return f"{figure} at {', '.join(points)}"


def _test(label: str, runs: Runs) -> str:
    test = tables.tested(label, _figure(runs))(runs)
    return f"{_figure(runs)} {test}" if test else ""


_COLUMNS: Columns = {
    "task": lambda runs: runs[0]["experiment"].replace("_", " "),
    "preset": lambda runs: f"`{runs[0]['preset']}`",
    "computes in": _dtype,
    "seeds": tables.count,
    "while it trains": _curve,
    "test": lambda runs: _test(TRAINED, runs),
    "memory emptied": lambda runs: _test(CONTROL, runs),
    "tokens/s": tables.rate,
    SOURCE: tables.source,
}


def precision_table(results: list[Result]) -> str:
    """Runs by task and dtype: how far each has got while it trained, and its test figures."""
    by_task = sorted(tables.groups(results), key=lambda runs: (runs[0]["experiment"], _dtype(runs)))
    return tables.table(_COLUMNS, by_task)
