"""How old the cells of a memory are: how many vectors were written after what each one holds.

A cell holds the mean of what lay on its part of the time (SPEC §9). Segments lie there one after
the other, each stretched over a part of its own (`memory.coverage.segment_edges`). The age of a
cell is that of its middle. Here it is computed in the graph, for any number of writes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inf_former_jax.memory.arrays import AnyArray
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.fit import doubling
from inf_former_jax.memory.fit.ridge import first_fit_times
from inf_former_jax.require import require


def cell_ages(cfg: LongTermConfig, writes: Int[AnyArray, " B"], length: int) -> Float[Array, "B N"]:
    """Vectors that were written after the middle of each of N cells, oldest cell first.

    With K writes of L vectors, the segment that j others follow begins at `τ^(j+1)` (fixed) or
    `((K-j-1)/K)^p` (power), and the first one begins at 0. By doubling every cell holds the same
    number of vectors. Where segments share cells, the newest cell may be filled in part: its age is
    that of the middle of this part.

    Args:
        writes: K of each row; 0 counts as 1.
        length: L, vectors of a write.

    Raises:
        ValueError: another memory than intervals on equal cells, or a sticky one, where the number
            of writes does not say what a cell holds. If its cells are kept, it carries their ages
            itself (`LongTermMemory.ages`).
    """
    require_ages(cfg, "cell_ages")
    require(not cfg.sticky, "cell_ages", "a sticky memory", "one that is not, or `memory.ages`")
    writes = jnp.maximum(jnp.asarray(writes), 1)
    if cfg.contraction == "doubling":
        return length * _segments_by_doubling(cfg.num_basis, writes)
    if cfg.contraction == "kept":
        later = jnp.arange(cfg.num_basis - 1, -1, -1) + 0.5
        ages = later * (length / cfg.new_cells)
        return jnp.broadcast_to(ages[None], (*writes.shape, cfg.num_basis))
    writes = writes[:, None]
    times = jnp.asarray(first_fit_times(cfg.num_basis))[None]
    followers = writes - 1  # segments that were written after the first one
    if cfg.contraction == "fixed":
        after = jnp.minimum(jnp.floor(jnp.log(times) / jnp.log(cfg.tau)), followers)
        end = cfg.tau**after
        begin = jnp.where(after < followers, end * cfg.tau, 0.0)
    else:
        place = jnp.minimum(jnp.floor(writes * times ** (1 / cfg.power)), followers)
        after = followers - place
        begin, end = ((edge / writes) ** cfg.power for edge in (place, place + 1))
    # After millions of writes, float32 knows no time between the ends of a segment.
    inside = (end - times) / jnp.maximum(end - begin, jnp.finfo(times.dtype).tiny)
    return length * (after + jnp.clip(inside, 0.0, 1.0))


def _segments_by_doubling(count: int, writes: Int[Array, " B"]) -> Float[Array, "B N"]:
    """Segments after the middle of each cell."""
    room, later = doubling.capacity(writes)[:, None], jnp.arange(count - 1, -1, -1)[None]
    shared = jnp.maximum(room // count, 1)
    newest = (writes[:, None] - 1) % shared + 1  # segments in the newest cell
    by_shared = jnp.where(later == 0, newest / 2, newest + (later - 0.5) * shared)
    return jnp.where(room <= count, (later + 0.5) * room / count, by_shared)


def require_ages(cfg: LongTermConfig, name: str) -> None:
    """Refuse a memory whose cells have no age, in an error that begins with `name`.

    Raises:
        ValueError: as of `cell_ages`.
    """
    kind = f"functions = {cfg.functions}, fit = {cfg.fit}, sticky = {cfg.sticky}"
    accepted = "functions = rectangular and fit = intervals, not sticky or with contraction = kept"
    require(not cfg.tabled and (not cfg.sticky or cfg.keeps_ages), name, kind, accepted)
