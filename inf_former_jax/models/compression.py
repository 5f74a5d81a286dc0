"""What turns the vectors that leave the window into compressed ones, as a layer (SPEC §5b)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory import compressed
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.models.local_attention.scores import F32


class Compression(nn.Module):
    """f_c: c neighbours become one vector, by convolution or pooling (SPEC §5b)."""

    cfg: CompressedConfig

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B L E"]) -> Float[Array, "B C E"]:
        """The compressed vectors, C = L/c."""
        rate, dim = self.cfg.rate, x.shape[-1]
        if self.cfg.function != "convolution":
            return compressed.pool(x, rate, self.cfg.function)
        kernel = self.param("kernel", nn.initializers.lecun_normal((0, 1)), (rate, dim, dim), F32)
        bias = self.param("bias", nn.initializers.zeros, (dim,), F32)
        flat = kernel.reshape(rate * dim, dim)
        return jnp.einsum("bcw,we->bce", compressed.windows(x, rate), flat) + bias[None, None]
