"""Whether a head reads the segment that it is asked for: its mass by asked age and by age read.

Ages are in segments before the last one, which asks. The age of a question is that of its pair. The
newest write has age m + 1 with a short-term memory of m segments: what is still in the window is
not written yet. So a question of age 1..m asks for nothing that the memory holds.

The mass is that of a head's density over the memory. Of a memory that is joined to local attention
it is the mass among the memory's own cells, whatever the window takes of the same softmax.

Dimension letters: B rows, Q questions of a row, A ages that are asked, J writes.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.density import Density, interval_sum
from inf_former_jax.memory.long_term import LongTermConfig


class Questions(NamedTuple):
    """What is asked, and what the memory holds."""

    ages: Int[np.ndarray, "B Q"]  # of each question
    written: range  # ages of what was written, newest first

    @property
    def asked(self) -> tuple[Int[np.ndarray, " A"], Int[np.ndarray, " A"]]:
        """The ages that are asked, in increasing order, and the number of questions of each."""
        return np.unique(self.ages, return_counts=True)

    def figures(self) -> dict[str, Any]:
        """Names of the rows and columns of `mass_by_asked_age`, as JSON has them."""
        ages, counts = self.asked
        return {
            "asked_ages": ages.tolist(),
            "questions_by_age": counts.tolist(),
            "written_ages": list(self.written),
        }


def mass_by_asked_age(
    cfg: LongTermConfig, density: Density, questions: Questions
) -> Float[np.ndarray, "A J"]:
    """`(1/n_a) Σ_q ∫_w p_q(t) dt` over the n_a questions q of age a, on what each write w put down.

    Rows are the ages that are asked, columns the ages of what was written, newest first: the first
    column is of age m + 1 with a short-term memory of m segments. A row sums to at most 1. What is
    missing lies before 0 or after 1, where located densities find nothing; `mass_by_age` is of the
    mass inside only.

    Args:
        density: of one head, [B, 1, Q].
    """
    edges, rows = segment_edges(cfg, len(questions.written)), []
    for age, count in zip(*questions.asked, strict=True):
        mass = _interval_sum(density, edges, questions.ages == age)
        rows.append(np.asarray(mass).sum(0)[::-1] / count)
    return np.stack(rows)


# Compiled: eagerly, each step of a density's distribution function would be a program of its own.
_interval_sum = jax.jit(interval_sum)


def mass_on_asked(mass: Float[np.ndarray, "A J"], questions: Questions) -> float | None:
    """Mean mass on the asked segment, of the questions whose segment is written; None without one.

    Args:
        mass: as `mass_by_asked_age` returns it.
    """
    ages, counts = questions.asked
    row, column = np.nonzero(ages[:, None] == np.array(questions.written))
    return float(np.average(mass[row, column], weights=counts[row])) if len(row) else None


def of_head(cfg: LongTermConfig, density: Density, questions: Questions) -> dict[str, Any]:
    """The figures of one head, as JSON has them."""
    mass = mass_by_asked_age(cfg, density, questions)
    return {
        "mass_by_asked_age": [[round(float(m), 6) for m in row] for row in mass],
        "mass_on_asked": mass_on_asked(mass, questions),
    }
