"""The table of shardings on 8 pretended devices; nothing here is compiled but transfers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from inf_former_jax.training import optim, sharding
from inf_former_jax.training.state import abstract_state

ADAM = optim.optimizer(optim.OptimConfig())


def state_shapes(cfg, batch_size=8):
    """The shapes of a train state."""
    return abstract_state(cfg, ADAM, batch_size, sharding.make_mesh())


def specs(tree, mesh):
    """Path → the leaf's spec."""
    leaves = jax.tree_util.tree_leaves_with_path(sharding.shardings(tree, mesh))
    return {sharding._path_name(path): leaf.spec for path, leaf in leaves}


BLOCK = {
    "attention/key": P(None, "model", None),
    "attention/out": P("model", None, None),
    "attention/position": P(None, "model", None),
    "attention/query": P(None, "model", None),
    "attention/value": P(None, "model", None),
    "inner/bias": P("model"),
    "inner/kernel": P(None, "model"),
    "long_term/gate/bias": P(),
    "long_term/gate/kernel": P(),
    "long_term/read/key": P(None, "model", None),
    "long_term/read/mu": P(),
    "long_term/read/out": P("model", None, None),
    "long_term/read/sigma": P(),
    "long_term/read/value": P(None, "model", None),
    "norm_attention/bias": P(),
    "norm_attention/scale": P(),
    "norm_feed_forward/bias": P(),
    "norm_feed_forward/scale": P(),
    "outer/bias": P(),
    "outer/kernel": P("model", None),
}
PARAMS = {
    "bias_u": P("model", None),
    "bias_w": P("model", None),
    "embed/embedding": P("model", None),
    "logits/kernel": P(None, "model"),
    **{f"block_{j}/{name}": spec for j in range(2) for name, spec in BLOCK.items()},
}
LAYER = ["fifo", "long_term/coeffs", "long_term/salience", "long_term/writes"]


def test_table_of_the_whole_state(tiny_model):
    """Heads, hidden units and words over `model`, the memory's rows over `data`."""
    found = specs(state_shapes(tiny_model), sharding.make_mesh(2))
    params = {f"params/{name}": spec for name, spec in PARAMS.items()}
    assert {k: v for k, v in found.items() if k.startswith("params/")} == params
    memory = {"memory/seen"} | {f"memory/layers/{j}/{n}" for j in range(2) for n in LAYER}
    assert {k: v for k, v in found.items() if k.startswith("memory/")} == dict.fromkeys(
        memory, P("data")
    )
    assert found["step"] == found["key"] == P()


def test_fsdp_splits_the_width_of_every_matrix(tiny_model):
    """d_model is 8: over 4 devices. Vectors are whole; the batch's rows are over both axes."""
    by_width = {
        **dict.fromkeys(("attention/key", "attention/position"), P("fsdp", "model", None)),
        **dict.fromkeys(("attention/query", "attention/value"), P("fsdp", "model", None)),
        **dict.fromkeys(("long_term/read/key", "long_term/read/value"), P("fsdp", "model", None)),
        **dict.fromkeys(("attention/out", "long_term/read/out"), P("model", None, "fsdp")),
        "inner/kernel": P("fsdp", "model"),
        "outer/kernel": P("model", "fsdp"),
        "long_term/gate/kernel": P(None, "fsdp", None),
    }
    expected = {f"block_{j}/{name}": spec for j in range(2) for name, spec in by_width.items()}
    expected |= {"embed/embedding": P("model", "fsdp"), "logits/kernel": P("fsdp", "model")}
    found = specs(state_shapes(tiny_model), sharding.make_mesh(2, 8, 2))
    params = {name: found[f"params/{name}"] for name in PARAMS}
    assert params == PARAMS | expected
    assert found["memory/layers/0/fifo"] == P(("data", "fsdp"))


def test_of_a_dimension_that_is_not_divided_the_others_are_split(tiny_model):
    """A vocabulary of 10 over 4 devices of the model's axis: whole; the width over 2: split."""
    cfg = dataclasses.replace(tiny_model, vocab_size=10)
    mesh = sharding.make_mesh(4, 8, 2)
    assert specs(state_shapes(cfg), mesh)["params/embed/embedding"] == P(None, "fsdp")
    assert "params/embed/embedding" in sharding.replicated(state_shapes(cfg), mesh)


def test_a_mesh_of_the_users_own_may_lack_axes(tiny_model):
    kind, devices = jax.sharding.AxisType.Auto, jax.devices()[:4]
    mesh = jax.make_mesh((4,), ("data",), (kind,), devices=devices)
    found = specs(state_shapes(tiny_model), mesh)
    assert found["params/embed/embedding"] == P() and found["memory/seen"] == P("data")
    assert sharding.row_devices(mesh) == 4 and sharding.local_rows(8, mesh).tolist() == [*range(8)]


def test_moments_follow_their_parameters(tiny_model):
    found = specs(state_shapes(tiny_model), sharding.make_mesh(4))
    moments = {k: v for k, v in found.items() if "/mu/" in k or "/nu/" in k}
    assert len(moments) == 2 * len(PARAMS)
    for path, spec in moments.items():
        name = path.split("/mu/" if "/mu/" in path else "/nu/", 1)[1]
        assert spec == PARAMS[name], path


