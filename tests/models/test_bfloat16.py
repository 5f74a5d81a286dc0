"""bfloat16 by option: what is computed in it, what is not, and how far it is from float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from inf_former_jax.memory import state
from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators

MEMORY = LongTermConfig(num_basis=8, widths=(0.1, 0.3), num_samples=8, bins=8)
BASE = ModelConfig(
    vocab_size=12,
    num_layers=2,
    num_heads=4,
    head_dim=4,
    d_model=16,
    d_inner=16,
    segment_len=8,
    mem_len=8,
    dropout=0.0,
    long_term=dataclasses.replace(MEMORY, sticky=True),
)
GPT2 = dataclasses.replace(
    BASE,
    mem_len=0,
    norm="pre",
    final_norm=True,
    position="learned",
    max_position=8,
    activation="gelu",
    attention_bias=True,
    tied=True,
    long_term=MEMORY,
)
#: A memory of cells, read by content: by matrices of its own, or by those of the layer.
CONTENT = dataclasses.replace(
    GPT2,
    long_term=LongTermConfig(
        num_basis=8, functions="rectangular", fit="intervals", density="gibbs", bins=8
    ),
)
TRAINING_FREE, JOINED = (
    dataclasses.replace(CONTENT, long_term=dataclasses.replace(CONTENT.long_term, **changes))
    for changes in ({"projections": "attention", "gate": False}, {"joined": True})
)
LLAMA = dataclasses.replace(
    TRAINING_FREE,
    num_kv_heads=2,
    norm_kind="rms",
    position="rotary",
    activation="swiglu",
    attention_bias=False,
    mem_len=8,
)
COMPRESSIVE = dataclasses.replace(BASE, long_term=None, compressed=CompressedConfig(length=4))


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(BASE, id="post", marks=pytest.mark.slow),
        pytest.param(GPT2, id="gpt2"),
        pytest.param(COMPRESSIVE, id="compressive", marks=pytest.mark.slow),
        pytest.param(CONTENT, id="content", marks=pytest.mark.slow),
        pytest.param(TRAINING_FREE, id="training-free"),
        pytest.param(JOINED, id="joined", marks=pytest.mark.slow),
        pytest.param(LLAMA, id="llama", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_is_close_and_the_memory_stays_float32(cfg):
    """Four segments; bfloat16 has 8 bits: 2⁻⁸ = .4 % a product, some of them one after another."""
    tokens = np.random.default_rng(0).integers(0, 12, (4, 2, 8)).astype(np.int32)
    ops, fresh = jax.device_put(operators(cfg)), state.init(cfg, 2)
    params = jax.jit(Decoder(cfg).init)(jax.random.key(0), tokens[0], fresh, operators=ops)
    # Embeddings of size 1, so that layers matter.
    params = jax.tree.map(lambda leaf: leaf * (50 if 0 < leaf.std() < 0.05 else 1), params)
    half = dataclasses.replace(cfg, dtype="bfloat16")
    outs = {}
    for of in (cfg, half):
        run, memory = jax.jit(Decoder(of).apply), fresh
        logits = []
        for segment in tokens:
            out = run(params, segment, memory, operators=ops)
            memory = out.memory
            logits.append(out.logits)
        outs[of.dtype] = np.stack(logits), memory
    exact, rounded = (outs[name][0] for name in ("float32", "bfloat16"))
    # Summed in float32: logits are no multiples of bfloat16's steps.
    assert rounded.dtype == np.float32
    assert (rounded != rounded.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.5
    error = np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 2e-2, error
    for leaf, other in zip(*(jax.tree.leaves(outs[n][1]) for n in outs), strict=True):
        assert leaf.dtype == other.dtype and leaf.dtype in (np.float32, np.int32)
        np.testing.assert_allclose(leaf, other, atol=8e-2 * np.abs(leaf).max())


@pytest.mark.parametrize(
    "cfg",
    [GPT2, CONTENT, TRAINING_FREE, JOINED, LLAMA],
    ids=["gpt2", "content", "training-free", "joined", "llama"],
)
def test_products_are_bfloat16(cfg):
    """All large products but the long-term memory's: what the option is for."""
    cfg = dataclasses.replace(cfg, dtype="bfloat16")
    ops, memory = operators(cfg), state.init(cfg, 2)
    tokens = np.zeros((2, 8), np.int32)
    params = jax.eval_shape(Decoder(cfg).init, jax.random.key(0), tokens, memory, operators=ops)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    shapes = jax.make_jaxpr(Decoder(cfg).apply)(params, tokens, memory, operators=ops)
    # q, k, v, scores, values, out, 2 × FF; a third of FF, and k and v of a window
    each = 8 + (cfg.activation == "swiglu") + 2 * (cfg.mem_len > 0)
    assert products(shapes.jaxpr, "bfloat16") == 2 * each + 1


def products(jaxpr, dtype):
    """Matrix products of operands of this dtype, in all that is called."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            count += all(str(v.aval.dtype) == dtype for v in equation.invars)
        for inner in jax.tree.leaves(equation.params):
            if isinstance(inner, (core.Jaxpr, core.ClosedJaxpr)):
                count += products(getattr(inner, "jaxpr", inner), dtype)
    return count


def test_another_precision_is_refused():
    with pytest.raises(Exception, match="dtype"):
        dataclasses.replace(BASE, dtype="float16")
