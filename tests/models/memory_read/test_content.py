"""Heads that read by content, in a layer: against a softmax over cells and window by hand.

In float64. The model is a GPT-2 of one layer, since that has biases and a norm before attention.
"""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.memory import long_term, state
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.attention import LongTermAttention
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from tests import pairs
from tests.golden import jit

B, T, H, K, E, V = 2, 4, 2, 3, 6, 9
CELLS = LongTermConfig(
    num_basis=5, functions="rectangular", fit="intervals", density="gibbs", gate=False
)
MODEL = ModelConfig(
    vocab_size=V, num_layers=1, num_heads=H, head_dim=K, d_model=E, d_inner=8,
    segment_len=T, mem_len=T, dropout=0.0, max_position=T, query_chunk=3, long_term=CELLS,
    **pairs.GPT2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def model_with(**changes) -> ModelConfig:
    return dataclasses.replace(MODEL, long_term=dataclasses.replace(CELLS, **changes))


def shapes_of(cfg):
    def init(key):
        given = np.zeros((B, T), int), state.init(cfg, B)
        return Decoder(cfg).init(key, *given, operators=operators(cfg))

    return jax.eval_shape(init, jax.random.key(0))["params"]


def params_of(cfg):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes_of(cfg))


def memory_of(cfg, writes=2, seen=T):
    """Of a document whose short-term memory is full, before the first write is due.

    So what is in the long-term memory stays as it is, whatever it is.
    """
    rng, fresh = np.random.default_rng(1), state.init(cfg, B, jnp.float64)
    filled = jax.tree.map(
        lambda leaf: (
            jnp.asarray(rng.normal(size=leaf.shape))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        fresh,
    )
    (layer,) = filled.layers
    layer = layer._replace(long_term=layer.long_term._replace(writes=jnp.full(B, writes)))
    return state.Memory(jnp.full(B, seen), (layer,))


TOKENS = np.random.default_rng(2).integers(0, V, (B, T))


@cache
def call_of(cfg):
    """The decoder on TOKENS, compiled once."""
    return jit(lambda params, memory: Decoder(cfg).apply({"params": params}, TOKENS, memory).logits)


def logits_of(cfg, params, memory):
    return np.asarray(call_of(cfg)(params, memory))


def norm(x, of):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * np.asarray(of["scale"]) + np.asarray(of["bias"])


def heads_of(x, params, name):
    """Queries, keys or values [B, H, S, K] by a layer's matrix, with its bias if it has one."""
    found = np.einsum("bse,ehk->bhsk", x, params[name])
    bias = params.get(f"{name}_bias")
    return found if bias is None else found + np.asarray(bias)[None, :, None]


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def by_hand(cfg, params, memory):
    """The logits, by one softmax after the other."""
    memory_cfg, (layer,) = cfg.long_term, memory.layers
    params = jax.tree.map(np.asarray, params)
    block = params["block_0"]
    own, read = block["attention"], block.get("long_term", {}).get("read", {})
    x = params["embed"]["embedding"][TOKENS] + params["positions"][None, :T]
    inputs, window = norm(x, block["norm_attention"]), np.asarray(layer.fifo[:, -T:])
    seen = np.concatenate([norm(window, block["norm_attention"]), inputs], axis=1)
    q = heads_of(inputs, own, "query")
    scores = np.einsum("bhtk,bhsk->bhts", q, heads_of(seen, own, "key")) / K**0.5
    future = np.arange(2 * T)[None] > np.arange(T)[:, None] + T
    scores = np.where(future[None, None], -np.inf, scores)
    values = heads_of(seen, own, "value")

    signal = np.asarray(layer.long_term.coeffs)
    if memory_cfg.functions == "gaussian":
        middles = (np.arange(memory_cfg.content_cells) + 0.5) / memory_cfg.content_cells
        signal = np.einsum("rn,bne->bre", memory_cfg.basis.evaluate(middles), signal)
    if memory_cfg.unit_cells:
        signal = signal / np.sqrt((signal**2).mean(-1, keepdims=True) + 1e-8)
    if memory_cfg.projections == "attention":
        signal, kernels = norm(signal, block["norm_attention"]), own
    else:
        kernels = read
    cells, held = heads_of(signal, kernels, "key"), heads_of(signal, kernels, "value")
    q = np.einsum("bhtk,hkl->bhtl", q, read["turn"]) if "turn" in read else q
    theta = memory_cfg.temperature * np.exp(read.get("log_temperature", np.zeros(H)))
    by_cell = np.einsum("bhtk,bhrk->bhtr", q, cells) / (K**0.5 * theta[None, :, None, None])
    age = read.get("age")
    if age is not None and age.ndim == 1:
        count = memory_cfg.content_cells
        age = np.outer(age, (np.arange(count) + 0.5) / count - 1)
    by_cell = by_cell if age is None else by_cell + age[None, :, None]

    if memory_cfg.joined:
        both = softmax(np.concatenate([by_cell, scores], axis=-1))
        z = np.einsum("bhts,bhsk->bhtk", both, np.concatenate([held, values], axis=2))
        attended = np.einsum("bhtk,hke->bte", z, own["out"])
    else:
        z = np.einsum("bhts,bhsk->bhtk", softmax(scores), values)
        attended = np.einsum("bhtk,hke->bte", z, own["out"])
        z = np.einsum("bhtr,bhrk->bhtk", softmax(by_cell), held)
        out = own["out"] if memory_cfg.projections == "attention" else read["out"]
        attended += np.einsum("bhtk,hke->bte", z, out)
    x = x + attended + own["out_bias"]
    hidden = norm(x, block["norm_feed_forward"]) @ block["inner"]["kernel"] + block["inner"]["bias"]
    hidden = np.asarray(jax.nn.gelu(jnp.asarray(hidden)))
    x = x + hidden @ block["outer"]["kernel"] + block["outer"]["bias"]
    return norm(x, params["norm_final"]) @ params["embed"]["embedding"].T


LEARNED = {"turn_queries": True, "learn_temperature": True, "temperature": 0.7}
GAUSSIAN = {"functions": "gaussian", "widths": (0.2,), "cells": 7}
READS = {
    "own matrices": {},
    "all that is learned": {**LEARNED, "age_bias": "cells"},
    "a slope, on Gaussians": {**GAUSSIAN, "age_bias": "linear"},
    "the layer's matrices": {"projections": "attention", "temperature": 2.0},
    "joined": {"joined": True, **LEARNED, "age_bias": "linear", "unit_cells": True},
    "joined, on Gaussians, the layer's matrices": {
        **GAUSSIAN, "joined": True, "projections": "attention", "age_bias": "cells",
    },
}  # fmt: skip
#: Each option is in one of these; the others are slow.
QUICK = ("all that is learned", "joined", "joined, on Gaussians, the layer's matrices")


@pytest.mark.parametrize(
    "read", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in READS]
)
def test_a_layer_is_the_softmax_by_hand(read):
    cfg = model_with(**READS[read])
    params, memory = params_of(cfg), memory_of(cfg)
    found = logits_of(cfg, params, memory)
    np.testing.assert_allclose(found, by_hand(cfg, params, memory), atol=1e-10, rtol=1e-10)
    without = logits_of(cfg, params, memory_of(cfg, writes=0))
    assert np.abs(found - without).max() > 1e-2


