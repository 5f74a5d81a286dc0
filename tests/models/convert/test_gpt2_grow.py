"""Further ids of a GPT-2: nothing about the old ones changes."""

import dataclasses

import jax
import numpy as np
import pytest

from inf_former_jax.memory import state
from inf_former_jax.models.convert import gpt2
from tests.models.convert.test_gpt2 import HEADS, VOCAB, WIDTH, B, call, same, tensors, tokens


@pytest.fixture(scope="module")
def plain():
    return gpt2.load(tensors(dtype=np.float32), num_heads=HEADS)


def test_old_ids_are_what_they_were(plain):
    """Through the decoder: the logits of old ids after old tokens; all other parameters."""
    cfg, params = plain
    grown = gpt2.grow(params, VOCAB + 3, jax.random.key(0))
    assert grown["embed"]["embedding"].shape == (VOCAB + 3, WIDTH)
    same(grown | {"embed": {"embedding": grown["embed"]["embedding"][:VOCAB]}}, params)
    assert params["embed"]["embedding"].shape == (VOCAB, WIDTH), "the given are left alone"
    larger = dataclasses.replace(cfg, vocab_size=VOCAB + 3)
    run = call(larger)
    got = run(grown, tokens(1), state.init(larger, B)).logits
    expected = call(cfg)(params, tokens(1), state.init(cfg, B)).logits
    np.testing.assert_allclose(got[..., :VOCAB], expected, rtol=1e-6, atol=1e-6)
    spoken = tokens(1)
    spoken[:, 0] = VOCAB, VOCAB + 1  # new ids are read, each as itself
    first = run(grown, spoken, state.init(larger, B)).logits[:, 0]
    assert np.abs(first - got[:, 0]).max(axis=-1).min() > 1e-2


def test_new_ids_are_around_the_mean(plain):
    """Distinct, σ .02 in every channel, another draw for another key; no further id, none drawn."""
    _, params = plain
    known = params["embed"]["embedding"]
    fresh = gpt2.grow(params, VOCAB + 2000, jax.random.key(0))["embed"]["embedding"][VOCAB:]
    assert len(np.unique(fresh, axis=0)) == 2000
    np.testing.assert_allclose(fresh.mean(axis=0), known.mean(axis=0), atol=0.02 / 2000**0.5 * 4)
    np.testing.assert_allclose(fresh.std(axis=0), 0.02, rtol=0.1)
    assert np.abs(np.corrcoef(fresh.T) - np.eye(WIDTH)).max() < 0.1, "a draw for every channel"
    other = gpt2.grow(params, VOCAB + 3, jax.random.key(1))["embed"]["embedding"][VOCAB:]
    assert (other != fresh[:3]).all()
    same(gpt2.grow(params, VOCAB, jax.random.key(0)), params)


def test_fewer_ids_are_refused(plain):
    message = f"^vocab_size: found {VOCAB - 1}, accepted: at least the {VOCAB} that there are$"
    with pytest.raises(ValueError, match=message):
        gpt2.grow(plain[1], VOCAB - 1, jax.random.key(0))
