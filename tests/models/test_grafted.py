"""What a pretrained model is given: sinks, chosen layers, cells at a distance, vectors of one size.

Each is an identity between two models, in float64. All are Llamas of two layers.
"""

import dataclasses
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.convert.graft import graft
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.models.local_attention.layer import LocalAttention
from tests import pairs
from tests.golden import jit

B, T, V = 2, 4, 9
LLAMA = ModelConfig(
    vocab_size=V, num_layers=2, num_heads=2, d_model=6, d_inner=8, segment_len=T, mem_len=T,
    dropout=0.0, query_chunk=3, **pairs.LLAMA,
)  # fmt: skip
CELLS = LongTermConfig(
    num_basis=4, functions="rectangular", fit="intervals", density="gibbs", gate=False,
    projections="attention", joined=True,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, V, (5, B, T))


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def params_of(cfg):
    def init(key):
        given = TOKENS[0], state.init(cfg, B)
        return Decoder(cfg).init(key, *given, operators=operators(cfg))["params"]

    rng, shapes = np.random.default_rng(1), jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)


@cache
def call_of(cfg):
    """The decoder, compiled once for all segments of a length."""
    return jit(lambda params, *given: Decoder(cfg).apply({"params": params}, *given))


def outputs(cfg, params, segments=TOKENS):
    """The decoder's output on one segment after the other."""
    call = call_of(cfg)
    memory, found = state.init(cfg, B, jnp.float64), []
    for tokens in segments:
        found.append(call(params, tokens, memory))
        memory = found[-1].memory
    return found


def test_sinks_are_a_longer_window():
    """A segment of sinks and the segment before make a window of two, where there are no more."""
    with_sinks = dataclasses.replace(LLAMA, sinks=T)
    longer = dataclasses.replace(LLAMA, mem_len=2 * T)
    params = params_of(LLAMA)
    models = (outputs(cfg, params) for cfg in (LLAMA, with_sinks, longer))
    for s, (plain, found, expected) in enumerate(zip(*models, strict=True)):
        off = [np.abs(found.logits - other.logits).max() for other in (plain, expected)]
        for difference, differs in zip(off, (s > 1, s > 2), strict=True):
            assert difference > 1e-3 if differs else difference < 1e-12


def test_cells_stand_at_their_distance():
    """A cell that is 4 tokens away is what stands 4 places before the query in the window."""
    params, rng = params_of(LLAMA), np.random.default_rng(2)
    vectors = jnp.asarray(rng.normal(size=(2, B, T, 6)))
    cell = dataclasses.replace(CELLS, num_basis=1)
    cfg = dataclasses.replace(LLAMA, long_term=cell, cell_distance=4)

    def of_window(cfg, seen, written):
        """A window of which `seen` are filled, and in the cell what its oldest place would hold."""
        memory = state.init(cfg, B, jnp.float64)
        layers = []
        for layer, x in zip(memory.layers, vectors, strict=True):
            fifo = jnp.concatenate([jnp.zeros((B, layer.fifo.shape[1] - T, 6)), x], axis=1)
            layer = layer._replace(fifo=fifo)
            if written:
                held = layer.long_term._replace(coeffs=x[:, :1], writes=jnp.ones(B, int))
                layer = layer._replace(long_term=held)
            layers.append(layer)
        memory = state.Memory(jnp.full(B, seen), tuple(layers))
        return call_of(cfg)(params, TOKENS[0, :, :1], memory).logits

    expected = of_window(LLAMA, T, False)
    np.testing.assert_allclose(of_window(cfg, T - 1, True), expected, atol=1e-12)
    beside = dataclasses.replace(cfg, cell_distance=0)
    assert np.abs(of_window(beside, T - 1, True) - expected).max() > 1e-3


def test_cells_by_age_are_a_longer_window():
    """Cells of one vector each, before the window, are a window of one more segment."""
    cell = dataclasses.replace(CELLS, num_basis=T)
    cfg = dataclasses.replace(LLAMA, long_term=cell, cells_by_age=True)
    longer, params = dataclasses.replace(LLAMA, mem_len=2 * T), params_of(LLAMA)
    expected, found = (outputs(one, params, TOKENS[:3])[2] for one in (longer, cfg))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-12)


