"""Every preset is lowered for TPUs and for CUDA, from shapes alone: nothing is computed here.

An operation that one of them has no rule for is found here and not on the pod. That it compiles
there, fits and is fast is not shown.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.catalogue import EXPERIMENTS
from experiments.sharding import layout
from inf_former_jax.data.batches import Batch
from inf_former_jax.generate import decoding
from inf_former_jax.generate.decoding import Constants, Piece
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.training.evaluation import make_eval_step
from inf_former_jax.training.optim import optimizer
from inf_former_jax.training.sharding import make_mesh
from inf_former_jax.training.step import make_train_step

pytestmark = pytest.mark.slow  # tracing all of them takes minutes

#: Rows and segments: programs of more of them have the same operations.
ROWS, SEGMENTS = 2, 2


def shallow(model: ModelConfig) -> ModelConfig:
    """The model with two layers, both with the memory if it has one: further ones are like them."""
    return dataclasses.replace(model, num_layers=2, long_term_layers=())


def programs() -> dict[str, Any]:
    """Name of a preset → its config with two layers; of presets that are alike then, the first."""
    found: dict[Any, tuple[str, Any]] = {}
    for experiment, one in EXPERIMENTS.items():
        for name, (_, config) in one.presets.items():
            config = dataclasses.replace(config, model=shallow(config.model))
            key = config.model, config.objective, config.optim
            found.setdefault(key, (f"{experiment} {name}", config))
    return dict(found.values())


def shapes_of(config: Any) -> tuple[Any, Batch, Any, Any]:
    """(train state, batch, operators, key) of a preset, as shapes.

    They have no shardings: those of this machine's device are none of the platform's.
    """
    given = layout.shapes(config, make_mesh(1, 1), ROWS, SEGMENTS)
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)
    return *bare, jax.eval_shape(jax.random.key, 0)


def lower(function: Any, *arguments: Any) -> None:
    """Lower a jitted function for both platforms."""
    program = function.trace(*arguments).lower(lowering_platforms=("tpu", "cuda"))
    assert "stablehlo" in program.as_text()


PRESETS = programs()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_lowered_for_accelerators(name):
    """Training, evaluation, and generation of one token."""
    config = PRESETS[name]
    model, optim = config.model, config.optim
    state, batch, operators, key = shapes_of(config)
    step = make_train_step(model, optimizer(optim), config.objective, trained=optim.trained)
    lower(step, state, batch, operators)
    lower(make_eval_step(model), state.params, state.memory, batch, operators, key)
    decoder, shape = Decoder(model), jax.ShapeDtypeStruct
    reading = jax.eval_shape(partial(decoding.start, decoder, ROWS))
    tables = jax.eval_shape(partial(decoding.distances, decoder), state.params)
    token: Any = Piece(shape((ROWS, 1), jnp.int32), shape((ROWS,), jnp.int32))
    constants = Constants(operators, tables, key)
    lower(decoding.extend, decoder, state.params, reading, token, constants, 0)


def test_what_a_platform_has_no_rule_for_is_found():
    """A function that only a CPU has."""
    only_cpu = jax.jit(lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin))
    with pytest.raises(NotImplementedError, match=r"tpu|cuda"):
        lower(only_cpu, jax.ShapeDtypeStruct((2,), jnp.float32))
