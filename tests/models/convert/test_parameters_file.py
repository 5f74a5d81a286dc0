"""All parameters of a model in one file: to the bit, and nothing else is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models.convert import parameters_file

PARAMS = {
    "block_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "bias": np.zeros(3)},
    "half": jnp.asarray([1.5, -0.0, jnp.inf], jnp.bfloat16),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "parameters.safetensors"
    assert parameters_file.save(PARAMS, path) == path.stat().st_size
    return path


def test_parameters_come_back_to_the_bit(file):
    """In their dtypes; float64 as JAX has it here."""
    wanted = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    found = parameters_file.load(file, wanted)
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    for leaf, given in zip(*map(jax.tree.leaves, (found, PARAMS)), strict=True):
        given = jnp.asarray(given)
        assert leaf.dtype == given.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(given).tobytes()


@pytest.mark.parametrize(
    "wanted, told",
    [
        (PARAMS | {"half": np.zeros(4)}, "half"),
        (PARAMS | {"more": np.zeros(1)}, "more"),
        ({"half": np.zeros(3)}, "block_0"),
    ],
)
def test_parameters_of_another_model_are_refused(file, wanted, told):
    with pytest.raises(ValueError, match=f"parameters.safetensors: .*{told}"):
        parameters_file.load(file, wanted)


def test_a_flipped_byte_is_refused(file):
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="bytes other than those that were written"):
        parameters_file.load(file, PARAMS)
