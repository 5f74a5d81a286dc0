"""Short-term memory: the last inputs as they are, seen as further keys (Transformer-XL; SPEC §4).

Its FIFO also carries the pending segment, which another kind of memory is about to take.
"""

import dataclasses

from jaxtyping import Array, Float

from inf_former_jax.memory import state
from inf_former_jax.memory.basis import AnyArray
from inf_former_jax.memory.state import LayerMemory, MemoryConfig
from inf_former_jax.models.all_segments import History
from inf_former_jax.models.layer_memory.kind import MemoryKind
from inf_former_jax.models.segment import Segment


@dataclasses.dataclass(frozen=True)
class ShortTerm(MemoryKind):
    """The FIFO of a layer's last inputs."""

    cfg: MemoryConfig

    def window(self, memory: LayerMemory) -> Float[Array, "B S E"] | None:
        """The last `mem_len` inputs."""
        size = self.cfg.mem_len
        return memory.fifo[:, -size:] if size else None

    def push(
        self, memory: LayerMemory, x: Float[AnyArray, "B T E"] | None, mass: Array | None
    ) -> LayerMemory:
        """The segment's inputs join the FIFO, and the oldest rows fall off."""
        return state.push(memory, x)

    def write_all(
        self,
        found: LayerMemory,
        after: LayerMemory,
        history: History,
        q: Float[Array, "BW H T K"],
        segment: Segment,
    ) -> tuple[LayerMemory, LayerMemory]:
        """The FIFO after all segments. What each finds in it is cut out of projected inputs."""
        return found, after._replace(fifo=history.last_fifo(state.fifo_len(self.cfg)))
