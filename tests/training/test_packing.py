"""Small leaves in vectors: where they lie, and that they come back to the bit on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from inf_former_jax.training import packing
from inf_former_jax.training.checkpoint import CheckpointConfig, Checkpoints
from inf_former_jax.training.digests import digest, dtypes_and_shapes
from inf_former_jax.training.packing import SMALL, Place
from inf_former_jax.training.state import TrainState

LARGE = SMALL + 8


def state():
    """Leaves of all kinds, in another order than that of their names."""
    return {
        "params": {
            "w": jnp.arange(6.0).reshape(2, 3),
            "a": jnp.arange(8.0) + 10,
            "table": jnp.arange(float(LARGE)),
            "half": jnp.arange(4, dtype=jnp.bfloat16),
            "none": jnp.zeros((0, 3)),
        },
        "mask": jnp.array([True, False]),
        "nothing": jnp.zeros(0, jnp.int32),
        "step": jnp.array(7, jnp.int32),
        "key": jax.random.key(3),
    }


def test_where_leaves_lie():
    """By hand: fields apart, in the order of their names."""
    assert packing.places(dtypes_and_shapes(state())) == {
        "['key']": Place("key", "key", None),
        "['mask']": Place("mask", "small-bool", 0),
        "['nothing']": Place("nothing", "small-int32", 0),
        "['params']['a']": Place("params", "small-float32", 0),
        "['params']['half']": Place("params", "small-bfloat16", 0),
        "['params']['none']": Place("params", "small-float32", 8),
        "['params']['table']": Place("params", "params.table", None),
        "['params']['w']": Place("params", "small-float32", 8),
        "['step']": Place("step", "small-int32", 0),
    }


def test_names_that_are_joined_alike_stay_apart():
    forms = {"['a.b']": ["float32", [LARGE]], "['a']['b']": ["float32", [LARGE]]}
    assert len({place.array for place in packing.places(forms).values()}) == 2


def test_what_is_written():
    written = packing.pack(state())
    assert {field: set(arrays) for field, arrays in written.items()} == {
        "key": {"key"},
        "mask": {"small-bool"},
        "params": {"small-float32", "small-bfloat16", "params.table"},
        "step": {"small-int32"},
    }
    vector = [10, 11, 12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(written["params"]["small-float32"], vector)
    assert written["params"]["small-bfloat16"].dtype == jnp.bfloat16


def test_on_the_host():
    """As a folder is looked at; the key is its data."""
    given = state()
    written = packing.pack(given)
    written["key"]["key"] = jax.random.key_data(given["key"])
    leaves = packing.on_host(jax.device_get(written), digest(given))
    expected = packing.by_path(given)
    assert leaves.keys() == expected.keys()
    for path in leaves.keys() - {"['key']"}:
        assert leaves[path].dtype == expected[path].dtype
        np.testing.assert_array_equal(leaves[path], expected[path])


def placed(tree, shape):
    """A tree on a mesh: what the first axis divides is split by it, the second splits nothing."""
    count = shape[0] * shape[1]
    mesh = jax.make_mesh(
        shape, ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:count]
    )

    def sharding(leaf):
        split = leaf.ndim and leaf.size and leaf.shape[0] % shape[0] == 0
        return NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec())

    return jax.device_put(tree, jax.tree.map(sharding, tree))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (8, 1)])
def test_from_one_mesh_to_another(tmp_path, shape):
    """To the bit, and each leaf on the devices of the target."""
    given, target = placed(state(), (2, 1)), placed(state(), shape)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, given)
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        found = checkpoints.restore(target)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(target), strict=True):
        assert a.sharding == b.sharding and a.dtype == b.dtype
    assert digest(found) == digest(given)


def test_some_leaves_of_a_field(tmp_path):
    """The others were written before them, into the same vector."""
    given = TrainState(jnp.array(2, jnp.int32), state()["params"], (), None, jax.random.key(1))
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, given)
        some = {"w": given.params["w"], "table": given.params["table"]}
        found = checkpoints.restore(given._replace(params=some), ("params",))
    assert digest(found.params) == digest(some)


def test_a_vector_that_is_too_short_is_damage(tmp_path, monkeypatch):
    """As one is whose header was damaged: the step before is taken."""
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state())
        checkpoints.wait()
        arrays = Checkpoints._arrays

        def shortened(self, step, item, wanted, how):
            found = arrays(self, step, item, wanted, how)
            if step == 2:
                found["params"]["small-float32"] = found["params"]["small-float32"][:9]
            return found

        monkeypatch.setattr(Checkpoints, "_arrays", shortened)
        assert digest(checkpoints.restore(state())) == digest(state())
        assert checkpoints.steps() == [1]
