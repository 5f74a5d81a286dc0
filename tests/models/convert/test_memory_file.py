"""A trained memory without its model: it comes back to the bit of bfloat16, and nowhere else."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models import llama, presets
from inf_former_jax.models.convert import memory_file
from inf_former_jax.training.optim import labels
from tests.models.convert.test_llama import FOLDER

PLAIN, BASE = llama.load(FOLDER)
CFG = dataclasses.replace(
    PLAIN,
    segment_len=4,
    mem_len=4,
    sinks=1,
    cell_distance=8,
    long_term_layers=(1,),
    long_term=dataclasses.replace(
        presets.TRAINING_FREE, num_basis=4, turn_queries=True, age_bias="cells"
    ),
)


def trained():
    """The model with a memory of random numbers, and nothing else changed."""
    params, rng = llama.graft(CFG, BASE, jax.random.key(0)), np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf, kind: (
            jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) if kind == "memory" else leaf
        ),
        params,
        labels(params),
    )


@pytest.fixture
def saved(tmp_path):
    params = trained()
    size = memory_file.save(CFG, params, tmp_path)
    numbers = CFG.num_heads * (CFG.head_dim**2 + 4)
    assert 2 * numbers < size < 2 * numbers + 1000
    return tmp_path, params


def test_it_comes_back_beside_its_model(saved):
    folder, params = saved
    cfg, found = memory_file.load(folder, PLAIN, BASE)
    assert cfg == CFG
    assert jax.tree.structure(found) == jax.tree.structure(params)

    def check(given, written, kind):
        written = np.asarray(written)
        rounded = written.astype(jnp.bfloat16).astype(np.float32) if kind == "memory" else written
        np.testing.assert_array_equal(given, rounded)

    jax.tree.map(check, found, params, labels(params))


def edited(folder, **changes):
    file = folder / "memory.json"
    told = json.loads(file.read_text())
    for name, value in changes.items():
        (told if name in told else told["inf_former"])[name] = value
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base": "0"}, r"memory.json: found beside the model [0-9a-f]{16}, accepted: the model 0"),
        ({"inf_former": []}, r"memory.json: inf_former: found \[\], accepted: an object"),
        ({"memory": None}, "memory.json: memory: found None, accepted: a text"),
        ({"memory": "0"}, "memory.safetensors: found the memory [0-9a-f]{16}, accepted: 0, as"),
        ({"sinks": -1}, "memory.json: sinks: found -1"),
        ({"d_model": 3}, "memory.json: inf_former: d_model: found such a field"),
        ({"long_term_layers": [0, 1]}, r"block_0.*: found nothing, accepted: \("),
    ],
)
def test_what_does_not_belong_is_refused(saved, change, match):
    folder, _ = saved
    edited(folder, **change)
    with pytest.raises(ValueError, match=match):
        memory_file.load(folder, PLAIN, BASE)


def test_another_model_is_refused(saved):
    folder, params = saved
    other = jax.tree.map(lambda leaf: leaf * 1.0000001 + 1e-3, BASE)
    with pytest.raises(ValueError, match=re.escape("accepted: the model ")):
        memory_file.load(folder, PLAIN, other)
    with pytest.raises(ValueError, match=r"^params: found a model with a memory, accepted: one"):
        memory_file.load(folder, CFG, params)
    with pytest.raises(ValueError, match=r"^params: found no parameters of a memory"):
        memory_file.save(PLAIN, BASE, folder)


def test_damaged_files_are_refused(saved):
    folder, _ = saved
    file = folder / "memory.safetensors"
    raw = file.read_bytes()
    for damaged in (raw[:-1], raw[: len(raw) // 2], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="accepted: a whole safetensors file"):
            memory_file.load(folder, PLAIN, BASE)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        memory_file.load(folder, PLAIN, BASE)