@pytest.mark.parametrize(
    "read",
    [
        pytest.param("own matrices", marks=pytest.mark.slow),
        pytest.param("the layer's matrices", marks=pytest.mark.slow),
        "joined",
    ],
)
def test_an_empty_memory_changes_nothing(read):
    """To the bit, and so are the gradients of all that is there without it."""
    cfg = model_with(**READS[read])
    plain = dataclasses.replace(cfg, long_term=None)
    params, memory = params_of(cfg), memory_of(cfg, writes=0)
    fifo = memory.layers[0].fifo[:, -T:]
    alone = state.Memory(memory.seen, (state.LayerMemory(fifo),))

    def take(cfg, memory):
        def objective(params):
            logits = Decoder(cfg).apply({"params": params}, TOKENS, memory).logits
            return (logits * np.sin(np.arange(logits.size)).reshape(logits.shape)).sum(), logits

        return jit(jax.grad(objective, has_aux=True))

    grads, logits = take(cfg, memory)(params)
    kept = {name: leaf for name, leaf in params["block_0"].items() if name != "long_term"}
    expected, plain_logits = take(plain, alone)({**params, "block_0": kept})
    np.testing.assert_array_equal(logits, plain_logits)
    grads["block_0"].pop("long_term", None)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=1e-10)


