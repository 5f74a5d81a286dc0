"""How much better models predict than one of them, by classes of what is predicted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.run import tables


class Gain(NamedTuple):
    """How much better one model predicts than another, a token, in nats."""

    nats: float
    error: float  # standard error over documents; NaN of a single one
    tokens: int


def gain(
    nats: Float[np.ndarray, " documents"],
    reference: Float[np.ndarray, " documents"],
    tokens: Int[np.ndarray, " documents"],
) -> Gain:
    """The mean `(reference - nats) / tokens`, a ratio of sums over documents, and its error."""
    difference, total = reference - nats, tokens.sum()
    if not total:
        return Gain(float("nan"), float("nan"), 0)
    mean, read = difference.sum() / total, np.count_nonzero(tokens)
    squares = ((difference - mean * tokens) ** 2).sum()
    error = np.sqrt(squares * read / (read - 1)) / total if read > 1 else float("nan")
    return Gain(float(mean), float(error), int(total))


def table(result: Mapping[str, Any], kind: str) -> str:
    """The gains of every row in markdown, in hundredths of a nat; of the reference perplexities.

    Args:
        result: `classes`, `reference`, and by kind `tokens`, `perplexity`, `gains` and `own`
            (gains of models over themselves under a control), which hold a value for all classes
            together and then one for each.
    """
    lines = [
        ["tokens", *(f"{count:,}" for count in result["tokens"][kind])],
        [
            f"perplexity of {result['reference']}",
            *("" if value is None else f"{value:.2f}" for value in result["perplexity"][kind]),
        ],
    ]
    for name, row in result["gains"][kind].items():
        if name != result["reference"]:
            lines.append([f"gain of {name}", *map(_hundredths, row)])
    for name, row in result["own"][kind].items():
        lines.append([f"own memory over: {name}", *map(_hundredths, row)])
    return tables.markdown(("", "all", *result["classes"]), lines)


def _hundredths(one: Mapping[str, Any]) -> str:
    if one["nats"] is None:
        return ""
    error = "" if one["error"] is None else f" ± {100 * one['error']:.1f}"
    return f"{100 * one['nats']:.1f}{error}"


def as_json(gains: Sequence[Gain]) -> list[dict[str, Any]]:
    """JSON has no NaN: what is not known is null."""
    return [
        {name: None if math.isnan(value) else value for name, value in one._asdict().items()}
        for one in gains
    ]
