"""Causal attention: a naive form differentiated by JAX, groups of heads, dropout, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.contrib.fused_attention import fused_attention
from inf_former_jax.memory import cpu_cache, state
from inf_former_jax.models import presets
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.models.dropout import row_keys
from inf_former_jax.models.local_attention import layer
from inf_former_jax.models.local_attention.causal import causal_attention
from inf_former_jax.models.local_attention.scores import Heads

# No two sizes alike; 3 chunks of 4, the last one short; 6 memory rows.
HEADS, ROWS, QUERIES, KEYS, WIDTH, CHUNK = 4, 3, 11, 17, 5, 4
FILLED = np.array([0, 2, 6])


def heads(relative, dtype=np.float64, queries=QUERIES, memory=KEYS - QUERIES):
    rng, keys = np.random.default_rng(0), memory + queries
    shapes = [(HEADS, ROWS, rows, WIDTH) for rows in (queries, keys, keys)]
    if relative:
        shapes += [(HEADS, keys + 1, WIDTH), (HEADS, WIDTH), (HEADS, WIDTH)]
    return Heads(*(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes))


def naive(heads, filled, same_length, keep=None):
    """(z, Z) by the formula of the docstring, key by key; JAX differentiates it."""
    q, k, v, r, u, w = heads
    (*_, length, width), total = q.shape, k.shape[2]
    distance = np.arange(total - length, total)[:, None] - np.arange(total)[None]
    scores = jnp.einsum("hbtk,hbsk->hbts", q if u is None else q + u[:, None, None], k)
    if r is not None:
        # Row i of r is distance S - i.
        at = r[:, np.clip(total - distance, 0, total)]  # [H, T, S, K]
        scores += jnp.einsum("hbtk,htsk->hbts", q + w[:, None, None], at)
    seen = (distance >= 0) & ((distance < same_length) if same_length else True)
    mask = seen[None] & (np.arange(total)[None, None] >= (total - length - filled)[:, None, None])
    masked = jnp.where(mask[None], scores / width**0.5, -jnp.inf)
    probs = jax.nn.softmax(masked, axis=-1)
    z = jnp.einsum("hbts,hbsk->hbtk", probs if keep is None else probs * keep, v)
    return z, jax.nn.logsumexp(masked, axis=-1)


def gradients(of, heads):
    """(values, gradient) of a random weighing of all outputs."""
    rng = np.random.default_rng(1)

    def weighed(heads):
        out = of(heads)
        terms = [(leaf * rng.normal(size=leaf.shape)).sum() for leaf in jax.tree.leaves(out)]
        return sum(terms), out

    (_, out), grads = jax.jit(jax.value_and_grad(weighed, has_aux=True))(heads)
    return out, grads


def assert_same(found, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, tolerance), found, expected)


@pytest.mark.parametrize("same_length", [0, 7])
@pytest.mark.parametrize("relative", [True, False])
def test_is_the_formula_and_its_gradient(relative, same_length):
    with jax.enable_x64(True):
        given = heads(relative)
        expected = gradients(lambda h: naive(h, FILLED, same_length), given)
        found = gradients(
            lambda h: causal_attention(h, FILLED, same_length=same_length, chunk=CHUNK), given
        )
        assert_same(found, expected)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found[1]))


def ours(given, rows=None, rate=0.0):
    return gradients(
        lambda h: causal_attention(h, FILLED, chunk=CHUNK, rate=rate, dropout_keys=rows, layer=1),
        given,
    )


def test_groups_of_heads_are_all_heads(monkeypatch):
    with jax.enable_x64(True):
        given, rows = heads(True, queries=6), row_keys(jax.random.key(3), ROWS)
        whole = ours(given, rows, 0.4)
        monkeypatch.setattr(cpu_cache, "CACHE_NUMBERS", 2 * ROWS * CHUNK * given.k.shape[2])
        loops = str(jax.make_jaxpr(lambda h: causal_attention(h, FILLED, chunk=CHUNK))(given))
        assert f"length={HEADS // 2}" in loops
        assert_same(ours(given, rows, 0.4), whole, 1e-14)


def test_dropout_is_of_the_probabilities():
    """Values of 1 show the masks; the gradient is that of the formula with these masks."""
    rate, queries = 0.4, 3
    with jax.enable_x64(True):
        given, rows = heads(True, queries=queries), row_keys(jax.random.key(3), ROWS)
        keys = KEYS - QUERIES + queries
        keep = np.zeros((HEADS, ROWS, queries, keys))
        filled = np.full(ROWS, keys - queries)

        def dropped(given):
            return causal_attention(
                given, filled, chunk=CHUNK, rate=rate, dropout_keys=rows, layer=1
            )

        shown, counts = jax.jit(dropped), keys - queries + 1 + np.arange(queries)
        even = jax.tree.map(jnp.zeros_like, given)  # every key that is seen weighs the same
        for key in range(keys):
            one = even._replace(v=even.v.at[:, :, key].set(1.0))
            keep[..., key] = np.asarray(shown(one)[0][..., 0]) * counts
        seen = np.arange(keys) <= keys - queries + np.arange(queries)[:, None]
        values = np.unique(np.round(keep[:, :, seen], 12))
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], atol=1e-12)
        masks = keep.reshape(HEADS * ROWS, -1)
        assert len(np.unique(masks, axis=0)) == HEADS * ROWS  # nobody shares a mask
        assert abs((masks[:, seen.ravel()] > 0).mean() - (1 - rate)) < 0.1
        assert_same(
            gradients(dropped, given), gradients(lambda h: naive(h, filled, 0, keep), given)
        )


def test_bfloat16_is_near_float32():
    """Products in bfloat16, softmax in float32: 8 bits of the output, 7 of the gradient."""
    narrow = heads(True, jnp.bfloat16, queries=CHUNK)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), narrow)
    found, expected = ours(narrow), ours(wide)
    assert found[0][0].dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(np.asarray(a, np.float32) - b).max() < 3e-2 * np.abs(b).max()


@pytest.mark.parametrize("relative", [False, True], ids=["learned", "relative"])
@pytest.mark.parametrize(("memory", "same_length"), [(6, 0), (6, 7), (0, 0)])
def test_fused_attention_is_the_same(relative, memory, same_length):
    """With a window and without. Softmax is float32's there, whatever the inputs are."""
    given, filled = heads(relative, np.float32, memory=memory), np.minimum(FILLED, memory)
    expected = gradients(lambda h: naive(h, filled, same_length)[0], given)
    found = gradients(lambda h: fused_attention(h, filled, same_length=same_length), given)
    assert_same(found, expected, 1e-5)


