"""What a decoder returns beside the memory: logits, terms of the loss, diagnostics."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from inf_former_jax.memory.basis import AnyArray
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
    """Sums over layers and over the queries that count, and the number of the latter.

    The KL has a term for each head and query of a row whose memory is not empty (`holds`); the
    reconstruction one for each query of a row that compressed something just now.
    """
    aux = {}
    if holds is not None:
        holds = holds[:, None, None]
        counts = holds if where is None else holds & where[:, None, :]
        aux["kl"] = _sum_where(counts, [of_layer["kl"] for of_layer in info])
    if "compressed" in info[0]:
        due = info[0]["compressed"][:, None]
        counts = due if where is None else due & where
        aux["reconstruction"] = _sum_where(counts, [layer["reconstruction"] for layer in info])
    return aux


def _sum_where(counts, terms):
    total = sum(terms)
    counts = jnp.broadcast_to(counts, total.shape)
    return jnp.where(counts, total, 0.0).sum(), counts.sum().astype(total.dtype)
