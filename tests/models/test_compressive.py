"""The Compressive Transformer: what is compressed when, and what trains what (SPEC §5b)."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import compressed, state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder, ModelConfig
from inf_former_jax.models.layer_memory.compressed import Compression
from tests.golden import jit, relative_error

B, T, C = 2, 8, 4
CFG = ModelConfig(
    vocab_size=11,
    num_layers=2,
    num_heads=2,
    head_dim=4,
    d_model=8,
    d_inner=12,
    segment_len=T,
    mem_len=T,
    dropout=0.0,
    compressed=CompressedConfig(rate=4, length=C),
)


def tokens(seed):
    return np.random.default_rng(seed).integers(0, 11, size=(B, T))


def random_params(cfg):
    shapes = jax.eval_shape(Decoder(cfg).init, jax.random.key(0), tokens(0), state.init(cfg, B))[
        "params"
    ]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5, leaf.dtype),
        shapes,
    )


def forward(cfg, params, tokens, memory):
    return Decoder(cfg).apply({"params": params}, tokens, memory)


@cache
def call_of(cfg):
    """`forward`, compiled once."""
    return jit(partial(forward, cfg))


def stream(cfg, params, seeds, memory=None):
    call, memory, outputs = call_of(cfg), memory or state.init(cfg, B), []
    for seed in seeds:
        outputs.append(call(params, tokens(seed), memory))
        memory = outputs[-1].memory
    return outputs


@pytest.fixture(scope="module")
def compressive():
    """Parameters, and outputs of five segments."""
    params = random_params(CFG)
    return params, stream(CFG, params, range(5))


def test_convolution_is_the_loop():
    """Kernel = stride = c, all channels mixed, no flip: vector i sees c·i … c·i + c - 1."""
    x = np.random.default_rng(0).normal(size=(B, T, 3)).astype(np.float32)
    module = Compression(CompressedConfig(rate=4))
    params = module.init(jax.random.key(0), x)["params"]
    params["bias"] += 0.5
    actual = module.apply({"params": params}, x)
    kernel = np.asarray(params["kernel"])
    for i in range(T // 4):
        expected = sum(x[:, 4 * i + j] @ kernel[j] for j in range(4)) + 0.5
        np.testing.assert_allclose(actual[:, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ["mean", "max"])
def test_pooling_by_hand(function):
    """Two groups of two."""
    x = np.array([[[1.0], [3.0], [-2.0], [-6.0]]], np.float32)
    expected = {"mean": [[[2.0], [-4.0]]], "max": [[[3.0], [-2.0]]]}[function]
    np.testing.assert_array_equal(compressed.pool(x, 2, function), expected)
    module = Compression(CompressedConfig(rate=2, function=function))
    assert not jax.tree.leaves(module.init(jax.random.key(0), x)), "pooling has no parameters"


def test_every_input_is_compressed_once_and_in_order():
    """Means of the embeddings, by hand: after segment s the slots hold segments … s-1-m."""
    cfg = dataclasses.replace(CFG, num_layers=1, compressed=CompressedConfig(4, C, "mean"))
    params = random_params(cfg)
    outputs = stream(cfg, params, range(5))
    embedded = [np.asarray(params["embed"]["embedding"])[tokens(s)] * 8**0.5 for s in range(5)]
    for s, out in enumerate(outputs):
        slots = [x.reshape(B, 2, 4, 8).mean(2) for x in embedded[: max(0, s - 1)]]
        expected = np.concatenate([np.zeros((B, C, 8)), *slots], axis=1)[:, -C:]
        np.testing.assert_allclose(out.memory.layers[0].compressed, expected, atol=1e-6)


def test_filled_slots():
    """Hand-written table: short-term rows first, then 2 slots a segment, at most 4."""
    seen = np.array([0, 8, 16, 24, 32, 40], np.int32)
    np.testing.assert_array_equal(state.num_filled(CFG, seen), [0, 8, 8 + 2, 12, 12, 12])


def test_empty_slots_are_transformer_xl(compressive):
    """Before anything is compressed the logits are those of the same decoder without it."""
    params, outputs = compressive
    plain = dataclasses.replace(CFG, compressed=None)
    of_plain = dict(params)
    for name in ("block_0", "block_1"):
        of_plain[name] = {k: v for k, v in params[name].items() if k != "compression"}
    theirs = stream(plain, of_plain, range(3))
    for s in range(2):
        np.testing.assert_allclose(outputs[s].logits, theirs[s].logits, rtol=1e-5, atol=1e-6)
    assert relative_error(outputs[2].logits, theirs[2].logits) > 1e-3


def test_a_compressed_slot_is_one_relative_position():
    """One layer, c = 1 and an identity f_c: the compressed memory is a longer short-term one."""
    cfg = dataclasses.replace(
        CFG, num_layers=1, compressed=CompressedConfig(rate=1, length=T, function="mean")
    )
    longer = dataclasses.replace(cfg, compressed=None, mem_len=2 * T)
    params = random_params(cfg)
    ours, theirs = stream(cfg, params, range(4)), stream(longer, params, range(4))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("norm", ["post", pytest.param("pre", marks=pytest.mark.slow)])
def test_who_trains_whom(norm):
    """The reconstruction loss trains f_c and nothing else; the task loss all but f_c."""
    cfg = dataclasses.replace(CFG, norm=norm)
    params = random_params(cfg)
    memory = stream(cfg, params, range(3))[-1].memory

    def losses(params):
        out = forward(cfg, params, tokens(7), memory)
        return (out.logits**2).mean(), out.aux["reconstruction"][0]

    task, reconstruction = jit(jax.jacrev(losses))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(reconstruction):
        of_compression = "compression" in jax.tree_util.keystr(path)
        assert bool((leaf != 0).any()) == of_compression, path
    for path, leaf in jax.tree_util.tree_leaves_with_path(task):
        of_compression = "compression" in jax.tree_util.keystr(path)
        assert bool((leaf != 0).any()) != of_compression, path


def test_reconstruction_is_the_formula():
    """‖softmax(qkᵀ/√K)v - softmax(qk'ᵀ/√K)v'‖², naive, a query at a time; 0 for equal vectors."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, B, n, 4)) for n in (3, 6, 6))
    k2, v2 = rng.normal(size=(2, B, 2, 4)), rng.normal(size=(2, B, 2, 4))

    def attend(q, k, v):
        p = np.exp(k @ q / 2.0)
        return (p / p.sum()) @ v

    actual = compressed.reconstruction(*map(jnp.asarray, (q,)), (k, v), (k2, v2))
    for b in range(B):
        for t in range(3):
            expected = sum(
                (
                    (attend(q[h, b, t], k[h, b], v[h, b]) - attend(q[h, b, t], k2[h, b], v2[h, b]))
                    ** 2
                ).sum()
                for h in range(2)
            )
            assert float(actual[b, t]) == pytest.approx(expected, rel=1e-5)
    assert float(abs(compressed.reconstruction(jnp.asarray(q), (k, v), (k, v))).max()) == 0


def test_a_reset_row_is_a_fresh_row(compressive):
    """To the bit, in outputs and memory."""
    params, outputs = compressive
    reset = state.reset(outputs[-1].memory, np.array([False, True]))
    again, fresh = stream(CFG, params, range(4), reset), stream(CFG, params, range(4))
    for a, b in zip(again, fresh, strict=True):
        np.testing.assert_array_equal(a.logits[1], b.logits[1])
    assert (np.asarray(again[0].logits[0]) != np.asarray(fresh[0].logits[0])).any()


def test_emptied_memory_sees_one_segment(compressive):
    """The control: two slots are filled, whatever was before, and older ones do not matter."""
    params, outputs = compressive
    emptied = state.empty_long_term(CFG, outputs[-1].memory)
    np.testing.assert_array_equal(state.num_filled(CFG, emptied.seen), [T + 2, T + 2])
    call = call_of(CFG)
    short = stream(CFG, params, [3, 4])[-1].memory  # the last two segments alone fill the FIFO
    a = call(params, tokens(9), emptied).logits
    assert relative_error(a, call(params, tokens(9), outputs[-1].memory).logits) > 1e-4
    layer = emptied.layers[0]
    np.testing.assert_array_equal(layer.compressed, np.zeros_like(layer.compressed))
    np.testing.assert_allclose(layer.fifo, short.layers[0].fifo, rtol=1e-5)


@pytest.mark.parametrize(
    "change, name",
    [
        ({"rate": 3}, "compressed.rate"),
        ({"length": 3}, "compressed.length"),
        ({"rate": 0}, "rate"),
        ({"length": 0}, "length"),
    ],
)
def test_impossible_configurations_are_refused(change, name):
    """A rate that does not divide the segment, by name, with what is accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: "):
        dataclasses.replace(CFG, compressed=dataclasses.replace(CFG.compressed, **change))


def test_short_term_memory_must_be_whole_segments():
    """As beside a long-term memory: rows would get lost."""
    with pytest.raises(ValueError, match=r"mem_len: found 5, accepted: .* beside a compressed"):
        dataclasses.replace(CFG, mem_len=5)


def test_the_preset_is_the_papers():
    """SPEC §5: 1,024 short-term and 1,024 compressed vectors at rate 4."""
    cfg = presets.compressive()
    assert (cfg.mem_len, cfg.compressed.length, cfg.compressed.rate) == (1024, 1024, 4)
    assert cfg.compressed.function == "convolution" and cfg.long_term is None
