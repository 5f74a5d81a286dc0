"""Rotary positions and shared keys: complex numbers, distances, a naive layer, what is refused."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.local_attention import rotary
from inf_former_jax.models.local_attention.layer import LocalAttention
from inf_former_jax.models.segment import Segment
from tests.golden import jit

THETA, WIDTH = 50.0, 6
#: 4 heads of queries in pairs; 2 rows, a window of 5 of which 0 and 3 are filled, 4 tokens.
SHARED = ModelConfig(
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=WIDTH,
    d_model=10,
    segment_len=4,
    mem_len=5,
    position="rotary",
    rope_theta=THETA,
    attention_bias=True,
    query_chunk=3,
)
FILLED = np.array([0, 3])


def naive_turn(x, places):
    """x [..., S, K] at places [S] by complex numbers; channel k is the real part of k + K/2's."""
    half = x.shape[-1] // 2
    speeds = np.array([THETA ** (-2 * k / x.shape[-1]) for k in range(half)])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.outer(places, speeds))
    return np.concatenate([turned.real, turned.imag], axis=-1)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def turn(x, places, count=40):
    return rotary.turned(x, rotary.angles(count, x.shape[-1], THETA), places)


def test_is_a_product_of_complex_numbers():
    """At places of each row, at those of all rows, and of a compiled program."""
    with jax.enable_x64(True):
        x, each = random(3, 2, 5, WIDTH), np.array([[0, 3, 1, 7, 9], [30, 2, 2, 4, 5]])
        expected = np.stack([naive_turn(x[:, b], each[b]) for b in range(2)], axis=1)
        np.testing.assert_allclose(turn(jnp.asarray(x), each), expected, atol=1e-14)
        np.testing.assert_allclose(jax.jit(turn)(x, each), expected, atol=1e-14)
        np.testing.assert_allclose(
            turn(jnp.asarray(x), each[:1]), naive_turn(x, each[0]), atol=1e-14
        )


def test_a_place_by_hand():
    """K = 4, θ = 50: angles 2 and 2/√50 at place 2."""
    found = turn(jnp.array([1.0, 0, 0, 1])[None, None, None], np.array([[2]]))
    slow = 2 / 50**0.5
    np.testing.assert_allclose(
        found[0, 0, 0], [np.cos(2), -np.sin(slow), np.sin(2), np.cos(slow)], atol=1e-6
    )


def test_scores_depend_on_distances_only():
    """The same queries and keys 17 places on, in float64."""
    with jax.enable_x64(True):
        q, k = (jnp.asarray(random(1, 1, 5, WIDTH, seed=seed)) for seed in (0, 1))

        def scores(first):
            places = first + np.arange(5)[None]
            return jnp.einsum("hbtk,hbsk->ts", turn(q, places), turn(k, places))

        np.testing.assert_allclose(scores(17), scores(0), atol=1e-12)
        assert np.abs(scores(0) - jnp.einsum("hbtk,hbsk->ts", q, k)).max() > 1


def test_far_places_are_as_exact_as_near_ones():
    """Place 100,000 in float32; an angle of float32 would be off by .005 there. bfloat16 stays."""
    x, place = random(1, 1, 1, WIDTH).astype(np.float32), np.array([[100_000]])
    found = turn(jnp.asarray(x), place, 100_001)
    np.testing.assert_allclose(found, naive_turn(x, place[0]), atol=1e-6)
    assert turn(jnp.asarray(x, jnp.bfloat16), place, 100_001).dtype == jnp.bfloat16


def naive_layer(params, window, x):
    """[T, E] of one row, key by key: heads 2j and 2j + 1 see the keys and values of head j."""
    joined, out = np.concatenate([window, x]), np.zeros((len(x), 10)) + params["out_bias"]

    def head(name, number, inputs):
        return inputs @ params[name][:, number] + params[f"{name}_bias"][number]

    for h in range(4):
        keys, values = (head(name, h // 2, joined) for name in ("key", "value"))
        keys = naive_turn(keys, np.arange(len(joined)))
        queries = naive_turn(head("query", h, x), len(window) + np.arange(len(x)))
        for t, query in enumerate(queries):
            seen = slice(0, len(window) + t + 1)
            weights = np.exp(keys[seen] @ query / WIDTH**0.5)
            out[t] += weights @ values[seen] / weights.sum() @ params["out"][h]
    return out


def test_the_layer_is_attention_with_shared_keys():
    """Whole segments and tokens of a cache, against loops, in float64."""
    window, x = random(2, 5, 10), random(2, 4, 10, seed=1)
    expected = np.stack([naive_layer(PARAMS, window[b, 5 - FILLED[b] :], x[b]) for b in range(2)])
    with jax.enable_x64(True):
        given = (jnp.asarray(window), jnp.asarray(x))
        for method in (whole, in_pieces):
            np.testing.assert_allclose(applied(method, *given), expected, atol=1e-12)


def applied(method, *given):
    params = jax.tree.map(jnp.asarray, PARAMS)
    layer = partial(LocalAttention(SHARED, 0).apply, method=method)
    return jit(layer)({"params": params}, *given)


def segment():
    return Segment(np.zeros(2, bool), jnp.asarray(FILLED), None)


def whole(layer, window, x):
    keys_values = layer.keys_values(jnp.concatenate([window, x], axis=1))
    return layer.output(layer(layer.queries(x), keys_values, segment()), None)


def in_pieces(layer, window, x):
    """Two tokens of each row at places of its own, in a cache that holds the rest."""
    keys, values = layer.keys_values(jnp.concatenate([window, x], axis=1))
    keys = layer.placed(keys, np.arange(9)[None])
    places = jnp.array([[0, 2, 1, 3], [3, 1, 0, 2]])
    picked = jnp.take_along_axis(x, places[..., None], axis=1)
    attended = layer.cached(layer.queries(picked), (keys, values), segment(), 5 + places)
    found = layer.output(attended, None)
    return jnp.take_along_axis(found, jnp.argsort(places, axis=1)[..., None], axis=1)


def made():
    shapes = {
        "query": (10, 4, WIDTH),
        "key": (10, 2, WIDTH),
        "value": (10, 2, WIDTH),
        "out": (4, WIDTH, 10),
        "query_bias": (4, WIDTH),
        "key_bias": (2, WIDTH),
        "value_bias": (2, WIDTH),
        "out_bias": (10,),
    }
    return {name: random(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}


PARAMS = made()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("num_kv_heads", {"num_kv_heads": 3}),
        ("num_kv_heads", {"num_kv_heads": 8}),
        ("num_kv_heads", {"position": "relative"}),
        ("head_dim", {"head_dim": 5}),
        ("clamp_len", {"clamp_len": 2}),
        ("rope_theta", {"rope_theta": 0.0}),
        ("norm_epsilon", {"norm_epsilon": 0.0}),
    ],
)
def test_models_without_meaning_are_refused(name, change):
    """By the field's name, with what is accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: "):
        dataclasses.replace(SHARED, **change)


def test_no_shared_heads_is_as_many_as_there_are():
    assert dataclasses.replace(SHARED, num_kv_heads=0).kv_heads == 4
    assert dataclasses.replace(SHARED, num_kv_heads=4, position="relative").kv_heads == 4
