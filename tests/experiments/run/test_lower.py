"""Lower layers that are run once: the same figures, and other runs find what they said."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.run.batches import placed
from experiments.run.lower import LowerLayers, check
from inf_former_jax.data.batches import Batch
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder, operators
from inf_former_jax.training import evaluation, sharding
from tests.experiments.test_llama import LLAMA

B, W, T, V = 8, 3, 4, 11
CELLS = dataclasses.replace(presets.TRAINING_FREE, num_basis=8, turn_queries=True)
MODEL = dataclasses.replace(
    LLAMA,
    vocab_size=V,
    num_layers=3,
    segment_len=T,
    mem_len=T,
    sinks=2,
    long_term=CELLS,
    long_term_layers=(2,),
)


def make(number, rows):
    """Batches of rows that walk two documents: the second begins in the second batch."""
    random = np.random.default_rng([number, 5])
    tokens = random.integers(0, V, (B, W, T)).astype(np.int32)[rows]
    resets = np.zeros((len(rows), W), bool)
    resets[:, 0] = number == 0
    resets[rows % 2 == 0, 1] = number == 1
    valid = np.ones((len(rows), W, T), bool)
    if number == 2:
        valid[:, 2], valid[:, 1, 2:] = False, False
    return Batch(tokens, np.roll(tokens, -1, 2), valid.astype(np.float32), resets, valid)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


@pytest.fixture(scope="module")
def params():
    given = np.zeros((1, T), np.int32), state.init(MODEL, 1)
    made = jax.jit(Decoder(MODEL).init)(jax.random.key(0), *given)["params"]
    return jax.tree.map(lambda leaf: np.asarray(2 * leaf), made)


def batches(mesh, count=3):
    every = placed(make, B, mesh)
    return [next(every) for _ in range(count)]


def written(folder):
    """Each file, and when it was written."""
    return [(file, file.stat().st_mtime_ns) for file in folder.iterdir()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_figures_are_the_same_with_outputs_from_disk(mesh, params, tmp_path, dtype):
    """Computed, found, and found in part, by another object as by the first one."""
    model = dataclasses.replace(MODEL, dtype=dtype)
    step = evaluation.make_token_step(model, mesh=mesh)
    ops, key = operators(model), jax.random.key(0)

    def losses(some):
        memory, found = state.init(model, B), []
        for batch in some:
            (nats, _), memory = step(params, memory, batch, ops, key)
            found.append(np.where(batch.valid, nats, 0))
        return np.array(found)

    plain = losses(batches(mesh))
    for computed in (3, 0):
        before = set(written(tmp_path))
        found = losses(LowerLayers(model, params, mesh, tmp_path).added(batches(mesh), B))
        assert len(set(written(tmp_path)) - before) == computed
        # In half precision the two programs round at other places.
        tolerance = 1e-5 if dtype == "float32" else 0.01
        np.testing.assert_allclose(found, plain, atol=tolerance)
    newest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for damage in (newest.unlink, lambda: newest.write_bytes(b"damaged")):
        damage()
        before = set(written(tmp_path))
        again = losses(LowerLayers(model, params, mesh, tmp_path).added(batches(mesh), B))
        assert [file for file, _ in set(written(tmp_path)) - before] == [newest]
        np.testing.assert_array_equal(again, found)


def test_batches_of_a_run_that_goes_on(mesh, params, tmp_path):
    """Those that were skipped are read first where something is missing."""
    below = LowerLayers(MODEL, params, mesh, tmp_path / "whole")
    whole = [batch.lower for batch in below.added(batches(mesh), B)]
    later = LowerLayers(MODEL, params, mesh, tmp_path / "later")
    (last,) = (batch.lower for batch in later.added(batches(mesh), B, skipped=2))
    np.testing.assert_array_equal(last, whole[2])
    assert len(written(tmp_path / "later")) == 1


def test_what_a_files_name_depends_on(mesh, params, tmp_path):
    """On the lower layers and all that they have read, and not on the memory above them."""

    def names(model, params, some):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        list(LowerLayers(model, params, mesh, folder).added(some, B))
        return {file.name for file in folder.iterdir()}

    two = batches(mesh, 2)
    first = names(MODEL, params, two)
    other_cells = dataclasses.replace(MODEL, long_term=presets.TRAINING_FREE, cells_by_age=True)
    trained = params | {"block_2": jax.tree.map(lambda leaf: leaf + 1, params["block_2"])}
    assert names(other_cells, trained, two) == first and len(first) == 2
    longer = dataclasses.replace(MODEL, mem_len=2 * T)
    frozen = params | {"block_1": jax.tree.map(lambda leaf: leaf + 1, params["block_1"])}
    assert not names(longer, params, two) & first
    assert not names(MODEL, frozen, two) & first
    moved = [two[0]._replace(tokens=two[0].tokens.at[0, 0, 0].add(1) % V), two[1]]
    assert not names(MODEL, params, moved) & first
    assert len(names(MODEL, params, [two[0], moved[0]]) & first) == 1


def test_refusals():
    bare = dataclasses.replace(MODEL, long_term=None, long_term_layers=())
    for model, trained, found in (
        (MODEL, "all", "a model whose lower layers are trained"),
        (bare, "memory", "no layer below the memory"),
        (dataclasses.replace(MODEL, dropout=0.1), "memory", "a dropout of 0.1"),
    ):
        with pytest.raises(ValueError, match=f"^keep_lower: found {found}"):
            check(model, trained)
