"""The whole train state: one pytree, one checkpoint."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from inf_former_jax.memory import write_operators
from inf_former_jax.memory.state import Memory, init
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training import sharding


class TrainState(NamedTuple):
    """Everything that a run carries from step to step."""

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    memory: Memory
    key: PRNGKeyArray


@cache
def abstract_state(
    cfg: ModelConfig, tx: optax.GradientTransformation, batch_size: int, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of a train state: what a checkpoint is restored into."""
    shapes = jax.eval_shape(partial(_fresh_state, cfg, tx, batch_size), jax.random.key(0))

    def with_sharding(leaf, placed):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)

    return jax.tree.map(with_sharding, shapes, sharding.shardings(shapes, mesh))


def init_state(
    cfg: ModelConfig, tx: optax.GradientTransformation, batch_size: int, seed: int, mesh: Mesh
) -> TrainState:
    """A fresh train state, made on its devices: the same numbers on any mesh."""
    placed = sharding.shardings(abstract_state(cfg, tx, batch_size, mesh), mesh)
    # A program that runs once: on a CPU its optimisation costs more than it saves.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": "0"} if on_cpu else None
    make = partial(_fresh_state, cfg, tx, batch_size)
    return jax.jit(make, out_shardings=placed, compiler_options=options)(jax.random.key(seed))


def _fresh_state(cfg, tx, batch_size, key) -> TrainState:
    operators = None
    if cfg.long_term is not None:
        # No parameter depends on the operators' numbers, so zeros stand in for them.
        shapes = write_operators.shapes(cfg.long_term, cfg.segment_len)
        operators = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    param_key, key = jax.random.split(key)
    memory = init(cfg, batch_size)
    tokens = jnp.zeros((batch_size, cfg.segment_len), jnp.int32)
    rngs = {"params": param_key, "locations": param_key}
    params = Decoder(cfg).init(rngs, tokens, memory, operators=operators)["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), memory, key)
