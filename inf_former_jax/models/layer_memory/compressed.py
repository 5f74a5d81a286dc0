"""Compressed memory: c neighbours become one vector, seen as a further key (SPEC §5b)."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from inf_former_jax.memory import compressed, state
from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.state import LayerMemory, MemoryConfig
from inf_former_jax.models.layer_memory.kind import Info, MemoryKind
from inf_former_jax.models.projections import F32
from inf_former_jax.models.segment import Segment


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


@dataclasses.dataclass(frozen=True)
class Compressed(MemoryKind):
    """The Compressive Transformer's memory of a layer.

    Gradients do not pass through what is stored, whatever `memory_gradient` is: the reconstruction
    loss trains f_c alone, and the task's loss trains everything but f_c.
    """

    cfg: MemoryConfig
    compression: Compression
    reconstruction: Callable[[AnyArray, Array, Array], Array]
    """(inputs [B, T, E], vectors before and after compression) -> loss of each query [B, T]."""

    def write(
        self, memory: LayerMemory, segment: Segment, x: Float[AnyArray, "B T E"] | None = None
    ) -> tuple[LayerMemory, Info]:
        """The pending segment's compressed vectors join the others, and the oldest fall off.

        Given x, the info also has what attention lost by this: 0 in rows where nothing was due.
        """
        pending = jax.lax.stop_gradient(state.pending(self.cfg, memory))
        slots = self.compression(pending)
        memory = state.append_compressed(memory, jax.lax.stop_gradient(slots), segment.due)
        if x is None:
            return memory, {}
        lost = self.reconstruction(x, pending, slots)
        lost = jnp.where(segment.due[:, None], lost, 0.0)
        return memory, {"reconstruction": lost, "compressed": segment.due}
