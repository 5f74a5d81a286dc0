"""What a decoder returns: logits, the memory, terms of the loss, diagnostics."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.state import Memory


class Output(NamedTuple):
    """What a decoder returns for one segment, or for W of them."""

    logits: Float[Array, "B T V"] | Float[Array, "B W T V"]
    memory: Memory
    aux: dict[str, tuple[Array, Array]]  # "kl" and "reconstruction", each (sum, count), if any
    info: tuple[dict[str, Any], ...]  # per layer, for figures; costs nothing under jit when unused


def aux_sums(
    info: tuple[dict[str, Any], ...],
    holds: Bool[Array, " B"] | None,
    where: Bool[AnyArray, "B T"] | None,
) -> dict[str, tuple[Array, Array]]:
    """(sum over layers and over what counts, number of what counts) of each term of the loss.

    The KL has a term for each head and query, and the reconstruction has one for each query of the
    rows in which something has just been compressed.

    Args:
        holds: rows whose long-term memory is not empty; the KL counts in these.
        where: queries that count; None = all.
    """
    aux = {}
    if holds is not None:
        counted = holds[:, None, None]
        counted = counted if where is None else counted & where[:, None, :]
        aux["kl"] = _sum_where(counted, sum(layer["kl"] for layer in info if "kl" in layer))
    if "compressed" in info[0]:
        counted = info[0]["compressed"][:, None]
        counted = counted if where is None else counted & where
        aux["reconstruction"] = _sum_where(counted, sum(layer["reconstruction"] for layer in info))
    return aux


def _sum_where(counted: Bool[Array, "..."], terms: Any) -> tuple[Array, Array]:
    counted = jnp.broadcast_to(counted, terms.shape)
    return jnp.where(counted, terms, 0.0).sum(), counted.sum().astype(terms.dtype)