def test_only_what_is_asked_for_is_created():
    blocks = {read: shapes_of(model_with(**READS[read]))["block_0"] for read in READS}
    created = {
        read: set(block.get("long_term", {}).get("read", {})) for read, block in blocks.items()
    }
    learned = {"turn", "age", "log_temperature"}
    assert created == {
        "own matrices": {"key", "value", "out"},
        "all that is learned": {"key", "value", "out", *learned},
        "a slope, on Gaussians": {"key", "value", "out", "age"},
        "the layer's matrices": set(),
        "joined": {"key", "value", *learned},
        "joined, on Gaussians, the layer's matrices": {"age"},
    }
    mixed = shapes_of(model_with(density="gaussian", content_heads=1, **LEARNED, age_bias="cells"))
    read = {name: leaf.shape for name, leaf in mixed["block_0"]["long_term"]["read"].items()}
    assert {name: read.pop(name) for name in ("turn", "age", "log_temperature")} == {
        "turn": (1, K, K),
        "age": (1, 5),
        "log_temperature": (1,),
    }
    assert set(read) == {"key", "value", "out", "mu", "sigma"}


def test_a_head_of_a_mixed_layer_reads_as_it_would_alone():
    """The first by content, the other at a place: each as in a layer where all heads do so."""
    kinds = {
        name: dataclasses.replace(CELLS, density=density, content_heads=count)
        for name, density, count in (
            ("mixed", "gaussian", 1),
            ("content", "gibbs", 0),
            ("located", "gaussian", 0),
        )
    }
    rng, found, densities = np.random.default_rng(3), {}, {}
    memory = memory_of(MODEL).layers[0].long_term
    q = jnp.asarray(rng.normal(size=(B, H, T, K)))
    init = LongTermAttention(kinds["mixed"]).init(jax.random.key(0), q, memory)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), init["params"])
    for name, cfg in kinds.items():
        needed = params["read"] if name != "content" else {
            key: params["read"][key] for key in ("key", "value", "out")
        }  # fmt: skip
        run = jit(lambda read, cfg=cfg: LongTermAttention(cfg).apply(read, q, memory))
        for head in range(H):  # only this one's W_O
            only = np.arange(H)[:, None, None] == head
            read = {**needed, "out": needed["out"] * only}
            context, _, info = run({"params": {"read": read}})
            found[name, head], densities[name] = context, info
    np.testing.assert_allclose(found["mixed", 0], found["content", 0], rtol=1e-12)
    np.testing.assert_allclose(found["mixed", 1], found["located", 1], rtol=1e-12)
    assert np.abs(found["content", 1] - found["located", 1]).max() > 1e-2
    np.testing.assert_array_equal(densities["mixed"]["kl"][:, 0], 0)
    np.testing.assert_allclose(densities["mixed"]["kl"][:, 1], densities["located"]["kl"][:, 1])
    assert not np.any(densities["content"]["kl"])


@pytest.mark.parametrize("read", ["own matrices", "joined"])
def test_no_query_sees_what_is_behind_it(read):
    """By gradient: later tokens do not matter, the memory and the window do."""
    cfg = model_with(**READS[read])
    params, memory = params_of(cfg), memory_of(cfg)

    def first_logits(positions):
        given = {"params": {**params, "positions": positions}}
        return Decoder(cfg).apply(given, TOKENS, memory).logits[:, 1].sum()

    by_position = np.asarray(jit(jax.grad(first_logits))(params["positions"]))
    assert not by_position[2:].any() and by_position[:2].all()


def test_a_layer_is_needed_where_its_matrices_are():
    cfg = dataclasses.replace(CELLS, projections="attention")
    memory, q = long_term.init(cfg, B, E), np.zeros((B, H, T, K), np.float32)
    expected = "^layer: found none with projections = attention, accepted: the layer's own"
    with pytest.raises(ValueError, match=expected):
        LongTermAttention(cfg).init(jax.random.key(0), q, memory)
    cfg = dataclasses.replace(CELLS, joined=True)
    with pytest.raises(ValueError, match=r"^joined: found True, accepted: False; a block joins"):
        LongTermAttention(cfg).init(jax.random.key(0), q, memory)


@pytest.mark.parametrize("count", [H, H + 1])
def test_some_heads_of_a_mixed_layer_are_not_by_content(count):
    cfg = dataclasses.replace(CELLS, density="gaussian", content_heads=count)
    memory, q = long_term.init(cfg, B, E), np.zeros((B, H, T, K), np.float32)
    with pytest.raises(ValueError, match=rf"^content_heads: found {count}, accepted: fewer than"):
        LongTermAttention(cfg).init(jax.random.key(0), q, memory)