def test_a_kernel_that_is_not_there_is_refused():
    """Before anything is compiled, in the words of the option."""
    said = r"^fused_by: found cudnn \(.*\), accepted: xla on this machine$"
    with pytest.raises(ValueError, match=said):
        fused_attention(heads(True, jnp.bfloat16), FILLED, implementation="cudnn")


def test_fused_models_are_the_same_and_others_are_refused(monkeypatch):
    calls, real = [], jax.nn.dot_product_attention

    def counted(q, *rest, **options):
        calls.append(q.shape)
        return real(q, *rest, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", counted)
    sizes = {
        "num_layers": 1,
        "num_heads": 2,
        "head_dim": 4,
        "d_model": 8,
        "d_inner": 8,
        "vocab_size": 12,
        "segment_len": 5,
        "attention_dropout": 0.0,
    }
    for options in ({"dtype": "bfloat16"}, {"fused_attention": True}):
        with pytest.raises(ValueError, match=r"^fused_by: found cudnn without .* accepted: xla"):
            presets.transformer_xl(fused_by="cudnn", **options)
    with pytest.raises(ValueError, match=r"^attention_dropout: found 0.1, accepted: 0 beside"):
        presets.gpt2(fused_attention=True)
    found, params, tokens = [], None, np.arange(10).reshape(2, 5)
    for fused in (False, True):
        cfg = presets.gpt2(**sizes, fused_attention=fused)
        memory, decoder = state.init(cfg, 2), Decoder(cfg)
        calls.clear()
        params = params or jax.jit(decoder.init)(jax.random.key(0), tokens, memory)
        program = jax.jit(decoder.apply)
        found.append(program(params, tokens, memory).logits)
    assert calls == [(2, 5, 2, 4)]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-6)


def test_fused_attention_that_is_not_imported_is_refused(monkeypatch):
    """With the import that adds it."""
    monkeypatch.setattr(layer, "FUSED", {})
    cfg = presets.vanilla(fused_attention=True, num_layers=1, segment_len=4)
    with pytest.raises(
        ValueError, match="fused_attention: found True, accepted: after `import inf"
    ):
        memory = state.init(cfg, 1)
        jax.eval_shape(Decoder(cfg).init, jax.random.key(0), np.zeros((1, 4), int), memory)
