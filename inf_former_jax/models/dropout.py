"""Dropout whose masks belong to (key, global row, layer, site), whatever the mesh or the schedule.

The mask of a row depends on its place in the global batch only. So a batch that is cut over
devices, and segments that run in another order, drop the same units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from inf_former_jax.memory.arrays import AnyArray

#: Places in a layer where units are dropped; the number of a mask is `layer * len(SITES) + site`.
SITES = ("input", "attention", "context", "hidden", "feed_forward", "output")


class RowKeys(NamedTuple):
    """One key for each global row of the batch."""

    keys: PRNGKeyArray  # [B]


def row_keys(key: PRNGKeyArray, batch: int, first: Int[AnyArray, ""] | int = 0) -> RowKeys:
    """Keys of the rows first … first + batch - 1, each folded from `key` by the row's number."""
    return RowKeys(jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(batch)))


def dropout(
    x: Float[Array, "B ..."],
    rate: float,
    dropout_keys: RowKeys | None,
    layer: int,
    site: str,
    part: int = 0,
) -> Float[Array, "B ..."]:
    """Set units to zero with probability `rate` and scale the others by `1/(1 - rate)`.

    Args:
        dropout_keys: None for evaluation: x is returned as it is.
        layer, site: which mask; site is one of SITES.
        part: number of the piece, where a site is computed in pieces.
    """
    if dropout_keys is None or rate == 0.0:
        return x
    number = (layer * len(SITES) + SITES.index(site)) * 1024 + part

    def keep(key):
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep)(dropout_keys.keys), x / (1.0 - rate), 0.0)
