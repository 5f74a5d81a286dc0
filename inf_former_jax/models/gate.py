"""The gate that smooths what is written to the memory (SPEC §3; the published code's `mask`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory.arrays import HIGHEST, AnyArray
from inf_former_jax.models.projections import F32, product


def gate_values(
    kernel: Float[AnyArray, "3 E E"], bias: Float[AnyArray, " E"], x: Float[AnyArray, "B L E"]
) -> Float[Array, "B L E"]:
    """`sigmoid(conv1d(X))`, what the gate lets through of each number (SPEC §3).

    The convolution mixes all channels over (l-1, l, l+1) of the same write, zeros at its ends. On a
    CPU it is computed by `winograd`, which is faster there at the paper's size. Elsewhere XLA's own
    convolution computes it.
    """
    x = jnp.asarray(x, jnp.result_type(x, kernel))
    kernel = jnp.asarray(kernel, x.dtype)
    mixed = jax.lax.platform_dependent(kernel, x, cpu=winograd, default=convolution)
    return jax.nn.sigmoid(mixed + bias[None, None])


def convolution(kernel: Float[Array, "3 E E"], x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    """`y_l = x_{l-1} g_0 + x_l g_1 + x_{l+1} g_2` for kernel matrices g, by XLA's own operation."""
    dimensions = ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [(1, 1)], dimension_numbers=dimensions, precision=HIGHEST
    )


def winograd(kernel: Float[Array, "3 E E"], x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    """`convolution` by Winograd's minimal filter F(4, 3) (tuning).

    Four neighbouring results take six matrix products of d_0 … d_5 = x_{l-1} … x_{l+4} instead of
    twelve, and no array of windows:

        m_0 = (4d_0 - 5d_2 + d_4) ¼g_0          m_5 = (4d_1 - 5d_3 + d_5) g_2
        m_1, m_2 = ((4d_2 - d_4) ± (4d_1 - d_3)) ((g_0 + g_2)/6 ± g_1/6)
        m_3, m_4 = ((d_4 - d_2) ± 2(d_3 - d_1)) (g_0/24 + g_2/6 ± g_1/12)
        y_l     = m_0 + (m_1 + m_2) +  (m_3 + m_4)      y_{l+1} = (m_1 - m_2) + 2(m_3 - m_4)
        y_{l+2} =       (m_1 + m_2) + 4(m_3 + m_4)      y_{l+3} = (m_1 - m_2) + 8(m_3 - m_4) + m_5

    (Lavin & Gray, 2016, "Fast Algorithms for Convolutional Neural Networks", §4.3). In float32 it
    rounds two to three times as much as the plain sum.

    A NaN or an infinity in x_l reaches the results l-1, l and l+1, as in a convolution, and also
    the others of l's four, as NaN: an infinity is subtracted from itself. The write is lost either
    way, since each of its coefficients is a sum over all l. No other row is reached.
    """
    batch, length, dim = x.shape
    tiles = -(-length // 4)
    padded = jnp.pad(x, ((0, 0), (1, 4 * tiles + 3 - length), (0, 0)))
    quads = padded.reshape(batch, tiles + 1, 4, dim)
    d0, d1, d2, d3 = (quads[:, :-1, i] for i in range(4))
    d4, d5 = quads[:, 1:, 0], quads[:, 1:, 1]

    def pair(even, odd, g_even, g_odd):
        plus = product(even + odd, g_even + g_odd, HIGHEST)
        minus = product(even - odd, g_even - g_odd, HIGHEST)
        return plus + minus, plus - minus

    g0, g1, g2 = kernel
    m0 = product(4 * d0 - 5 * d2 + d4, g0 / 4, HIGHEST)
    m5 = product(4 * d1 - 5 * d3 + d5, g2, HIGHEST)
    sum12, difference12 = pair(4 * d2 - d4, 4 * d1 - d3, (g0 + g2) / 6, g1 / 6)
    sum34, difference34 = pair(d4 - d2, 2 * (d3 - d1), g0 / 24 + g2 / 6, g1 / 12)
    y = (
        m0 + sum12 + sum34,
        difference12 + 2 * difference34,
        sum12 + 4 * sum34,
        m5 + difference12 + 8 * difference34,
    )
    return jnp.stack(y, axis=2).reshape(batch, -1, dim)[:, :length]


class Gate(nn.Module):
    """`X ⊙ sigmoid(conv1d(X))`: what is written is first smoothed (SPEC §3, published code)."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B L E"]) -> Float[Array, "B L E"]:
        """The gated vectors, of x's shape."""
        dim = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal((0, 1)), (3, dim, dim), F32)
        bias = self.param("bias", nn.initializers.zeros, (dim,), F32)
        return jnp.asarray(x) * gate_values(kernel, bias, x)
