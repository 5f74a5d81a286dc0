"""The whole train state: one pytree, one checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from inf_former_jax.memory import state as memories
from inf_former_jax.memory.state import Memory
from inf_former_jax.memory.write_operators import shapes
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training import sharding


class TrainState(NamedTuple):
    """Everything that a run carries from step to step: one pytree, one checkpoint."""

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    memory: Memory
    key: PRNGKeyArray


def _maker(cfg, tx, batch_size):
    def make(key):
        # No parameter depends on the operators' numbers: nothing is built, or folded in, for them.
        of = None if cfg.long_term is None else shapes(cfg.long_term, cfg.segment_len)
        ops = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), of)
        param_key, key = jax.random.split(key)
        memory = memories.init(cfg, batch_size)
        tokens = jnp.zeros((batch_size, cfg.segment_len), jnp.int32)
        rngs = {"params": param_key, "locations": param_key}
        variables = Decoder(cfg).init(rngs, tokens, memory, operators=ops)
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), memory, key)

    return make


def abstract_state(
    cfg: ModelConfig, tx: optax.GradientTransformation, batch_size: int, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of a train state: what a checkpoint is restored into."""
    shapes = jax.eval_shape(_maker(cfg, tx, batch_size), jax.random.key(0))
    placed = sharding.shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        placed,
    )


def init_state(
    cfg: ModelConfig,
    tx: optax.GradientTransformation,
    batch_size: int,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """A fresh train state, made on its devices: the same numbers on any mesh."""
    placed = sharding.shardings(abstract_state(cfg, tx, batch_size, mesh), mesh)
    # A program that runs once: on a CPU its optimisation costs more than it saves.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": "0"} if on_cpu else None
    make = jax.jit(_maker(cfg, tx, batch_size), out_shardings=placed, compiler_options=options)
    return make(jax.random.key(seed))