def test_what_the_mesh_does_not_divide_is_replicated_and_listed(tiny_model):
    cfg = dataclasses.replace(tiny_model, num_heads=2, vocab_size=10)
    shapes, mesh = state_shapes(cfg, batch_size=3), sharding.make_mesh(4)
    listed = sharding.replicated(shapes, mesh)
    split = [name for name in BLOCK if name.startswith(("attention/", "long_term/read/"))]
    split = [name for name in split if not name.endswith(("mu", "sigma"))]
    by_head = {"bias_u", "bias_w"} | {f"block_{j}/{name}" for j in range(2) for name in split}
    expected = {f"params/{n}" for n in by_head | {"embed/embedding", "logits/kernel"}}
    assert {name for name in listed if name.startswith("params/")} == expected
    assert sum("/mu/" in n for n in listed) == sum("/nu/" in n for n in listed) == len(expected)
    assert sum(name.startswith("memory/") for name in listed) == 1 + 2 * len(LAYER)
    found = specs(shapes, mesh)
    assert all(found[name] == P() for name in listed)
    assert found["params/block_0/inner/kernel"] == P(None, "model")  # d_inner 8 still is


def test_a_gated_layer_is_split_by_hidden_units_and_shared_heads(tiny_model):
    """Where the mesh divides the heads of queries only, keys and values are replicated."""
    cfg = dataclasses.replace(
        tiny_model, position="rotary", activation="swiglu", norm_kind="rms", num_kv_heads=2
    )
    two, four = (specs(state_shapes(cfg), sharding.make_mesh(model)) for model in (2, 4))
    block = "params/block_0"
    for found in (two, four):
        for name in ("inner", "inner_gate"):
            assert found[f"{block}/{name}/kernel"] == P(None, "model")
        assert found[f"{block}/outer/kernel"] == P("model", None)
        assert found[f"{block}/attention/query"] == P(None, "model", None)
        assert found[f"{block}/norm_attention/scale"] == P()
    for name in ("key", "value"):
        assert two[f"{block}/attention/{name}"] == P(None, "model", None)
        assert four[f"{block}/attention/{name}"] == P()


def test_nothing_is_listed_where_all_divides(tiny_model):
    assert sharding.replicated(state_shapes(tiny_model), sharding.make_mesh(4)) == []


@pytest.mark.parametrize(
    ("model", "fsdp", "shape"),
    [(1, 1, (8, 1, 1)), (2, 1, (4, 1, 2)), (8, 1, (1, 1, 8)), (2, 2, (2, 2, 2)), (1, 8, (1, 8, 1))],
)
def test_mesh(model, fsdp, shape):
    mesh = sharding.make_mesh(model, fsdp=fsdp)
    assert mesh.axis_names == ("data", "fsdp", "model") and mesh.devices.shape == shape
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 3


@pytest.mark.parametrize("model", [0, -1, 3, 16])
def test_a_mesh_that_does_not_divide_is_refused(model):
    expected = rf"^mesh_model: found {model}, accepted: a divisor of 8 devices$"
    with pytest.raises(ValueError, match=expected):
        sharding.make_mesh(model)


@pytest.mark.parametrize(
    ("model", "fsdp", "told"),
    [(1, 3, "8 devices"), (2, 8, "4 devices with mesh_model 2"), (1, 0, "8 devices")],
)
def test_an_fsdp_axis_that_does_not_divide_is_refused(model, fsdp, told):
    with pytest.raises(
        ValueError, match=f"^mesh_fsdp: found {fsdp}, accepted: a divisor of {told}$"
    ):
        sharding.make_mesh(model, fsdp=fsdp)


def test_one_process_makes_all_rows_once():
    for model, fsdp in ((1, 1), (4, 1), (1, 4), (2, 2)):
        rows = sharding.local_rows(16, sharding.make_mesh(model, fsdp=fsdp))
        np.testing.assert_array_equal(rows, np.arange(16))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size: found 6, accepted: a multiple of .* 4 d"):
        sharding.local_rows(6, sharding.make_mesh(2))


@pytest.mark.parametrize("fsdp", [1, 2])
def test_placed_batch(fsdp):
    """Rows in order, cut over `data` and `fsdp`, the same on the devices along `model`."""
    mesh = sharding.make_mesh(2, fsdp=fsdp)
    asked = []

    def make(rows):
        asked.append(rows.tolist())
        return {"a": np.stack([rows, 10 * rows], axis=1), "none": None}

    placed = sharding.place_batch(make, 8, mesh)
    assert asked == [list(range(8))] and placed["none"] is None
    np.testing.assert_array_equal(placed["a"], [[i, 10 * i] for i in range(8)])
    for shard in placed["a"].addressable_shards:
        data, part, _ = np.argwhere(mesh.devices == shard.device)[0]
        first = 2 * (fsdp * data + part)
        np.testing.assert_array_equal(shard.data[:, 0], [first, first + 1])


def test_everywhere():
    placed = sharding.everywhere((np.arange(3), jnp.ones(2)), sharding.make_mesh(2))
    assert all(leaf.is_fully_replicated and len(leaf.devices()) == 8 for leaf in placed)
