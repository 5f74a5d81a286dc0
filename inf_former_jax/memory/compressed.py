"""The Compressive Transformer's memory (Rae et al. 2020; the paper's baseline; SPEC §5b).

What leaves the short-term memory is compressed instead of dropped: f_c turns c neighbours into one
vector, and as many of the oldest compressed vectors fall off. Only a reconstruction loss trains
f_c; the task's loss does not reach it.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.fields import Checked, Count
from inf_former_jax.memory.arrays import AnyArray


@dataclasses.dataclass(frozen=True)
class CompressedConfig(Checked):
    """Constants of a compressed memory. The defaults are the paper's for sorting (SPEC §5).

    Raises:
        ValueError: on construction, for values that no memory can have.
    """

    rate: Count = 4
    """c, vectors that become one."""
    length: Count = 1024
    """Compressed vectors that are kept; a multiple of what a segment yields."""
    function: Literal["convolution", "mean", "max"] = "convolution"
    """f_c: a convolution with kernel = stride = c, or mean or max pooling."""


def windows(x: Float[AnyArray, "B L E"], rate: int) -> Float[Array, "B C W"]:
    """C = L/c groups of c neighbours, the vectors of a group side by side: W = c·E.

    A convolution with kernel = stride = c is a matrix product with these.
    """
    return jnp.asarray(x).reshape(x.shape[0], -1, rate * x.shape[2])


def pool(x: Float[AnyArray, "B L E"], rate: int, function: str) -> Float[Array, "B C E"]:
    """Mean or max over groups of c neighbours."""
    neighbours = jnp.asarray(x).reshape(x.shape[0], -1, rate, x.shape[2])
    return neighbours.mean(axis=2) if function == "mean" else neighbours.max(axis=2)


def content_attention(
    q: Float[AnyArray, "H B T K"], k: Float[AnyArray, "H B S K"], v: Float[AnyArray, "H B S K"]
) -> Float[Array, "H B T K"]:
    """`softmax(q·k/√K) v` over all keys, without positions and without a mask (SPEC §5b)."""
    scores = jnp.einsum("hbtk,hbsk->hbts", q * q.shape[-1] ** -0.5, k)
    return jnp.einsum("hbts,hbsk->hbtk", jax.nn.softmax(scores, axis=-1), v)


def reconstruction(
    q: Float[AnyArray, "H B T K"],
    old: tuple[Float[AnyArray, "H B L K"], Float[AnyArray, "H B L K"]],
    new: tuple[Float[AnyArray, "H B C K"], Float[AnyArray, "H B C K"]],
) -> Float[Array, "B T"]:
    """`‖attn(h, m_old) - attn(h, f_c(m_old))‖²` of each query, summed over heads and channels.

    Args:
        q: queries of h, detached, as are the projections of all keys and values.
        old: keys and values of the vectors before compression, detached.
        new: keys and values of the compressed vectors: the only path of a gradient.
    """
    difference = content_attention(q, *old) - content_attention(q, *new)
    return (difference**2).sum(axis=(0, 3))