def test_a_queue_of_cells_is_a_longer_window():
    """Two segments in full, in the order in which they were written, are two segments of window."""
    queue = dataclasses.replace(CELLS, num_basis=2 * T, contraction="kept", tau=0.5)
    cfg = dataclasses.replace(LLAMA, long_term=queue, cells_by_age=True)
    longer, params = dataclasses.replace(LLAMA, mem_len=3 * T), params_of(LLAMA)
    walks = (outputs(one, params, TOKENS) for one in (longer, cfg))
    for expected, found in zip(*walks, strict=True):
        np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-12)


def test_joined_cells_are_steered_by_their_part_of_the_softmax():
    """What a segment leaves as salience is the mass of cells in one softmax over all keys."""
    kept = dataclasses.replace(CELLS, num_basis=2 * T, contraction="kept", tau=0.5, sticky=True)
    one = {"num_layers": 1, "position": "learned", "max_position": T}
    cfg = dataclasses.replace(LLAMA, long_term=kept, **one)
    params = params_of(cfg)
    layer, K = jax.tree.map(np.asarray, params["block_0"]), LLAMA.head_dim
    walk, kept_keys = outputs(cfg, params), 0

    def heads(kernel, x):
        rms = np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_epsilon)
        return np.einsum("bte,ehk->bhtk", x / rms * layer["norm_attention"]["scale"], kernel)

    for before, after in pairwise(walk):
        old, new = (jax.tree.map(np.asarray, one.memory.layers[0]) for one in (before, after))
        inputs, window, cells = new.fifo[:, -T:], old.fifo[:, -T:], new.long_term.coeffs
        q = heads(layer["attention"]["query"], inputs)
        keys = (heads(layer["attention"]["key"], x) for x in (window, inputs, cells))
        keys = np.concatenate(list(keys), axis=2).repeat(2, axis=1)
        scores = np.einsum("bhtk,bhsk->bhts", q, keys) / np.sqrt(K)
        later = np.arange(T)[:, None] < np.arange(T)[None]
        scores[:, :, :, T : 2 * T][:, :, later] = -np.inf
        if not new.long_term.writes[0]:
            continue
        empty = np.arange(2 * T) < 2 * T - T * min(2, int(new.long_term.writes[0]))
        scores[:, :, :, 2 * T :][..., empty] = -np.inf
        weights = np.exp(scores)
        mass = (weights / weights.sum(-1, keepdims=True))[..., 2 * T :].sum((1, 2))
        expected = mass / mass.sum(-1, keepdims=True)
        np.testing.assert_allclose(new.long_term.salience, expected, rtol=1e-10, atol=1e-12)
        kept_keys += 1
    assert kept_keys == 3


@pytest.mark.parametrize("sinks", [0, 3])
def test_a_cell_is_no_further_than_its_limit(sinks):
    """The key of a cell is that of a vector at its place, counted from the short-term memory."""
    cell = dataclasses.replace(CELLS, num_basis=2)
    rng, writes = np.random.default_rng(4), jnp.ones(B, int)
    keys = jnp.asarray(rng.normal(size=(2, B, 2, 4)))
    for limit, distances in ((0, [3.5, 1.5]), (2, [2, 1.5]), (1, [1, 1])):
        cfg = dataclasses.replace(LLAMA, long_term=cell, cells_by_age=True, cell_distance=limit)
        layer = LocalAttention(dataclasses.replace(cfg, sinks=sinks), 0)
        key = jax.random.key(0)
        memory = long_term.init(cell, B, 6)._replace(writes=writes)
        found, _ = layer.init_with_output(key, keys, memory, method="aged")
        places = sinks - np.array(distances)
        angles = places[:, None] * LLAMA.rope_theta ** (-np.arange(0, 4, 2) / 4)
        turned = (keys[..., :2] + 1j * keys[..., 2:]) * np.exp(1j * angles)[None, None]
        expected = np.concatenate([turned.real, turned.imag], axis=-1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [{"position": "learned"}, {"long_term": None}, {"sticky": True}, {"functions": "gaussian"}],
)
def test_cells_without_an_age_are_refused(changes):
    memory = {key: changes[key] for key in changes if key in ("sticky", "functions")}
    model = {key: changes[key] for key in changes if key not in memory}
    with pytest.raises(ValueError, match=r"^cells_by_age: found .*, accepted"):
        held = dataclasses.replace(CELLS, **memory)
        dataclasses.replace(LLAMA, **{"long_term": held, "cells_by_age": True, **model})


def test_only_chosen_layers_remember():
    """A memory of the second layer changes what follows it, and nothing before it."""
    cfg = dataclasses.replace(LLAMA, long_term=CELLS, long_term_layers=(1,))
    plain, params = dataclasses.replace(cfg, long_term=None, long_term_layers=()), params_of(cfg)
    assert jax.tree.structure(params) == jax.tree.structure(params_of(plain))
    found, expected = (outputs(cfg, params)[3] for cfg in (cfg, plain))
    first, second = (one.memory.layers[0] for one in (found, expected))
    assert first.long_term is None
    np.testing.assert_array_equal(first.fifo[:, -T:], second.fifo)
    np.testing.assert_array_equal(
        found.memory.layers[1].fifo[:, -T:], expected.memory.layers[1].fifo
    )
    assert np.abs(found.logits - expected.logits).max() > 1e-3


def test_vectors_of_one_size():
    """What is written does not depend on how long a vector is."""
    cfg = dataclasses.replace(LLAMA, long_term=dataclasses.replace(CELLS, unit_writes=True))
    params, rng = params_of(cfg), np.random.default_rng(3)
    vectors = jnp.asarray(rng.normal(size=(2, B, 2 * T, 6)))
    sizes = jnp.asarray(10.0 ** rng.uniform(-1, 2, size=(2, B, 2 * T, 1)))

    def coeffs(vectors):
        fresh = state.init(cfg, B, jnp.float64).layers
        layers = (layer._replace(fifo=x) for layer, x in zip(fresh, vectors, strict=True))
        memory = state.Memory(jnp.full(B, 2 * T), tuple(layers))
        after = call_of(cfg)(params, TOKENS[0], memory).memory
        return [np.asarray(layer.long_term.coeffs) for layer in after.layers]

    expected = coeffs(vectors)
    for found, same in zip(coeffs(vectors * sizes), expected, strict=True):
        np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)
    # Four vectors in four cells: each is one of them, scaled.
    np.testing.assert_allclose((expected[0] ** 2).mean(-1), 1, rtol=1e-5)


def test_a_graft_is_what_the_decoder_makes():
    """Also where every layer has a compressed memory, and one of them a long-term one."""
    memory = LongTermConfig(num_basis=4, widths=(0.2,), num_samples=4, bins=4)
    several = {"compressed": CompressedConfig(2, T), "long_term_layers": (1,)}
    for changes in ({"long_term_layers": (0,)}, several):
        cfg = dataclasses.replace(LLAMA, long_term=memory, **changes)
        found = graft(cfg, params_of(LLAMA), jax.random.key(0))
        expected = jax.tree.map(jnp.shape, params_of(cfg))
        assert jax.tree.map(jnp.shape, found) == expected


def test_lower_layers_may_be_run_before():
    """Two calls, one of the layers below the memory and one of those above, are one."""
    cells = dataclasses.replace(CELLS, turn_queries=True)
    cfg = dataclasses.replace(LLAMA, long_term=cells, long_term_layers=(1,), sinks=2)
    assert (cfg.lower_layers, LLAMA.lower_layers) == (1, 0)
    params, whole = params_of(cfg), outputs(cfg, params_of(cfg))
    below = jit(lambda *given: Decoder(cfg).apply({"params": params}, *given, method="lower"))
    above = jit(lambda *given, **more: Decoder(cfg).apply({"params": params}, *given, **more))
    first = second = state.init(cfg, B, jnp.float64)
    for tokens, expected in zip(TOKENS, whole, strict=True):
        x, first = below(tokens, first)
        found = above(tokens, second, lower=x)
        second = found.memory
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-12)
        # Each call has written the short-term memory of its own layers.
        for layer, call in enumerate((first, second)):
            mine, both = (memory.layers[layer] for memory in (call, expected.memory))
            jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), mine, both)
    fresh = state.init(cfg, B, jnp.float64).layers[0]
    jax.tree.map(np.testing.assert_array_equal, second.layers[0], fresh)
    with pytest.raises(ValueError, match=r"^lower: found .* accepted: .* of 1 layers"):
        Decoder(cfg).apply({"params": params}, TOKENS[0], second, lower=x[..., :4])
